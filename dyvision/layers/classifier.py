"""Dynamic classifiers: the last linear layer of DCD's and CondConv's networks as a dynamic 1x1 convolution.

Official: ``DYCls`` of ``liyunsheng13/dcd`` (``models/imagenet/mobilenetv2_dcd.py``); ``classifier`` with its own
``classifier_route`` in ``d-li14/condconv.pytorch`` (``cond_mobilenetv2.py``). Pooled features are a map of one pixel:
convolutions compute both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dyvision.layers._base import DynamicConv2d, check_positive
from dyvision.layers.condconv import CondConv2d
from dyvision.layers.dcd import DCDConv2d
from dyvision.layers.dcd_branch import SMALL

#: rank of Phi and width of the branch in the official DCD classifier, whatever its size
DCD_RANK = 32


class DynamicClassifier(nn.Module):
    """A classifier that is a dynamic 1x1 convolution of pooled features.

    Args:
        conv: Maps ``[B, C, 1, 1]`` to ``[B, num_classes, 1, 1]``.
    """

    def __init__(self, conv: DynamicConv2d) -> None:
        super().__init__()
        self.conv = conv

    @property
    def in_features(self) -> int:
        """Length of the pooled features, as ``nn.Linear`` calls it."""
        return self.conv.in_channels

    @property
    def out_features(self) -> int:
        """Number of classes, as ``nn.Linear`` calls it."""
        return self.conv.out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C]`` to logits ``[B, num_classes]``."""
        logits: Tensor = self.conv(x[:, :, None, None])
        return logits.flatten(1)


def dcd_classifier(
    in_features: int,
    num_classes: int,
    bias: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> DynamicClassifier:
    """Build DCD's classifier: ``Lambda * (C f + c) + P (BN2(Phi u) + u)`` with ``u = BN1(Q f)``, Phi 32x32.

    Args:
        in_features: Length of the pooled features f.
        num_classes: Number of classes.
        bias: Whether there is c; it is inside the scaling.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Returns:
        The classifier, all linear maps N(0, 0.01), biases 0, as in the official MobileNetV2.
    """
    check_positive("in_features", in_features)
    check_positive("num_classes", num_classes)
    conv = DCDConv2d(
        in_features,
        num_classes,
        1,
        bias=bias,
        form="bottleneck",  # the form that pools to one pixel for any number of channels
        rank=DCD_RANK,
        squeeze=max(in_features, DCD_RANK**2) // DCD_RANK,  # a branch of width 32
        initializer=SMALL,
        device=device,
        dtype=dtype,
    )
    return DynamicClassifier(conv)


def condconv_classifier(
    in_features: int,
    num_classes: int,
    bias: bool = False,
    num_kernels: int = 8,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> DynamicClassifier:
    """Build CondConv's classifier: K linear maps mixed by a routing of their own from the pooled features.

    Args:
        in_features: Length of the pooled features.
        num_classes: Number of classes.
        bias: Whether there are biases, mixed alike; the reference has none.
        num_kernels: K.
        device: Device of the parameters.
        dtype: Type of the parameters.
    """
    check_positive("in_features", in_features)
    check_positive("num_classes", num_classes)
    conv = CondConv2d(in_features, num_classes, 1, bias=bias, num_kernels=num_kernels, device=device, dtype=dtype)
    return DynamicClassifier(conv)
