"""``predict`` as files: a CSV of classes, label maps and overlays, or boxes and COCO results."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dyvision.saving import replacing
from dyvision.tasks.callbacks.classes import shown_classes
from dyvision.tasks.callbacks.prediction_names import output_name
from dyvision.tasks.callbacks.prediction_results import Found, PredictionResults
from dyvision.visualize import as_image, draw_objects, overlay_with_legend, read_rgb

__all__ = ("PredictionWriter", "output_name")

# boxes that are shown where neither the writer nor the model has a threshold
_SHOWN = 0.5
_FOLDERS = ("labels", "overlays", "boxes")


class PredictionWriter(Callback):
    """Writes what ``trainer.predict`` returns, one image at a time.

    * Classification: ``predictions.csv`` with ``path,class,probability`` and the following ranks.
    * Segmentation: ``labels/<name>.png`` with the data set's own class numbers (``class_ids``; Cityscapes' server reads
      these), and ``overlays/<name>.png``, with a legend below the image.
    * Detection: ``boxes/<name>.png``; ``detections_bbox.json``, for masks also ``detections_segm.json``, in COCO's
      results format, and ``images.json``, which says which file has which ``image_id``.
    * Images that could not be read: ``failed.csv`` with ``path,reason``; the others are written.

    ``<name>`` is the path below the folder of the images, so that equal names in different folders stay apart. The
    order in the files is that of the images, for any number of processes. Files of an earlier run are replaced, nothing
    is removed.

    Args:
        output: Folder; made if it does not exist.
        top_k: Classes per image in the CSV, at most as many as there are.
        score_threshold: Boxes with a lower score are not drawn (the results file has them); None for the model's own
            ``score_threshold`` if it was set, else 0.5.
        max_boxes: Most boxes drawn per image, those with the highest scores; None for all above the threshold.
        draw: Whether to write overlays and drawn boxes.

    Attributes:
        results: What was found; after ``predict`` that of all processes.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        output: str | Path,
        top_k: int = 5,
        score_threshold: float | None = None,
        max_boxes: int | None = None,
        draw: bool = True,
    ) -> None:
        super().__init__()
        if top_k < 1:
            raise ValueError(f"top_k={top_k!r}: expected at least 1.")
        if score_threshold is not None and not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold={score_threshold!r}: expected a number from 0 to 1.")
        if max_boxes is not None and max_boxes < 0:
            raise ValueError(f"max_boxes={max_boxes!r}: expected at least 0.")
        self.output = Path(output).expanduser()
        self.top_k = top_k
        self.score_threshold = score_threshold
        self.max_boxes = max_boxes
        self.draw = draw
        self.results = PredictionResults()
        self._kind: str | None = None
        self._written: list[str] = []
        self._threshold = _SHOWN

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget earlier predictions; make the folder.

        Raises:
            ValueError: If predictions would be written over the images they are made from.
            OSError: If the folder cannot be made.
        """
        self.results, self._kind, self._written = PredictionResults(), None, []
        self._protect_images(trainer)
        if self.output.exists() and not self.output.is_dir():
            raise ValueError(f"output={str(self.output)!r} is a file; predictions need a folder.")
        self.output.mkdir(parents=True, exist_ok=True)

    def _protect_images(self, trainer: L.Trainer) -> None:
        datasets = getattr(getattr(trainer, "datamodule", None), "datasets", {})
        paths: list[str] = getattr(datasets.get("predict"), "paths", list)()
        own = [self.output.resolve() / name for name in _FOLDERS]
        parents = {parent: Path(parent).resolve() for parent in {str(Path(path).parent) for path in paths}}
        inside = {parent for parent, real in parents.items() if any(real.is_relative_to(folder) for folder in own)}
        if inside:
            raise ValueError(
                f"output={str(self.output)!r}: images to predict on lie where predictions are written "
                f"({sorted(inside)[0]}); choose another output, or other images if these are earlier predictions."
            )
        module: Any = getattr(trainer, "datamodule", None)
        labels = getattr(module, "hparams", {}).get("label_dir")
        place = os.path.join(glob.escape(str(getattr(module, "root", ""))), str(labels).replace("{split}", "*"))
        kept = [Path(found).resolve() for found in glob.glob(os.path.expanduser(place))] if labels else []
        if any(one.is_relative_to(other) or other.is_relative_to(one) for one in own for other in kept):
            raise ValueError(
                f"output={str(self.output)!r}: the label maps of the data set ({kept[0]}) would be overwritten; "
                "choose another output."
            )

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
            OSError: If a file cannot be written, naming it.
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
        self._kind = kind
        told = batch if isinstance(batch, dict) else {}
        positions = self.results.positions([bool(flag) for flag in told.get("valid", [True] * len(outputs["path"]))])
        failed = zip(told.get("path", ()), told.get("failed", ()), strict=False)
        self.results.failed.update({path: reason for path, reason in failed if reason})
        datamodule: Any = getattr(trainer, "datamodule", None)
        roots = [getattr(datamodule, name, None) for name in ("predict_root", "root")]
        names = [output_name(path, [Path(root) for root in roots if root]) for path in outputs["path"]]
        read = getattr(datamodule, "read_image", read_rgb)
        if len(names) != len(positions):
            raise ValueError(
                f"predict_step returned {len(names)} images for the {len(positions)} valid ones of a batch"
            )
        found = [Found() for _ in names]
        writers[kind](outputs, names, found, dict(pl_module.hparams), read)
        self.results.found.update(zip(positions, found, strict=True))

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the files that hold all images, in the first process."""
        self.results.gather()
        if trainer.is_global_zero:
            self._written = self.results.write(self.output, self._kind)

    def summary(self) -> str:
        """What was written: numbers of images, files and drawn boxes."""
        results = self.results
        images = list(results.found.values())
        parts = [f"{len(images)} image{'s' * (len(images) != 1)}"]
        for folder in _FOLDERS:
            files = sum(found.files.get(folder, 0) for found in images)
            if files:
                parts.append(f"{files} file{'s' * (files != 1)} in {folder}/")
        if self._kind == "predictions":
            entries = sum(len(found.detections.get("bbox", ())) for found in images)
            parts.append(f"{entries} detections")
            if self.draw:
                drawn = sum(found.drawn for found in images)
                parts.append(f"{drawn} boxes drawn (score of at least {self._threshold:g})")
        parts += self._written
        return f"{self.output}: {', '.join(parts)}"

    def _classification(
        self, outputs: dict[str, Any], names: Sequence[Path], found: list[Found], hparams: dict[str, Any], read: Any
    ) -> None:
        probabilities: Tensor = outputs["probabilities"]
        count = probabilities.shape[1]
        class_names = shown_classes(hparams, count).names
        best = probabilities.topk(min(self.top_k, count), dim=1)
        rows = zip(outputs["path"], best.values.tolist(), best.indices.tolist(), strict=True)
        for entry, (path, values, indices) in zip(found, rows, strict=True):
            pairs = zip(indices, values, strict=True)
            entry.row = [path, *(item for index, p in pairs for item in (class_names[index], f"{p:.6f}"))]

    def _segmentation(
        self, outputs: dict[str, Any], names: Sequence[Path], found: list[Found], hparams: dict[str, Any], read: Any
    ) -> None:
        class_ids, class_names, colors = shown_classes(hparams, hparams["num_classes"])
        ids = np.asarray(class_ids)
        if ids.min() < 0 or ids.max() > 65535:
            raise ValueError(f"class_ids={ids.tolist()}: a PNG holds numbers from 0 to 65535")
        for path, name, entry, label_map in zip(outputs["path"], names, found, outputs["label_maps"], strict=True):
            index = label_map.cpu().numpy()
            labels = Image.fromarray(ids[index].astype(np.uint8 if ids.max() < 256 else np.uint16))
            self._save(labels, "labels", name, entry)
            if self.draw and (image := self._picture(path, read)) is not None:
                shown = as_image(image).resize((index.shape[1], index.shape[0]))
                overlay = overlay_with_legend(shown, index, class_names, colors, ignore_index=-1)
                self._save(overlay, "overlays", name, entry)

    def _detection(
        self, outputs: dict[str, Any], names: Sequence[Path], found: list[Found], hparams: dict[str, Any], read: Any
    ) -> None:
        from dyvision.tasks.metrics.coco import encode_masks

        ids, class_names, colors = shown_classes(hparams, hparams["num_classes"], 1)
        own = hparams.get("score_threshold") if self.score_threshold is None else self.score_threshold
        self._threshold = _SHOWN if own is None else own
        sizes = outputs.get("original_size") or [None] * len(names)
        for path, name, entry, image_id, size, one in zip(
            outputs["path"], names, found, outputs["image_id"], sizes, outputs["predictions"], strict=True
        ):
            boxes, labels, scores = (one[key].detach().cpu() for key in ("boxes", "labels", "scores"))
            # x, y, width, height; in double precision, which JSON keeps
            corners = boxes.double()
            shapes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).tolist()
            common = [
                {"image_id": int(image_id), "category_id": int(ids[label - 1]), "score": score}
                for label, score in zip(labels.tolist(), scores.tolist(), strict=True)
            ]
            entry.detections["bbox"] = [{**item, "bbox": shape} for item, shape in zip(common, shapes, strict=True)]
            masks = one.get("masks")
            if masks is not None:
                codes = zip(common, encode_masks(masks), strict=True)
                entry.detections["segm"] = [{**item, "segmentation": code} for item, code in codes]
            entry.image = {"id": int(image_id), "file_name": str(path)}
            if size is not None:
                entry.image |= {"height": int(size[0]), "width": int(size[1])}
            if self.draw and (image := self._picture(path, read)) is not None:
                shown = scores.argsort(descending=True)[: self.max_boxes]
                shown = shown[scores[shown] >= self._threshold]
                chosen = {key: one[key].cpu()[shown] for key in ("boxes", "labels", "scores", "masks") if key in one}
                self._save(draw_objects(image, chosen, class_names, colors), "boxes", name, entry)
                entry.drawn = len(shown)

    def _picture(self, path: str, read: Any) -> NDArray[np.uint8] | None:
        try:
            image: NDArray[np.uint8] = read(path)
        except (OSError, ValueError) as error:  # it was readable a moment ago
            self.results.failed[path] = f"predicted, but no picture drawn: {error}"
            return None
        return image

    def _save(self, image: Image.Image, folder: str, name: Path, entry: Found) -> None:
        with replacing(self.output / folder / name) as part:
            image.save(part)
        entry.files[folder] = 1
