"""Predictions beside the truth, for the three tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from PIL import Image

from dyvision.visualize import denormalize, draw_boxes, draw_label, draw_legend, fit, grid, overlay_mask, save

_CELL = 256


def draw_predictions(model: LightningModule, data: LightningDataModule, path: Path, count: int = 8) -> Path:
    """Draw the first validation images twice: left the truth, right the prediction.

    Args:
        model: A trained task.
        data: Its data module.
        path: Picture to write.
        count: Number of images.

    Returns:
        ``path``.
    """
    data.setup("validate")
    model.eval()
    draw = {"classification": _classification, "segmentation": _segmentation, "detection": _detection}[str(model.task)]
    cells: list[Image.Image] = []
    batches: list[dict[str, Any]] = []
    for batch in data.val_dataloader():
        batches.append(batch)
        cells += draw(model, data, batch)
        if len(cells) >= 2 * count:
            break
    save(grid(cells[: 2 * count], columns=4, footer=_legend(data, batches)), path)
    return path


def _legend(data: Any, batches: list[dict[str, Any]]) -> Image.Image | None:
    """The classes of the truth, where a colour is all that tells them."""
    masks = [batch["mask"] for batch in batches if "mask" in batch]
    if not masks:
        return None
    names, colors = data.class_names, data.class_colors
    present = sorted({int(index) for mask in masks for index in mask.unique() if 0 <= index < len(names)})
    return draw_legend([names[index] for index in present], [colors[index] for index in present], 4 * _CELL)


def _image(data: Any, image: torch.Tensor) -> Image.Image:
    mean, std = (getattr(data, name, default) for name, default in (("mean", (0.0,) * 3), ("std", (1.0,) * 3)))
    return Image.fromarray(denormalize(image, mean, std))


@torch.no_grad()
def _classification(model: Any, data: Any, batch: dict[str, Any]) -> list[Image.Image]:
    labels = model(batch["image"]).argmax(1).tolist()
    cells = []
    for image, truth, found in zip(batch["image"], batch["label"].tolist(), labels, strict=True):
        picture = fit(_image(data, image), _CELL, _CELL)
        cells.append(draw_label(picture, data.class_names[truth]))
        cells.append(draw_label(picture, data.class_names[found], (40, 150, 60) if truth == found else (200, 40, 40)))
    return cells


@torch.no_grad()
def _segmentation(model: Any, data: Any, batch: dict[str, Any]) -> list[Image.Image]:
    found = model(batch["image"]).argmax(1)
    cells = []
    sizes = zip(batch["size"], batch.get("mask_size", batch["size"]), strict=True)
    for image, truth, labels, (seen, stored) in zip(batch["image"], batch["mask"], found, sizes, strict=True):
        height, width = seen
        picture = _image(data, image[:, :height, :width])
        for mask in (truth[: stored[0], : stored[1]], labels[:height, :width]):
            shown = picture.resize((mask.shape[1], mask.shape[0]))
            cells.append(fit(overlay_mask(shown, mask.numpy(), data.class_colors), _CELL, _CELL))
    return cells


@torch.no_grad()
def _detection(model: Any, data: Any, batch: dict[str, Any]) -> list[Image.Image]:
    sizes = [image.shape[-2:] for image in batch["image"]]
    found = model.predict_step({**batch, "image_id": [0] * len(sizes), "original_size": sizes}, 0)["predictions"]
    cells = []
    for image, truth, prediction in zip(batch["image"], batch["target"], found, strict=True):
        picture = fit(_image(_RAW, image), _CELL, _CELL)
        scale = picture.width / image.shape[-1]
        kept = prediction["scores"] > 0.3
        for one, scores in (
            (truth, None),
            ({k: v[kept] for k, v in prediction.items()}, prediction["scores"][kept].tolist()),
        ):
            classes = [label - 1 for label in one["labels"].tolist()]
            names = [data.class_names[index] for index in classes]
            colors = [data.class_colors[index] for index in classes]
            cells.append(draw_boxes(picture, (one["boxes"] * scale).numpy(), names, colors, scores))
    return cells


#: detectors normalise themselves: their images are in 0..1
_RAW = object()
