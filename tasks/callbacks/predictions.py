"""``predict`` as files: a CSV of classes, label maps and overlays, or boxes and COCO results."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, distributed

from dyvision.text import csv_cell
from dyvision.visualize import draw_boxes, overlay_mask, palette

_IMAGES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


class PredictionWriter(Callback):
    """Writes what ``trainer.predict`` returns, one image at a time.

    * Classification: ``predictions.csv`` with ``path,class,probability`` and the following ranks.
    * Segmentation: ``labels/<name>.png`` with the data set's own class numbers (``class_ids``; Cityscapes' server reads
      these), and ``overlays/<name>.png``.
    * Detection: ``boxes/<name>.png``; ``detections_bbox.json``, for masks also ``detections_segm.json``, in COCO's
      results format.

    ``<name>`` is the path below the folder of the images, so that equal names in different folders stay apart.

    Args:
        output: Folder; made if it does not exist.
        top_k: Classes per image in the CSV, at most as many as there are.
        score_threshold: Boxes with a lower score are not drawn (the results file has them).
        draw: Whether to write overlays and drawn boxes.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, output: str | Path, top_k: int = 5, score_threshold: float = 0.5, draw: bool = True) -> None:
        super().__init__()
        if top_k < 1 or not 0 <= score_threshold <= 1:
            raise ValueError(f"top_k={top_k!r}, score_threshold={score_threshold!r}: expected at least 1, and 0 to 1")
        self.output = Path(output)
        self.top_k = top_k
        self.score_threshold = score_threshold
        self.draw = draw
        self._rows: list[list[Any]] = []
        self._detections: dict[str, list[dict[str, Any]]] = {}
        self._task: str | None = None

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget earlier predictions."""
        self._rows, self._detections, self._task = [], {}, None

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the files of one batch.

        Raises:
            ValueError: If the task does not return what it should.
        """
        writers = {
            "probabilities": self._classification,
            "label_maps": self._segmentation,
            "predictions": self._detection,
        }
        kind = next((key for key in writers if isinstance(outputs, dict) and key in outputs), None)
        if kind is None or "path" not in outputs:
            found = sorted(outputs) if isinstance(outputs, dict) else type(outputs).__name__
            raise ValueError(f"predict_step returned {found}; expected 'path' and one of {sorted(writers)}")
        self._task = kind
        roots = [getattr(trainer, "datamodule", None) and getattr(trainer.datamodule, name, None)  # type: ignore[attr-defined]
                 for name in ("predict_root", "root")]  # fmt: skip
        names = [output_name(path, [Path(root) for root in roots if root]) for path in outputs["path"]]
        writers[kind](outputs, names, dict(pl_module.hparams))

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the files that hold all images, in the first process."""
        rows = _gather(self._rows)
        detections = {kind: _gather(self._detections.get(kind, [])) for kind in ("bbox", "segm")}
        if not trainer.is_global_zero:
            return
        if self._task == "probabilities":
            self.output.mkdir(parents=True, exist_ok=True)
            ranks = max((len(row) - 1) // 2 for row in rows) if rows else 1
            header = ["path", "class", "probability"]
            header += [f"{name}_{rank}" for rank in range(2, ranks + 1) for name in ("class", "probability")]
            with (self.output / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([header, *rows])
        elif self._task == "predictions":
            self.output.mkdir(parents=True, exist_ok=True)
            for kind in [name for name in detections if name == "bbox" or detections[name]]:
                (self.output / f"detections_{kind}.json").write_text(json.dumps(detections[kind]), encoding="utf-8")

    def _classification(self, outputs: dict[str, Any], names: Sequence[Path], hparams: dict[str, Any]) -> None:
        probabilities: Tensor = outputs["probabilities"]
        count = probabilities.shape[1]
        class_names = hparams.get("class_names") or [str(index) for index in range(count)]
        best = probabilities.topk(min(self.top_k, count), dim=1)
        for path, values, indices in zip(outputs["path"], best.values.tolist(), best.indices.tolist(), strict=True):
            pairs = zip(indices, values, strict=True)
            ranks = (item for index, p in pairs for item in (csv_cell(class_names[index]), f"{p:.6f}"))
            self._rows.append([csv_cell(path), *ranks])

    def _segmentation(self, outputs: dict[str, Any], names: Sequence[Path], hparams: dict[str, Any]) -> None:
        count = hparams["num_classes"]
        ids = np.asarray(hparams.get("class_ids") or range(count))
        if ids.min() < 0 or ids.max() > 65535:
            raise ValueError(f"class_ids={ids.tolist()}: a PNG holds numbers from 0 to 65535")
        colors = hparams.get("class_colors") or palette(count)
        for path, name, label_map in zip(outputs["path"], names, outputs["label_maps"], strict=True):
            index = label_map.cpu().numpy()
            target = _prepare(self.output / "labels" / name)
            Image.fromarray(ids[index].astype(np.uint8 if ids.max() < 256 else np.uint16)).save(target)
            if self.draw:
                image = _read(path, index.shape)
                overlay_mask(image, index, colors, ignore_index=-1).save(_prepare(self.output / "overlays" / name))

    def _detection(self, outputs: dict[str, Any], names: Sequence[Path], hparams: dict[str, Any]) -> None:
        from dyvision.tasks.metrics.coco import encode_masks

        count = hparams["num_classes"]
        ids = hparams.get("class_ids") or list(range(1, count + 1))
        class_names = hparams.get("class_names") or [str(class_id) for class_id in ids]
        colors = hparams.get("class_colors") or palette(count)
        for path, name, image_id, found in zip(
            outputs["path"], names, outputs["image_id"], outputs["predictions"], strict=True
        ):
            boxes, labels, scores = (found[key].detach().cpu() for key in ("boxes", "labels", "scores"))
            # x, y, width, height; in double precision, which JSON keeps
            corners = boxes.double()
            shapes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).tolist()
            common = [
                {"image_id": int(image_id), "category_id": int(ids[label - 1]), "score": score}
                for label, score in zip(labels.tolist(), scores.tolist(), strict=True)
            ]
            bbox = self._detections.setdefault("bbox", [])
            bbox += [{**entry, "bbox": shape} for entry, shape in zip(common, shapes, strict=True)]
            masks = found.get("masks")
            if masks is not None:
                codes = encode_masks(masks)
                segm = self._detections.setdefault("segm", [])
                segm += [{**entry, "segmentation": code} for entry, code in zip(common, codes, strict=True)]
            if self.draw:
                shown = (scores >= self.score_threshold).nonzero()[:, 0]
                classes = [int(label) - 1 for label in labels[shown]]
                picture = draw_boxes(
                    _read(path, None),
                    boxes[shown].numpy(),
                    [class_names[index] for index in classes],
                    [colors[index] for index in classes],
                    scores[shown].tolist(),
                    None if masks is None else masks.cpu()[shown].numpy(),
                )
                picture.save(_prepare(self.output / "boxes" / name))


def output_name(path: str | Path, roots: Sequence[Path]) -> Path:
    """Relative path of the PNG for an input image.

    Args:
        path: The image.
        roots: Folders (or images) of which the first that contains it is left out of the name; without one, the whole
            path below the drive is the name.

    Returns:
        The path below the root, with ``.png`` as its suffix; the old suffix stays where the folder has another image of
        that name. So different images get different names, whatever the order they come in and the process.
    """
    source = Path(path).expanduser().resolve()
    relative = source.relative_to(source.anchor)
    for root in (root.expanduser().resolve() for root in roots):
        folder = root.parent if root == source else root
        if source.is_relative_to(folder):
            relative = source.relative_to(folder)
            break
    folder = source.parent
    changed = folder.stat().st_mtime_ns if folder.is_dir() else 0
    twins = _images_by_stem(folder, changed)[source.stem]
    return relative.with_name(f"{source.name}.png") if twins > 1 else relative.with_suffix(".png")


@lru_cache(maxsize=64)
def _images_by_stem(folder: Path, changed: int) -> Counter[str]:
    """How many images of each name a folder has; listed once, since folders hold thousands."""
    files = folder.iterdir() if folder.is_dir() else ()
    return Counter(file.stem for file in files if file.suffix.lower() in _IMAGES)


def _prepare(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _read(path: str, size: Sequence[int] | None) -> NDArray[np.uint8]:
    with Image.open(path) as file:
        image = file.convert("RGB")
    if size is not None and (image.height, image.width) != tuple(size):
        image = image.resize((int(size[1]), int(size[0])))
    return np.asarray(image)


def _gather(items: list[Any]) -> list[Any]:
    """All processes' items, interleaved as the sampler dealt the images out."""
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return items
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, items)
    longest = max(len(part) for part in parts)
    return [part[index] for index in range(longest) for part in parts if index < len(part)]
