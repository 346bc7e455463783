"""The networks of the matrix: classifiers of timm, a U-Net, and torchvision's Faster R-CNN, all with random weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import timm
import torch
from torch import Tensor, nn

_CLASSES = 3


@dataclass(frozen=True)
class Network:
    """A network and what it takes.

    Attributes:
        title: How it is called in tables.
        build: Makes it.
        image_size: Side of its images.
        dtype: In which outputs are compared: what sorts boxes by their scores needs double precision.
        detects: Whether it takes a list of images, in training targets, too, and returns boxes.
    """

    title: str
    build: Callable[[], nn.Module]
    image_size: int = 64
    dtype: torch.dtype = torch.float32
    detects: bool = False

    def make(self) -> nn.Module:
        """Build it, the same each time; scales and statistics of norms at random, since some start with zeros."""
        torch.manual_seed(0)
        model = self.build()
        with torch.no_grad():
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                if tensor.ndim == 1 and tensor.is_floating_point():
                    low, high = (-0.2, 0.2) if name.endswith(("bias", "running_mean")) else (0.5, 1.5)
                    tensor.uniform_(low, high)
        return model

    def images(self, count: int, dtype: torch.dtype, seed: int = 0) -> Tensor | list[Tensor]:
        """A batch as the network takes it; images differ in their means, which coefficients depend on."""
        random = torch.Generator().manual_seed(seed)
        images = torch.randn(count, 3, self.image_size, self.image_size, generator=random)
        images = (images + torch.randn(count, 3, 1, 1, generator=random)).to(dtype)
        return list(images.sigmoid()) if self.detects else images

    def loss(self, model: nn.Module) -> Tensor:
        """Of a batch of two in training."""
        images = self.images(2, torch.float32)
        if not self.detects:
            return model(images).float().square().mean()
        side = self.image_size
        boxes = torch.tensor([[4.0, 4.0, side / 2, side / 2], [side / 4, side / 4, side - 4.0, side - 4.0]])
        target = {"boxes": boxes, "labels": torch.tensor([1, 2])}
        losses: dict[str, Tensor] = model(images, [target, target])
        return torch.stack(list(losses.values())).sum()


class _DoubleConv(nn.Module):
    """Two convolutions, as everywhere in a U-Net."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, H, W]`` to ``[B, C_out, H, W]``."""
        return self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()


class EncoderBlock(_DoubleConv):
    """Halves the size, then two convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, H, W]`` to ``[B, C_out, H / 2, W / 2]``."""
        return super().forward(nn.functional.max_pool2d(x, 2))


class DecoderBlock(_DoubleConv):
    """Doubles the size, appends the skip connection, then two convolutions."""

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """``[B, C, H, W]`` and ``[B, C_skip, 2H, 2W]`` to ``[B, C_out, 2H, 2W]``."""
        x = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
        return super().forward(x if skip is None else torch.cat([x, skip], 1))


class UNet(nn.Module):
    """A small U-Net (Ronneberger et al. 2015), with BatchNorm and padding."""

    def __init__(self, widths: tuple[int, ...] = (8, 16, 32, 64)) -> None:
        super().__init__()
        self.stem = _DoubleConv(3, widths[0])
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(EncoderBlock(one, other) for one, other in pairs)
        self.up = nn.ModuleList(DecoderBlock(one + other, one) for one, other in reversed(pairs))
        self.classifier = nn.Conv2d(widths[0], _CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` to logits ``[B, 3, H, W]``."""
        skips = [self.stem(x)]
        for block in self.down:
            skips.append(block(skips[-1]))
        x = skips.pop()
        for block in self.up:
            x = block(x, skips.pop())
        return self.classifier(x)


def _faster_rcnn(side: int) -> nn.Module:
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    return fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=_CLASSES, min_size=side, max_size=side
    )


def _timm(name: str) -> Callable[[], nn.Module]:
    return partial(timm.create_model, name, num_classes=10)


NETWORKS = {
    "mobilenetv2_100": Network("MobileNetV2", _timm("mobilenetv2_100")),
    "resnet18": Network("ResNet-18", _timm("resnet18")),
    "efficientnet_lite0": Network("EfficientNet-Lite0", _timm("tf_efficientnet_lite0")),
    "convnext_atto": Network("ConvNeXt-Atto", _timm("convnext_atto")),
    "unet": Network("a U-Net", UNet),
    "faster_rcnn": Network(
        "torchvision's Faster R-CNN (MobileNetV3)", partial(_faster_rcnn, 96), 96, torch.float64, True
    ),
}
