"""Resizing, normalising and padding in front of a detector, for images of any size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

from dyvision.tasks.heads.detection.config import DetectorConfig


class DetectionTransform(GeneralizedRCNNTransform):
    """torchvision's transform, which can also leave the image size alone and takes very small images.

    Args:
        config: Sizes, mean and standard deviation.
        size_divisible: Both sides of a batch are padded to a multiple of this: the largest reduction of the backbone.
        square: Stretch every image to ``min_size`` x ``min_size`` (SSD) instead of keeping its aspect ratio.
    """

    def __init__(self, config: DetectorConfig, size_divisible: int, square: bool = False) -> None:
        sizes = config.min_sizes
        super().__init__(
            min_size=sizes or [0],
            max_size=config.max_size or 0,
            image_mean=list(config.image_mean),
            image_std=list(config.image_std),
            size_divisible=size_divisible,
        )
        self.square = square
        self._sizes: Sequence[int] = sizes

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Resize one image ``[3, H, W]`` with the boxes and masks of its target.

        In training one of several ``min_size`` values is drawn, in evaluation the last one counts.
        """
        if not self._sizes:
            return image, target
        height, width = image.shape[-2:]
        size = self.torch_choice(list(self._sizes)) if self.training else self._sizes[-1]
        new = self._new_size(height, width, size)
        if new == (height, width):
            return image, target
        image = F.interpolate(image[None], size=new, mode="bilinear", align_corners=False)[0]
        if target is None:
            return image, target
        # the target is a copy made by forward(): the batch keeps its own boxes
        target["boxes"] = resize_boxes(target["boxes"], [height, width], list(new))
        if "masks" in target:
            masks = target["masks"]
            resized = F.interpolate(masks[:, None].float(), size=new)[:, 0] if len(masks) else masks.new_zeros(0, *new)
            target["masks"] = resized.to(torch.uint8)
        return image, target

    def _new_size(self, height: int, width: int, size: int) -> tuple[int, int]:
        if self.square:
            return size, size
        scale = size / min(height, width)
        if self.max_size:
            scale = min(scale, self.max_size / max(height, width))
        # a very long image keeps at least one pixel of its short side
        return max(1, math.floor(height * scale)), max(1, math.floor(width * scale))

    def batch_images(self, images: list[Tensor], size_divisible: int = 32) -> Tensor:
        """Pad images at the right and the bottom to one batch ``[B, 3, H, W]``.

        At least two steps of the coarsest map: BatchNorm cannot train on one image whose map is 1 x 1.
        """
        sides = [max(image.shape[axis] for image in images) for axis in (-2, -1)]
        height, width = (size_divisible * max(2, math.ceil(side / size_divisible)) for side in sides)
        batch = images[0].new_zeros(len(images), images[0].shape[0], height, width)
        for slot, image in zip(batch, images, strict=True):
            slot[:, : image.shape[-2], : image.shape[-1]].copy_(image)
        return batch

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"min_size={list(self._sizes) or None}, max_size={self.max_size or None}, square={self.square}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


def drop_degenerate_boxes(target: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Leave out boxes without area, which torchvision's detectors refuse.

    Args:
        target: ``boxes`` ``[N, 4]``, ``labels`` ``[N]`` and perhaps ``masks`` ``[N, H, W]``.

    Returns:
        The target, a copy if boxes were left out, and how many were.
    """
    boxes = target["boxes"]
    keep = torch.isfinite(boxes).all(dim=1) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    dropped = int((~keep).sum())
    if not dropped:
        return target, 0
    kept = {name: value[keep] for name, value in target.items() if name in ("boxes", "labels", "masks")}
    return {**target, **kept}, dropped
