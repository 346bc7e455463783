"""WeightNet-ShuffleNetV2 (Ma et al. 2020, arXiv 2007.11823): every convolution of the units is generated.

Official: ``megvii-model/WeightNet``, ``shufflenet_v2.py``. One reduced vector per unit, computed from the input of its
right branch, feeds all its convolutions. Stem, last 1x1 convolution (both with a bias) and classifier are static.
Unlike torchvision's ShuffleNetV2, a unit shuffles its input (even channels left, odd right) rather than its output, and
the widths are slightly different. Global pooling replaces the official 7x7 window, so every input size works.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dyvision.backbones.base.shufflenetv2 import ShuffleNetV2
from dyvision.backbones.registry import register_backbone
from dyvision.layers.weightnet import WeightNetConv2d

#: width: output channels of stem, stages 2 to 4 and head
WIDTHS = {
    "0.5": (24, 48, 96, 192, 1024),
    "1.0": (24, 112, 224, 448, 1024),
    "1.5": (24, 176, 352, 704, 1024),
    "2.0": (24, 248, 496, 992, 1024),
}
REPEATS = (4, 8, 4)
STAGES = ("stage2", "stage3", "stage4")
#: dropout of the official 2.0x network; the others have none
DROP_RATES = {"2.0": 0.2}


class WeightNetShuffleUnit(nn.Module):
    """A unit of ShuffleNetV2 whose convolutions share one reduced vector.

    Args:
        in_channels: Channels of the right branch's input: half of the unit's input if it splits, else all.
        out_channels: Channels of the unit's output.
        mid_channels: Channels inside the right branch.
        kernel_size: Of the depthwise convolutions, odd.
        stride: Of the depthwise convolutions.
        dilation: Of the depthwise convolutions.
        split: Whether the left half of the shuffled input passes unchanged. Otherwise both branches see the whole
            input, as where the resolution is halved.
        **layer_kwargs: Arguments of :class:`dyvision.layers.WeightNetConv2d`.

    Shape:
        ``[B, 2 * in_channels (split) or in_channels, H, W]`` to ``[B, out_channels, H', W']``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        mid_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        split: bool = True,
        **layer_kwargs: Any,
    ) -> None:
        super().__init__()
        self.split = split
        own = {"bias": False, "branch": False, **layer_kwargs}
        spatial = {"stride": stride, "padding": dilation * (kernel_size // 2), "dilation": dilation, **own}

        def pointwise(inputs: int, outputs: int) -> WeightNetConv2d:
            return WeightNetConv2d(inputs, outputs, 1, **own)

        def depthwise(channels: int) -> WeightNetConv2d:
            return WeightNetConv2d(channels, channels, kernel_size, groups=channels, **spatial)

        self.conv1 = pointwise(in_channels, mid_channels)
        self.bn1 = nn.BatchNorm2d(mid_channels)
        self.conv2 = depthwise(mid_channels)
        self.bn2 = nn.BatchNorm2d(mid_channels)
        self.conv3 = pointwise(mid_channels, out_channels - in_channels)
        self.bn3 = nn.BatchNorm2d(out_channels - in_channels)
        layers = [self.conv1, self.conv2, self.conv3]
        if not split:
            self.proj_conv1 = depthwise(in_channels)
            self.proj_bn1 = nn.BatchNorm2d(in_channels)
            self.proj_conv2 = pointwise(in_channels, in_channels)
            self.proj_bn2 = nn.BatchNorm2d(in_channels)
            layers += [self.proj_conv1, self.proj_conv2]
        self.coefficient_branch = WeightNetConv2d.make_shared_branch(in_channels, layers)

    def forward(self, x: Tensor) -> Tensor:
        """Run both branches on one vector p."""
        left, right = (x[:, ::2], x[:, 1::2]) if self.split else (x, x)
        reduced = self.coefficient_branch(right)
        right = torch.relu(self.bn1(self.conv1(right, reduced[0])))
        right = self.bn2(self.conv2(right, reduced[1]))
        right = torch.relu(self.bn3(self.conv3(right, reduced[2])))
        if not self.split:
            left = self.proj_bn1(self.proj_conv1(left, reduced[3]))
            left = torch.relu(self.proj_bn2(self.proj_conv2(left, reduced[4])))
        return torch.cat((left, right), 1)


class WeightNetShuffleNetV2(ShuffleNetV2):
    """ShuffleNetV2 of generated kernels, with feature maps.

    Args:
        width: ``"0.5"``, ``"1.0"``, ``"1.5"`` or ``"2.0"``; or the channels of stem, three stages and head.
        num_classes: Outputs of the classifier; 0 gives pooled features.
        in_chans: Channels of the input.
        output_stride: Stride of the last feature map, 8, 16 or 32. Stages that would exceed it keep the resolution and
            are dilated instead; the means they pool for p change slightly with it.
        drop_rate: Dropout before the classifier; None is the official one, 0.2 for width 2.0.
        **layer_kwargs: Arguments of :class:`dyvision.layers.WeightNetConv2d`, ``multiplier`` and ``generator_groups``.

    Raises:
        ValueError: If there is no such width.
    """

    def __init__(
        self,
        width: str | Sequence[int],
        num_classes: int = 1000,
        in_chans: int = 3,
        output_stride: int = 32,
        drop_rate: float | None = None,
        **layer_kwargs: Any,
    ) -> None:
        # not the parent's constructor: it would build torchvision's network; what is inherited is the feature contract
        nn.Module.__init__(self)
        if isinstance(width, str) and width not in WIDTHS:
            raise ValueError(f"width must be one of {', '.join(WIDTHS)}, got {width!r}")
        channels = WIDTHS[width] if isinstance(width, str) else tuple(width)
        if len(channels) != 5 or min(channels) < 1 or any(count % 2 for count in channels[1:4]):
            raise ValueError(f"width must be five positive numbers, those of the stages even, got {channels}")
        name = width if isinstance(width, str) else "custom"
        self.conv1 = _conv_norm_relu(in_chans, channels[0], 3, stride=2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        reductions = [2, 4]
        stride, dilation = 4, 1
        for stage, repeats, inputs, outputs in zip(STAGES, REPEATS, channels, channels[1:], strict=False):
            step = 2 if 2 * stride <= output_stride else 1
            first = WeightNetShuffleUnit(
                inputs, outputs, outputs // 2, stride=step, dilation=dilation, split=False, **layer_kwargs
            )
            # what follows a stride that was given up sees inputs twice as close
            stride, dilation = stride * step, dilation * (2 // step)
            rest = [
                WeightNetShuffleUnit(outputs // 2, outputs, outputs // 2, dilation=dilation, **layer_kwargs)
                for _ in range(repeats - 1)
            ]
            setattr(self, stage, nn.Sequential(first, *rest))
            reductions.append(stride)
        self.conv5 = _conv_norm_relu(channels[3], channels[4], 1)
        maps = zip((channels[0], *channels[:4]), reductions, ("conv1", "maxpool", *STAGES), strict=True)
        self.feature_info = [{"num_chs": c, "reduction": r, "module": module} for c, r, module in maps]
        self.num_features = channels[4]
        self.drop_rate = DROP_RATES.get(name, 0.0) if drop_rate is None else drop_rate
        self.grad_checkpointing = False
        self.pretrained_cfg = {
            "architecture": _name(name),
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "first_conv": "conv1.0",
            "classifier": "fc",
        }
        self.reset_parameters()
        self.reset_classifier(num_classes)

    def reset_parameters(self) -> None:
        """As the official code: stem N(0, 0.01), head N(0, 1 / inputs), BatchNorm biases 1e-4; see the layers' own."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.bias, 1e-4)
        for name, conv in self.named_modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.normal_(conv.weight, std=0.01 if name.startswith("conv1") else 1 / conv.in_channels)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one, N(0, 0.01); 0 classes by the identity."""
        super().reset_classifier(num_classes, global_pool)
        if isinstance(self.fc, nn.Linear):
            nn.init.normal_(self.fc.weight, std=0.01)
            nn.init.zeros_(self.fc.bias)


def _conv_norm_relu(inputs: int, outputs: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _name(width: str) -> str:
    return f"weightnet_shufflenetv2_x{width.replace('.', '_')}"


def _register(width: str) -> None:
    def build(pretrained: bool = False, drop_path_rate: float = 0.0, **kwargs: Any) -> WeightNetShuffleNetV2:
        if drop_path_rate:
            raise ValueError(
                f"{_name(width)} has no residual connections: drop_path_rate must be 0, not {drop_path_rate}"
            )
        if pretrained:
            raise RuntimeError("the official weights are MegEngine's; convert them with dyvision.checkpoints")
        return WeightNetShuffleNetV2(width, **kwargs)

    register_backbone(_name(width))(build)


for _width in WIDTHS:
    _register(_width)
