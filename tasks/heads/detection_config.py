"""What every detector has in common: sizes, normalisation, and how many detections are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGENET_GREY_MEAN = (0.458971,)
IMAGENET_GREY_STD = (0.225609,)


@dataclass(frozen=True)
class DetectorConfig:
    """Settings that every detection head shares; None means the head's own default.

    Attributes:
        min_size: The shorter side of an image is resized to this many pixels; one of several in training (the last in
            evaluation); None keeps the size the data module gives. SSDLite stretches to ``min_size`` x ``min_size``.
        max_size: Upper limit of the longer side in pixels; None for no limit.
        image_mean: Mean per channel that is subtracted from images in 0..1.
        image_std: Standard deviation per channel the images are divided by.
        score_threshold: Detections with a lower score are dropped, in 0..1.
        nms_threshold: Of two detections of one class with a larger IoU, the weaker one is dropped, in 0..1.
        detections_per_image: Most detections kept per image.

    Raises:
        ValueError: If a value is out of range.
    """

    min_size: int | Sequence[int] | None = None
    max_size: int | None = 1333
    image_mean: Sequence[float] = IMAGENET_MEAN
    image_std: Sequence[float] = IMAGENET_STD
    score_threshold: float | None = None
    nms_threshold: float | None = None
    detections_per_image: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        for size in self.min_sizes:
            _check("min_size", size, size >= 1, "at least 1 pixel, or null to keep the size")
        _check("max_size", self.max_size, self.max_size is None or self.max_size >= 1, "at least 1 pixel, or null")
        for name, values in (("image_mean", self.image_mean), ("image_std", self.image_std)):
            _check(name, list(values), len(values) >= 1, "one number per channel")
        _check("image_std", list(self.image_std), all(value > 0 for value in self.image_std), "positive numbers")
        for name in ("score_threshold", "nms_threshold"):
            value = getattr(self, name)
            _check(name, value, value is None or 0 <= value <= 1, "a number in 0..1")
        count = self.detections_per_image
        _check("detections_per_image", count, count is None or count >= 1, "at least 1")

    @property
    def min_sizes(self) -> list[int]:
        """The shorter sides to choose from; empty if images keep their size."""
        if self.min_size is None:
            return []
        return [self.min_size] if isinstance(self.min_size, int) else list(self.min_size)

    def post_processing(self, prefix: str = "") -> dict[str, Any]:
        """Thresholds under torchvision's names, without those that are None.

        Args:
            prefix: ``"box_"`` for R-CNN.
        """
        names: Mapping[str, Any] = {
            "score_thresh": self.score_threshold,
            "nms_thresh": self.nms_threshold,
            "detections_per_img": self.detections_per_image,
        }
        return {prefix + name: value for name, value in names.items() if value is not None}


def _check(name: str, value: object, correct: bool, expected: str) -> None:
    if not correct:
        raise ValueError(f"{name}={value!r}: expected {expected}.")
