"""What a task says of one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dyvision.text import printable
from dyvision.visualize import as_image, draw_label, draw_objects, overlay_with_legend

#: objects with a lower score are in the result, but neither in its text nor in its picture
_SHOWN = 0.5
_FEW = 5


class Classes(NamedTuple):
    """The classes of a task.

    Attributes:
        ids: The data set's own numbers.
        names: Their names.
        colors: ``[r, g, b]`` of each.
    """

    ids: Sequence[int]
    names: Sequence[str]
    colors: Sequence[Sequence[int]]


@dataclass(frozen=True, eq=False, repr=False)
class _OfImage:
    """What all results have.

    Attributes:
        path: The file, or ``image 0`` for what is no file.
        classes: Numbers, names and colours of the classes.
    """

    path: str
    classes: Classes
    _read: Callable[[], NDArray[np.uint8]] = field(repr=False)

    @property
    def image(self) -> NDArray[np.uint8]:
        """The image, uint8 ``[H, W, 3]``; a file is read again."""
        return self._read()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"

    def _listed(self, parts: Sequence[str], nothing: str) -> str:
        more = f", and {len(parts) - _FEW} more" if len(parts) > _FEW else ""
        return printable(f"{self.path}: {', '.join(parts[:_FEW]) or nothing}{more}")


@dataclass(frozen=True, eq=False, repr=False)
class Classification(_OfImage):
    """Probabilities of the classes.

    Attributes:
        probabilities: ``[num_classes]``, sum 1.
    """

    probabilities: Tensor

    @property
    def label(self) -> int:
        """The most probable class, counted from 0."""
        return int(self.probabilities.argmax())

    @property
    def name(self) -> str:
        """Its name."""
        return self.classes.names[self.label]

    @property
    def probability(self) -> float:
        """Its probability."""
        return float(self.probabilities.max())

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The most probable classes, with their probabilities."""
        best = self.probabilities.topk(min(count, len(self.probabilities)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(self.classes.names[index], value) for index, value in pairs]

    def draw(self) -> Image.Image:
        """The image with the most probable class written on it."""
        return draw_label(as_image(self.image), f"{self.name} {self.probability:.2f}")

    def __str__(self) -> str:
        return self._listed([f"{name} {value:.2f}" for name, value in self.top(3)], "no class")


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation(_OfImage):
    """The class of each pixel.

    Attributes:
        label_map: ``[H, W]`` of the image's size, classes counted from 0.
    """

    label_map: Tensor

    @property
    def ids(self) -> NDArray[np.int64]:
        """The label map with the data set's own numbers, ``[H, W]``, as ``dyvision predict`` writes it."""
        numbers: NDArray[np.int64] = np.asarray(self.classes.ids, dtype=np.int64)[self.label_map.numpy()]
        return numbers

    @property
    def shares(self) -> dict[str, float]:
        """Which share of the pixels each class has that occurs, the largest first."""
        counts = torch.bincount(self.label_map.flatten().long(), minlength=len(self.classes.names))
        order = counts.argsort(descending=True).tolist()
        return {
            self.classes.names[index]: float(counts[index]) / self.label_map.numel() for index in order if counts[index]
        }

    def draw(self) -> Image.Image:
        """The image under the classes' colours, with a legend."""
        return overlay_with_legend(
            as_image(self.image), self.label_map.numpy(), self.classes.names, self.classes.colors, ignore_index=-1
        )

    def __str__(self) -> str:
        height, width = self.label_map.shape
        shares = [f"{name} {share:.1%}" for name, share in self.shares.items()]
        return self._listed([f"{height}x{width} pixels", *shares][: _FEW + 1], "")


@dataclass(frozen=True, eq=False, repr=False)
class Detections(_OfImage):
    """Objects, the highest score first.

    Attributes:
        boxes: ``[N, 4]``: left, top, right, bottom in pixels of the image.
        labels: ``[N]``, classes counted from 1.
        scores: ``[N]`` in 0..1.
        masks: bool ``[N, H, W]``, of heads with masks.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """Names of the objects' classes."""
        return [self.classes.names[label - 1] for label in self.labels.tolist()]

    @property
    def category_ids(self) -> list[int]:
        """The data set's own numbers of the objects' classes."""
        return [int(self.classes.ids[label - 1]) for label in self.labels.tolist()]

    def above(self, threshold: float) -> Detections:
        """The objects with at least this score."""
        kept = self.scores >= threshold
        masks = None if self.masks is None else self.masks[kept]
        return Detections(
            self.path, self.classes, self._read, self.boxes[kept], self.labels[kept], self.scores[kept], masks
        )

    def draw(self, threshold: float = _SHOWN) -> Image.Image:
        """The image with the objects of at least this score."""
        shown = self.above(threshold)
        objects: dict[str, Any] = {"boxes": shown.boxes, "labels": shown.labels, "scores": shown.scores}
        if shown.masks is not None:
            objects["masks"] = shown.masks
        return draw_objects(self.image, objects, self.classes.names, self.classes.colors)

    def __str__(self) -> str:
        shown = self.above(_SHOWN)
        parts = [f"{name} {score:.2f}" for name, score in zip(shown.names, shown.scores.tolist(), strict=True)]
        return self._listed(parts, f"no object with a score of {_SHOWN} ({len(self)} below)")


Result: TypeAlias = Classification | Segmentation | Detections
