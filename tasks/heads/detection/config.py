"""What every detector has in common: sizes, normalisation, and how many detections are kept."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dyvision.arguments import check_number, check_numbers

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGENET_GREY_MEAN = (0.458971,)
IMAGENET_GREY_STD = (0.225609,)

_PIXELS: dict[str, Any] = {"minimum": 1, "maximum": 32_768, "integer": True}
#: images are in 0..1; a larger number was meant for 0..255, where it would leave nothing of the image
_STATISTIC: dict[str, Any] = {"maximum": 10}


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
            check_number("min_size", size, **_PIXELS)
        check_number("max_size", self.max_size, **_PIXELS, allow_none=True)
        check_numbers("image_mean", self.image_mean, **_STATISTIC)
        check_numbers("image_std", self.image_std, above=0, **_STATISTIC)
        for name in ("score_threshold", "nms_threshold"):
            check_number(name, getattr(self, name), minimum=0, maximum=1, allow_none=True)
        check_number(
            "detections_per_image",
            self.detections_per_image,
            minimum=1,
            maximum=1_000_000,
            integer=True,
            allow_none=True,
        )

    @property
    def min_sizes(self) -> list[int]:
        """The shorter sides to choose from; empty if images keep their size."""
        if self.min_size is None:
            return []
        return list(self.min_size) if isinstance(self.min_size, Sequence) else [self.min_size]

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

    def warn_of_two_sizes(self, data: Any) -> None:
        """Warn if the data module makes images small and the detector makes them large again, whose size counts.

        Args:
            data: The data module, or None.
        """
        limit = getattr(getattr(data, "hparams", None), "image_size", None)
        if limit is not None and self.min_sizes and min(self.min_sizes) > limit:
            warnings.warn(
                f"data.image_size={limit} makes images smaller, and model.min_size={min(self.min_sizes)} larger again: "
                "for smaller images give --model.min_size=null, or a smaller one",
                stacklevel=1,  # the same place every time: said once
            )
