"""What a data set consists of: images, objects, pixels, sizes, and the same content in several places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class SampleCounts:
    """What was counted in one sample.

    Attributes:
        path: The image file.
        digest: Hash of the file's content; empty if it could not be read.
        size: Height and width in pixels, if it could be decoded.
        objects: How many objects of each class: of an image with one label, one.
        pixels: Pixels of each class, and at the end those that are ignored; None without a label map.
    """

    path: str
    digest: bytes = b""
    size: tuple[int, int] | None = None
    objects: Counter[int] = field(default_factory=Counter)
    pixels: NDArray[np.int64] | None = None


@dataclass
class SplitStatistics:
    """Counts of one split.

    Args:
        split: Its name.
        class_names: Names of the classes.

    Attributes:
        images: How many were read.
        broken: How many could not be.
        objects: Of each class; images of each class in classification.
        pixels: Of each class, if there are label maps.
        ignored: Pixels without a class.
        sizes: How many images are of each height and width.
    """

    split: str
    class_names: Sequence[str]
    images: int = 0
    broken: int = 0
    objects: Counter[int] = field(default_factory=Counter)
    pixels: NDArray[np.int64] | None = None
    ignored: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)

    def add(self, sample: SampleCounts) -> None:
        """Counts a sample."""
        if sample.size is None:
            self.broken += 1
            return
        self.images += 1
        self.sizes[sample.size] += 1
        self.objects.update(sample.objects)
        if sample.pixels is not None:
            before = 0 if self.pixels is None else self.pixels
            self.pixels = before + sample.pixels[:-1]
            self.ignored += int(sample.pixels[-1])

    def missing_classes(self) -> list[str]:
        """Names of the classes without an object, or without a pixel."""
        if self.pixels is not None:
            return [name for name, count in zip(self.class_names, self.pixels.tolist(), strict=True) if count == 0]
        return [name for index, name in enumerate(self.class_names) if self.objects[index] == 0]

    def ignored_share(self) -> float | None:
        """Share of the pixels that have no class, 0..1; None without label maps."""
        if self.pixels is None:
            return None
        total = int(self.pixels.sum()) + self.ignored
        return self.ignored / total if total else 1.0

    def smallest_and_largest(self) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Height and width of the images with the fewest and the most pixels; None without images."""
        if not self.sizes:
            return None
        ordered = sorted(self.sizes, key=lambda size: (size[0] * size[1], size))
        return ordered[0], ordered[-1]

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        classes = []
        for index, name in enumerate(self.class_names):
            row: dict[str, Any] = {"name": name}
            if self.pixels is not None:
                row["pixels"] = int(self.pixels[index])
            else:
                row["objects"] = self.objects[index]
            classes.append(row)
        sizes = [{"height": h, "width": w, "images": count} for (h, w), count in self.sizes.most_common()]
        return {
            "split": self.split, "images": self.images, "broken": self.broken, "classes": classes,
            "ignored_share": self.ignored_share(), "sizes": sizes,
        }  # fmt: skip


class Duplicates:
    """Finds images of the same content.

    Attributes:
        within: Images that repeat an earlier one of the same split.
    """

    def __init__(self) -> None:
        self.within: Counter[str] = Counter()
        self._seen: dict[bytes, tuple[str, str, tuple[int, ...]]] = {}

    def add(self, split: str, sample: SampleCounts) -> tuple[str, str, bool] | None:
        """Remembers a sample.

        Returns:
            Split and path of an earlier one of the same content, and whether its labels are the same; or None.
        """
        if not sample.digest:
            return None
        labels = tuple(sorted(sample.objects))
        earlier = self._seen.setdefault(sample.digest, (split, sample.path, labels))
        if earlier[1] == sample.path:
            return None
        if earlier[0] == split:
            self.within[split] += 1
        return earlier[0], earlier[1], earlier[2] == labels
