"""torchvision: a dyvision network as the backbone of its detectors and of its segmentation networks.

``fpn_backbone`` stands for ``torchvision.models.detection.backbone_utils.resnet_fpn_backbone``; what ``DeepLabV3`` and
``FCN`` take is made by ``segmentation_backbone``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from os import PathLike
from typing import Any

from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from dyvision.adapters._levels import modules_up_to
from dyvision.backbones import Backbone, create_backbone
from dyvision.backbones.keywords import check_keywords
from dyvision.tasks.freezing import freeze_norm as put_norm_into_evaluation
from dyvision.tasks.freezing import freeze_parameters
from dyvision.tasks.heads.detection.features import PyramidFeatures

__all__ = ("FPNBackbone", "SegmentationBackbone", "fpn_backbone", "segmentation_backbone")

#: levels of a network, as ``resnet_fpn_backbone`` counts them: the stem and four of reduction 4 to 32
_LEVELS = 5


class FPNBackbone(PyramidFeatures):
    """A backbone with a feature pyramid, for torchvision's detectors.

    Args:
        backbone: Network that returns a list of maps; all of them enter the pyramid.
        out_channels: Channels of every level of the pyramid.
        extra: Coarser levels: a block of torchvision's, ``"pool"``, ``"p5"``, ``"c5"`` or None.
        freeze_norm: Whether the BatchNorms of the network keep their statistics in training; those of coefficient
            branches never do.

    Shape:
        ``[B, C, H, W]`` to a dict of ``[B, out_channels, H / r, W / r]``, finest first.
    """

    def __init__(
        self, backbone: Backbone, out_channels: int, extra: str | ExtraFPNBlock | None, freeze_norm: bool
    ) -> None:
        super().__init__(backbone, out_channels, 1, extra if isinstance(extra, str) else None)
        if isinstance(extra, ExtraFPNBlock):
            self.fpn.extra_blocks = extra
        self.freeze_norm = freeze_norm

    def train(self, mode: bool = True) -> FPNBackbone:
        """Training or evaluation mode, frozen BatchNorms excepted."""
        super().train(mode)
        if self.freeze_norm:
            put_norm_into_evaluation(self.body)
        return self


class SegmentationBackbone(nn.Module):
    """A backbone whose last maps have the names that torchvision's segmentation networks ask for.

    Args:
        backbone: Network that returns a list of maps, the last one for ``"out"``, one before it for ``"aux"``.

    Attributes:
        channels: Channels of each map by name.

    Shape:
        ``[B, C, H, W]`` to a dict: ``"out"`` and, if there is one, ``"aux"``.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.body = backbone
        channels = backbone.feature_info.channels()
        self._names = ("aux", "out")[-len(channels) :]
        self.channels = dict(zip(self._names, channels, strict=True))

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """The maps by name."""
        return OrderedDict(zip(self._names, self.body(x), strict=True))


def fpn_backbone(
    name: str,
    layer: str = "static",
    *,
    pretrained: bool | str | PathLike[str] = False,
    trainable_layers: int | None = None,
    returned_layers: Sequence[int] | None = None,
    extra_blocks: str | ExtraFPNBlock | None = "pool",
    out_channels: int = 256,
    freeze_norm: bool | None = None,
    **arguments: Any,
) -> FPNBackbone:
    """A network with a feature pyramid: what ``FasterRCNN``, ``MaskRCNN``, ``RetinaNet`` and ``FCOS`` take.

    Args:
        name: A network; see :func:`dyvision.create_backbone`.
        layer: A layer; see :func:`dyvision.list_layers`.
        pretrained: True for the published weights, or a file.
        trainable_layers: How many of the five levels (stem and reductions 4 to 32) train, the last ones. 3 if
            ``pretrained``, else all, as in torchvision. Coefficient branches always train: nothing has taught them yet.
        returned_layers: Levels that enter the pyramid, 1 (reduction 4) to 4 (reduction 32); all four by default. The
            papers of RetinaNet and FCOS take ``(2, 3, 4)``.
        extra_blocks: Coarser levels: ``"pool"``, one subsampled (R-CNN), ``"p5"`` or ``"c5"``, two computed from the
            pyramid's or the network's last map (FCOS, RetinaNet), a block of torchvision's, or None.
        out_channels: Channels of every level.
        freeze_norm: Whether BatchNorm keeps its statistics; by default if ``pretrained``, as in torchvision.
        **arguments: Of :func:`dyvision.create_backbone`: ``in_chans``, ``policy``, the layer's own, ...

    Raises:
        ValueError: For an unknown name, or a level that does not exist.

    Example:
        >>> from torchvision.models.detection import FasterRCNN
        >>> model = FasterRCNN(fpn_backbone("mobilenetv2_035", "dcd"), num_classes=3)
    """
    check_keywords(arguments, [fpn_backbone, create_backbone], layer)
    if trainable_layers is None:
        trainable_layers = 3 if pretrained else _LEVELS
    if not isinstance(trainable_layers, int) or not 0 <= trainable_layers <= _LEVELS:
        raise ValueError(f"trainable_layers must be 0 to {_LEVELS}, not {trainable_layers!r}")
    layers = sorted({1, 2, 3, 4} if returned_layers is None else set(returned_layers))
    if not layers or not set(layers) <= {1, 2, 3, 4}:
        raise ValueError(f"returned_layers must be numbers from 1 to 4, not {returned_layers!r}")
    if isinstance(extra_blocks, str) and extra_blocks not in ("pool", "p5", "c5"):
        raise ValueError(f"extra_blocks must be 'pool', 'p5', 'c5', None or a block, not {extra_blocks!r}")
    indices = tuple(number - _LEVELS for number in layers)
    backbone = create_backbone(name, layer, out_indices=indices, pretrained=pretrained, **arguments)
    _freeze(backbone, trainable_layers)
    frozen = bool(pretrained) if freeze_norm is None else freeze_norm
    return FPNBackbone(backbone, out_channels, extra_blocks, frozen).train()


def segmentation_backbone(
    name: str,
    layer: str = "static",
    *,
    pretrained: bool | str | PathLike[str] = False,
    output_stride: int = 8,
    aux: bool = False,
    **arguments: Any,
) -> SegmentationBackbone:
    """A network as ``DeepLabV3`` and ``FCN`` take it.

    Args:
        name: A network; see :func:`dyvision.create_backbone`.
        layer: A layer; see :func:`dyvision.list_layers`.
        pretrained: True for the published weights, or a file.
        output_stride: Reduction of the last map: 8, 16 or 32.
        aux: Whether the map before the last is returned, too, for the auxiliary classifier.
        **arguments: Of :func:`dyvision.create_backbone`.

    Raises:
        ValueError: As for :func:`dyvision.create_backbone`.

    Example:
        >>> from torchvision.models.segmentation.deeplabv3 import DeepLabHead, DeepLabV3
        >>> backbone = segmentation_backbone("mobilenetv2_035", "dcd", output_stride=16)
        >>> model = DeepLabV3(backbone, DeepLabHead(backbone.channels["out"], num_classes=3))
    """
    check_keywords(arguments, [segmentation_backbone, create_backbone], layer)
    if "out_indices" in arguments:
        raise ValueError("out_indices: the last map is 'out', the one before it 'aux'; give aux=True or False")
    arguments |= {"output_stride": output_stride, "pretrained": pretrained}
    return SegmentationBackbone(create_backbone(name, layer, out_indices=2 if aux else 1, **arguments))


def _freeze(backbone: Backbone, trainable_layers: int) -> None:
    """Freeze what is computed before the last so many levels; what later levels share with it stays trainable."""
    if trainable_layers == _LEVELS:
        return
    levels = backbone.feature_info.info
    modules = {name: module for name, module in backbone.body.named_modules() if name}
    first = len(levels) - trainable_layers
    if first > 0:  # to the end of the level before
        cut = len(modules_up_to(backbone, first - 1))
    else:  # a network whose stem is no level
        cut = list(modules).index(levels[0]["module"])
    own = [list(module.parameters(recurse=False)) for module in modules.values()]
    later = {id(parameter) for parameters in own[cut:] for parameter in parameters}
    earlier = [parameter for parameters in own[:cut] for parameter in parameters]
    freeze_parameters(backbone, [parameter for parameter in earlier if id(parameter) not in later])
