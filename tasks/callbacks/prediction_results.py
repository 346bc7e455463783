"""Everything ``predict`` found, of all processes, in the order of the images, and the files that hold all of it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import distributed

from dyvision.saving import write_text
from dyvision.tasks.metrics.coco_gather import gather_objects
from dyvision.text import csv_cell


@dataclass
class Found:
    """What was found in one image.

    Attributes:
        row: Classification: classes and probabilities, best first.
        image: Detection: the image as COCO's ``images`` have it (``id``, ``file_name``, ``height``, ``width``).
        detections: Detection: ``"bbox"`` and, for masks, ``"segm"`` -> entries of COCO's results format.
        files: Pictures written for it, by folder (``labels``, ``overlays``, ``boxes``).
        drawn: Boxes in its picture.
    """

    row: list[Any] | None = None
    image: dict[str, Any] | None = None
    detections: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    drawn: int = 0


class PredictionResults:
    """Collects by position in the data set, and writes the files that hold all images.

    Attributes:
        found: Position in the data set -> what was found.
        failed: Image -> why there is no prediction, or no picture, of it.
    """

    def __init__(self) -> None:
        self.found: dict[int, Found] = {}
        self.failed: dict[str, str] = {}
        self._seen = 0

    def positions(self, valid: Sequence[bool]) -> list[int]:
        """Positions in the data set of the valid samples of this process' next batch.

        Samples are dealt out over the processes one by one, as by ``DistributedSampler`` without shuffling.
        """
        world, rank = 1, 0
        if distributed.is_available() and distributed.is_initialized():
            world, rank = distributed.get_world_size(), distributed.get_rank()
        first, self._seen = self._seen, self._seen + len(valid)
        return [rank + (first + index) * world for index, flag in enumerate(valid) if flag]

    def gather(self) -> None:
        """Bring together those of all processes, in the order of the data set."""
        parts = gather_objects((self.found, self.failed))
        merged = [item for found, _ in parts for item in found.items()]
        self.found = dict(sorted(merged, key=lambda item: item[0]))
        self.failed = dict(sorted({path: why for _, failed in parts for path, why in failed.items()}.items()))

    def write(self, folder: Path, kind: str | None) -> list[str]:
        """Write the files that hold all images.

        Args:
            folder: Where.
            kind: What the task returns: ``"probabilities"``, ``"label_maps"``, ``"predictions"``, or None if nothing.

        Returns:
            Names of the files.

        Raises:
            OSError: If one cannot be written, naming it.
        """
        written = {}
        images = self.found.values()
        if kind == "probabilities":
            rows = [found.row for found in images if found.row is not None]
            ranks = max((len(row) - 1) // 2 for row in rows) if rows else 1
            header = ["path", "class", "probability"]
            header += [f"{name}_{rank}" for rank in range(2, ranks + 1) for name in ("class", "probability")]
            written["predictions.csv"] = _csv([header, *rows])
        elif kind == "predictions":
            for name in ("bbox", "segm"):
                if name == "bbox" or any(name in found.detections for found in images):
                    entries = [entry for found in images for entry in found.detections.get(name, ())]
                    written[f"detections_{name}.json"] = json.dumps(entries)
            written["images.json"] = json.dumps([found.image for found in images if found.image is not None])
        if self.failed or (folder / "failed.csv").exists():  # one of an earlier run would be wrong now
            # a reason names its file first, as it has to alone; here that is the other column
            reasons = [[path, reason.removeprefix(f"{path}: ")] for path, reason in self.failed.items()]
            written["failed.csv"] = _csv([["path", "reason"], *reasons])
        for name, text in written.items():
            write_text(folder / name, text)
        return list(written)


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([csv_cell(cell) for cell in row] for row in rows)
    # names of files may hold bytes that are no text; a reader of UTF-8 has to get through the others
    return text.getvalue().encode("utf-8", "backslashreplace").decode("utf-8")
