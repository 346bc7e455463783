"""Predictions beside the truth: pictures in TensorBoard while a run goes on, and as a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from dyvision.tasks.callbacks.classes import shown_classes
from dyvision.visualize import draw_label, draw_objects, fit, grid, legend_of, overlay_mask, read_rgb, save
from dyvision.visualize.colors import RIGHT, WRONG

#: reads a picture by its path: uint8 ``[H, W, 3]``
Reader = Callable[[str], np.ndarray]

_WIDTH = 320
#: the highest scores come first
_MOST_BOXES = 20


class PredictionPictures(Callback):
    """Adds ``val/predictions`` to TensorBoard after each validation of a run: left the truth, right the prediction.

    The images are the first ones of the validation set, so that one sees the same ones get better. Without a
    TensorBoard logger nothing is drawn.

    Args:
        count: Images.
        score_threshold: Boxes with a lower score are not drawn.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, count: int = 8, score_threshold: float = 0.5) -> None:
        super().__init__()
        if count < 1 or not 0 <= score_threshold <= 1:
            raise ValueError(f"count={count!r}, score_threshold={score_threshold!r}: expected at least 1, and 0 to 1")
        self.count = count
        self.score_threshold = score_threshold

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the first batch, in the first process."""
        if batch_idx or trainer.sanity_checking or trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not boards or not isinstance(batch, Mapping) or "path" not in batch:
            return
        # as training reads them: 16 bits, turned upright, or neither
        read = getattr(getattr(trainer, "datamodule", None), "reader", None)
        sheet = self.draw(pl_module, batch, read)
        for board in boards:
            board.experiment.add_image("val/predictions", np.asarray(sheet), trainer.global_step, dataformats="HWC")

    def draw(self, module: Any, batch: Mapping[str, Any], read: Reader | None = None) -> Image.Image:
        """Pairs of truth and prediction for the first images of a validation batch.

        Args:
            module: The task.
            batch: A batch of its data.
            read: Reads a picture by its path, uint8 ``[H, W, 3]``.
        """
        return self.sheet(module, [batch], read)

    @torch.no_grad()
    def sheet(self, module: Any, batches: Iterable[Mapping[str, Any]], read: Reader | None = None) -> Image.Image:
        """:meth:`draw` for as many batches as have that many images."""
        hparams = dict(module.hparams)
        first_id = 1 if getattr(module, "task", "") == "detection" else 0
        _, names, colors = shown_classes(hparams, hparams["num_classes"], first_id)
        draw = {"probabilities": self._classes, "label_maps": self._labels, "predictions": self._boxes}
        tiles: list[Image.Image] = []
        maps: list[torch.Tensor] = []
        for batch in batches:
            first = {key: value[: self.count - len(tiles)] for key, value in batch.items()}
            if "target" in first:
                first |= {key: [target[key] for target in first["target"]] for key in ("original_size", "image_id")}
            found = module.predict_step(first, 0)
            kind = next(key for key in draw if key in found)
            for path, truth, prediction in draw[kind](first, found, names, colors, read or read_rgb):
                tiles.append(draw_label(grid([truth, prediction], columns=2, gap=2), path.rpartition("/")[2]))
            if "label_maps" in found:
                maps += [*first["mask"], *found["label_maps"]]
            if len(tiles) >= self.count:
                break
        return grid(tiles, columns=2, footer=legend_of(maps, names, colors, 2 * min(2, len(tiles)) * _WIDTH))

    @staticmethod
    def _classes(
        batch: Mapping[str, Any], found: Mapping[str, Any], names: Sequence[str], colors: Any, read: Reader
    ) -> Any:
        labels = dict(zip(batch["path"], batch["label"].tolist(), strict=True))
        for path, row in zip(found["path"], found["probabilities"], strict=True):
            picture, best, label = _shown(read, path), int(row.argmax()), labels[path]
            text = f"{names[best]} {float(row[best]):.2f}"
            bottom = (0.0, float(picture.height))
            yield (
                path,
                draw_label(picture, names[label], position=bottom),
                draw_label(picture, text, RIGHT if best == label else WRONG, bottom),
            )

    @staticmethod
    def _labels(
        batch: Mapping[str, Any], found: Mapping[str, Any], names: Sequence[str], colors: Any, read: Reader
    ) -> Any:
        masks = dict(zip(batch["path"], batch["mask"], strict=True))
        stored = batch.get("mask_size", batch.get("size"))
        sizes = None if stored is None else dict(zip(batch["path"], stored, strict=True))
        for path, label_map in zip(found["path"], found["label_maps"], strict=True):
            picture = _shown(read, path)
            mask = masks[path]
            if sizes is not None:  # without what padding to the size of the batch added
                height, width = sizes[path]
                mask = mask[:height, :width]
            yield (
                path,
                overlay_mask(picture, _resized(mask, picture), colors),
                overlay_mask(picture, _resized(label_map, picture), colors, ignore_index=-1),
            )

    def _boxes(
        self, batch: Mapping[str, Any], found: Mapping[str, Any], names: Sequence[str], colors: Any, read: Reader
    ) -> Any:
        for path, target, image, result in zip(
            batch["path"], batch["target"], batch["image"], found["predictions"], strict=True
        ):
            picture = _shown(read, path)
            # an evaluation pipeline may change the proportions
            labelled = {key: target[key] for key in ("boxes", "labels")}
            truth = draw_objects(picture, labelled, names, colors, image.shape[-2:])
            shown = (result["scores"] >= self.score_threshold).nonzero()[:_MOST_BOXES, 0]
            chosen = {key: result[key][shown] for key in ("boxes", "labels", "scores")}
            size = [int(side) for side in target["original_size"]]
            yield path, truth, draw_objects(picture, chosen, names, colors, size)


def _shown(read: Reader, path: str) -> Image.Image:
    return fit(read(path), _WIDTH, _WIDTH)


def _resized(index: torch.Tensor, picture: Image.Image) -> np.ndarray:
    image = Image.fromarray(index.cpu().numpy().astype(np.uint8))
    return np.asarray(image.resize(picture.size, Image.Resampling.NEAREST))


def draw_predictions(
    module: L.LightningModule, data: L.LightningDataModule, path: Path, count: int = 8, score_threshold: float = 0.3
) -> Path:
    """Write pairs of truth and prediction for the first validation images.

    Args:
        module: A trained task.
        data: Its data module.
        path: Picture to write.
        count: Number of images.
        score_threshold: Boxes with a lower score are not drawn.

    Returns:
        ``path``.
    """
    data.setup("validate")
    sheet = PredictionPictures(count, score_threshold).sheet(
        module.eval(), data.val_dataloader(), getattr(data, "reader", None)
    )
    return save(sheet, path)
