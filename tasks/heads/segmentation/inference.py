"""Segmenting an image of any size: at once or window by window, and averaged with its mirror image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvision.arguments import check_flag, check_numbers
from dyvision.tasks.components import closest

#: windows that go through the network together
_WINDOWS_AT_ONCE = 8


@dataclass(frozen=True)
class Inference:
    """How logits of a whole image are computed.

    Args:
        mode: ``"whole"`` or ``"slide"``.
        crop_size: ``(height, width)`` of a window.
        stride: Steps between windows, ``(vertical, horizontal)``; two thirds of the window by default.
        flip: Average the probabilities with those of the mirrored image.

    Raises:
        ValueError: If a size is missing or out of range.
    """

    mode: Literal["whole", "slide"] = "whole"
    crop_size: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    flip: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("whole", "slide"):
            raise ValueError(f"inference mode {self.mode!r}: expected 'whole' or 'slide'")
        if self.mode == "slide" and self.crop_size is None:
            raise ValueError("inference mode 'slide' needs crop_size: [height, width]")
        for name, value in (("crop_size", self.crop_size), ("stride", self.stride)):
            check_numbers(f"inference: {name}", value, length=2, minimum=1, integer=True, allow_none=True)
        check_flag("inference: flip", self.flip)
        if self.stride is not None and self.crop_size is not None:
            if any(step > size for step, size in zip(self.stride, self.crop_size, strict=True)):
                raise ValueError(f"inference stride={self.stride} above crop_size={self.crop_size} would leave gaps")

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any] | None) -> Inference:
        """Read the argument of the task.

        Raises:
            ValueError: For an unknown key or a wrong value.
        """
        options = dict(spec or {})
        known = ("mode", "crop_size", "stride", "flip")
        for name in options:
            if name not in known:
                raise ValueError(f"inference has no argument {name!r}; {closest(str(name), known)}")
        for name in ("crop_size", "stride"):
            if isinstance(options.get(name), Sequence):
                options[name] = tuple(options[name])
        return cls(**options)


def segment(network: Callable[[Tensor], Tensor], images: Tensor, inference: Inference) -> Tensor:
    """Compute scores of every class at every pixel.

    Args:
        network: From images ``[B, C, h, w]`` to logits ``[B, num_classes, h, w]``.
        images: ``[B, C, H, W]``.
        inference: How.

    Returns:
        Logits ``[B, num_classes, H, W]``; with ``flip`` the logarithm of the averaged probabilities.
    """
    run = _whole if inference.mode == "whole" else _slide
    logits = run(network, images, inference)
    if not inference.flip:
        return logits
    mirrored = run(network, images.flip(-1), inference).flip(-1)
    both = (logits.softmax(1) + mirrored.softmax(1)) / 2
    return both.clamp(min=torch.finfo(both.dtype).tiny).log()


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """Where windows start along one side: every ``stride`` pixels, the last one shifted back inside."""
    if size <= window:
        return [0]
    return [*range(0, size - window, stride), size - window]


def _whole(network: Callable[[Tensor], Tensor], images: Tensor, inference: Inference) -> Tensor:
    return network(images)


def _slide(network: Callable[[Tensor], Tensor], images: Tensor, inference: Inference) -> Tensor:
    if inference.crop_size is None:
        raise ValueError("inference mode 'slide' needs crop_size: [height, width]")
    height, width = images.shape[-2:]
    crop_h, crop_w = min(inference.crop_size[0], height), min(inference.crop_size[1], width)
    stride_h, stride_w = inference.stride or [max(1, side * 2 // 3) for side in inference.crop_size]
    corners = [
        (top, left)
        for top in window_starts(height, crop_h, stride_h)
        for left in window_starts(width, crop_w, stride_w)
    ]
    total: Tensor | None = None
    covered = images.new_zeros(1, 1, height, width, dtype=torch.float32)
    at_once = max(1, _WINDOWS_AT_ONCE // len(images))
    for start in range(0, len(corners), at_once):
        some = corners[start : start + at_once]
        windows = torch.cat([images[..., top : top + crop_h, left : left + crop_w] for top, left in some])
        outputs = network(windows).float().chunk(len(some))
        for (top, left), logits in zip(some, outputs, strict=True):
            if total is None:
                total = logits.new_zeros(len(images), logits.shape[1], height, width)
            total[..., top : top + crop_h, left : left + crop_w] += logits
            covered[..., top : top + crop_h, left : left + crop_w] += 1
    if total is None:
        raise ValueError(f"an image of {height} x {width} pixels has no windows")
    return total / covered


def resize_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits ``[B, C, h, w]`` at another size, bilinear, in float32 (half precision would blur the argmax)."""
    logits = logits.float()
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
