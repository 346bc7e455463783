"""What DyNet's networks share: blocks with one coefficient branch, dilation, feature maps, registration.

Zhang et al., "DyNet: Dynamic Convolution for Accelerating Convolutional Neural Networks", arXiv 2004.10694 and ICLR
2020 submission, section 3.3. There is no official code. Every network comes twice: ``dy_*``, and its fixed twin
``fix_*`` (table 4) with the same widths, static kernels and no branch.

``create_model("dy_resnet18")`` builds the dynamic network as it is (``layer="static"`` replaces nothing); g_t is an
argument of the network: ``create_model("dy_resnet18", model_kwargs={"num_kernels": 4})``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential

from dyvision.backbones.features import resolve_out_indices
from dyvision.backbones.registry import register_backbone
from dyvision.layers import DyNetConv2d
from dyvision.signatures import SharesArguments

#: g_t of all published networks
NUM_KERNELS = 6
Conv = nn.Conv2d | DyNetConv2d
Coefficients = tuple[Tensor, ...] | None


def convolve(conv: Conv, x: Tensor, coefficients: Coefficients, index: int) -> Tensor:
    """Apply a block's convolution number ``index``; ``coefficients`` are the block's, None in a fixed network."""
    return conv(x) if coefficients is None else conv(x, coefficients[index])


class DyNetBlock(nn.Module):
    """Base of the blocks: makes their convolutions, all dynamic or all static, and predicts the coefficients.

    Args:
        num_kernels: Kernels per output channel, g_t; None for static convolutions.
    """

    def __init__(self, num_kernels: int | None) -> None:
        super().__init__()
        self.num_kernels = num_kernels

    def make_conv(self, in_channels: int, out_channels: int, kernel_size: int, **kwargs: Any) -> Conv:
        """Make a convolution without bias; ``padding`` keeps the resolution at stride 1."""
        kwargs["padding"] = kwargs.get("dilation", 1) * (kernel_size // 2)
        if self.num_kernels is None:
            return nn.Conv2d(in_channels, out_channels, kernel_size, bias=False, **kwargs)
        kwargs |= {"bias": False, "branch": False, "num_kernels": self.num_kernels}
        return DyNetConv2d(in_channels, out_channels, kernel_size, **kwargs)

    def make_branch(self, in_channels: int, convs: Sequence[Conv], hidden_reduction: int | None = None) -> None:
        """Make the branch of a dynamic block, one entry per convolution; see :class:`DyNetConv2d`."""
        layers = [conv for conv in convs if isinstance(conv, DyNetConv2d)]
        if layers:
            # not "coefficient_branch": dynamize gives that name to a branch for what is still static in the block
            self.dynet_branch = DyNetConv2d.make_shared_branch(in_channels, layers, hidden_reduction)

    def coefficients(self, x: Tensor) -> Coefficients:
        """Coefficients of all convolutions, ``[B, g_t, C_out]`` each, or None in a fixed network."""
        return None if self.num_kernels is None else self.dynet_branch(x)


def conv_norm_act(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, act: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Static convolution, BatchNorm and activation, as in stems and heads."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), act(inplace=True))


class Dilator:
    """Trades stride for dilation, block by block, where a network would exceed its output stride.

    Args:
        stride: Reduction in front of the first block.
        output_stride: Limit of the reduction.

    Raises:
        ValueError: If the limit is not 8, 16 or 32.
    """

    def __init__(self, stride: int, output_stride: int) -> None:
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride must be 8, 16 or 32, not {output_stride!r}")
        self.reduction, self.output_stride, self.dilation = stride, output_stride, 1

    def step(self, stride: int) -> tuple[int, int, int]:
        """Stride of the next block, its dilation up to the strided convolution (included), and after it."""
        before = self.dilation
        if self.reduction * stride > self.output_stride:
            self.dilation *= stride
            stride = 1
        self.reduction *= stride
        return stride, before, self.dilation


def drop_path_rates(last: float, count: int) -> list[float]:
    """Stochastic depth of each block, rising linearly from 0 to ``last``."""
    return [last * index / max(count - 1, 1) for index in range(count)]


@dataclass(frozen=True)
class Level:
    """A feature map.

    Attributes:
        modules: Names of the network's children that lead to it from the level before.
        channels: Of the map.
        reduction: Stride of the map.
    """

    modules: tuple[str, ...]
    channels: int
    reduction: int


class DyNetNetwork(SharesArguments, nn.Module):
    """Base of the networks: what all take, timm's feature contract and the classifier.

    Subclasses hand these arguments on, add the modules of their levels, then call :meth:`finish`.

    Args:
        name: Registry name.
        num_kernels: g_t; None for the fixed twin.
        num_classes: Outputs of the classifier; 0 gives features.
        in_chans: Channels of the input.
        output_stride: Stride of the last feature map, 8, 16 or 32; blocks that would exceed it are dilated instead.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block.

    Shape:
        Images ``[B, in_chans, H, W]`` to logits ``[B, num_classes]``.

    Raises:
        ValueError: If ``drop_path_rate`` is given and there are no residual connections.
    """

    #: whether the network has residual connections
    residual: ClassVar[bool] = True

    def __init__(
        self,
        name: str,
        num_kernels: int | None,
        num_classes: int = 1000,
        in_chans: int = 3,
        output_stride: int = 32,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if drop_path_rate and not self.residual:
            raise ValueError(f"{name} has no residual connections: drop_path_rate must be 0")
        self.num_kernels, self.num_classes, self.in_chans = num_kernels, num_classes, in_chans
        self.output_stride, self.drop_rate, self.drop_path_rate = output_stride, drop_rate, drop_path_rate
        self.grad_checkpointing = False
        self.pretrained_cfg: dict[str, Any] = {
            "architecture": name,
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "first_conv": "stem.0",
            "classifier": "classifier",
        }

    def finish(self, levels: Sequence[Level], head: nn.Module, neck: nn.Module, num_features: int) -> None:
        """Add what follows the last level.

        Args:
            levels: Feature maps, finest first.
            head: From the last level to the map that is pooled.
            neck: From pooled features to those that are classified.
            num_features: Channels after the neck.
        """
        self.levels = tuple(levels)
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": level.channels, "reduction": level.reduction, "module": level.modules[-1]} for level in levels
        ]
        self.head, self.neck = head, neck
        self.num_features = num_features
        self.reset_classifier(self.num_classes)

    def get_classifier(self) -> nn.Module:
        """The last linear layer (or the identity)."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one; 0 classes by the identity."""
        self.num_classes = num_classes
        self.classifier: nn.Module = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the activations of the blocks in the backward pass instead of storing them."""
        self.grad_checkpointing = enable

    def forward_features(self, x: Tensor) -> Tensor:
        """Map before pooling, ``[B, C, H / r, W / r]``."""
        features: Tensor = self.head(self.forward_intermediates(x, indices=[len(self.levels) - 1])[0])
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, num_classes]``."""
        pooled = self.neck(self.forward_features(x).mean((2, 3)))
        logits: Tensor = self.classifier(F.dropout(pooled, self.drop_rate, self.training))
        return logits

    def forward_intermediates(
        self, x: Tensor, indices: int | list[int] | None = None, intermediates_only: bool = True
    ) -> list[Tensor]:
        """Feature maps of the levels in ``indices``, by depth (timm's contract)."""
        taken = self._taken(indices)
        maps = []
        for number, level in enumerate(self.levels[: max(taken) + 1]):
            for name in level.modules:
                module = getattr(self, name)
                blocks = isinstance(module, nn.Sequential) and isinstance(module[0], DyNetBlock)
                if self.grad_checkpointing and self.training and blocks:
                    x = checkpoint_sequential(module, len(module), x, use_reentrant=False)
                else:
                    x = module(x)
            if number in taken:
                maps.append(x)
        return maps

    def prune_intermediate_layers(
        self, indices: int | list[int], prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the levels in ``indices`` do not need; returns them counted from 0."""
        taken = self._taken(indices)
        for level in self.levels[max(taken) + 1 :]:
            for name in level.modules:
                setattr(self, name, nn.Identity())
        if prune_head:
            self.head, self.neck = nn.Identity(), nn.Identity()
            self.reset_classifier(0)
        return taken

    def _taken(self, indices: int | list[int] | None) -> list[int]:
        reductions = [level.reduction for level in self.levels]
        return list(resolve_out_indices(len(reductions) if indices is None else indices, reductions, "the network"))


def register_pair(name: str, construct: Callable[..., DyNetNetwork]) -> None:
    """Register ``dy_<name>`` and its fixed twin ``fix_<name>``.

    Args:
        name: ``"mobilenetv2"``.
        construct: Takes the arguments of :class:`DyNetNetwork` by name.
    """

    def build(full: str, num_kernels: int | None, pretrained: bool, kwargs: dict[str, Any]) -> DyNetNetwork:
        if pretrained:
            raise RuntimeError("DyNet's authors published none")
        return construct(name=full, num_kernels=num_kernels, **kwargs)

    @register_backbone(f"dy_{name}")
    def build_dynamic(pretrained: bool = False, num_kernels: int = NUM_KERNELS, **kwargs: Any) -> DyNetNetwork:
        return build(f"dy_{name}", num_kernels, pretrained, kwargs)

    @register_backbone(f"fix_{name}")
    def build_fixed(pretrained: bool = False, **kwargs: Any) -> DyNetNetwork:
        if "num_kernels" in kwargs:
            raise TypeError("its kernels are fixed")
        return build(f"fix_{name}", None, pretrained, kwargs)
