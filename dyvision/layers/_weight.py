"""``layer.weight``: there for whoever asks for its type and device, and refused to whoever folds it as a kernel.

Networks read ``conv.weight.dtype``; every layer has that. Hosts also fold a BatchNorm into ``conv.weight``, or add
parallel convolutions up (timm's ``reparameterize_model``, ``fuse_conv_and_bn`` of YOLOs, ``switch_to_deploy``), and put
an ordinary convolution with the result in the layer's place: the dynamics would be gone without a word. Nothing but the
name of the function that reads ``weight`` tells a layer so.
"""

from __future__ import annotations

import re
import sys
from functools import cache
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: words of such names: ``_fuse_bn_tensor``, ``reparameterize``, ``switch_to_deploy``, ``get_equivalent_kernel_bias``
_FOLDS = re.compile(r"(^|_)(fuse[ds]?|fold|merge|reparam\w*|deploy|kernel_bias)(_|$)", re.IGNORECASE)

_INNER = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>"})


class StaticKernel(NamedTuple):
    """The ordinary convolution that a layer is under one set of coefficients.

    Attributes:
        weight: ``[C_out, C_in/groups, kH, kW]``; groups and size may be others than the layer's.
        bias: ``[C_out]`` or None.
        padding: What it pads instead of the layer's padding; None for the same.
        dilation: Its dilation instead of the layer's; None for the same.
    """

    weight: Tensor
    bias: Tensor | None
    padding: tuple[int, int] | str | None = None
    dilation: tuple[int, int] | None = None


def dense_weight(weight: Tensor, groups: int) -> Tensor:
    """The weight ``[O, I/groups, ..]`` of a grouped convolution as that of a dense one, ``[O, I, ..]``."""
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    dense = weight.new_zeros(weight.shape[0], inputs * groups, *weight.shape[2:])
    for group, part in enumerate(weight.split(outputs)):
        dense[group * outputs : (group + 1) * outputs, group * inputs : (group + 1) * inputs] = part
    return dense


class StoredKernels:
    """The attribute ``weight`` of layers; without ``__set__``, so that pruning and the like can put theirs above it."""

    def __get__(self, layer: Any, owner: type | None = None) -> Any:
        if layer is None:
            return self
        if not torch.compiler.is_compiling():
            _refuse_folding(layer, sys._getframe(1))
        own: Tensor | None = layer._parameters.get("weight")
        return layer._stored_kernels() if own is None else own


def _refuse_folding(layer: Any, reader: FrameType) -> None:
    """Say that a layer's kernels cannot be folded, if a function that is called so reads them.

    Raises:
        TypeError: If so.
    """
    while reader.f_code.co_name in _INNER and reader.f_back is not None:  # frames of their own before Python 3.12
        reader = reader.f_back
    name = reader.f_code.co_name
    if not _folds(name) or str(reader.f_globals.get("__name__")).partition(".")[0] == "dyvision":
        return
    if reader.f_locals.get("self") is layer:  # an own layer, which folds itself
        return
    raise TypeError(
        f"{name} cannot fold {type(layer).__name__} into an ordinary convolution: its kernel depends on the input. Use "
        "dyvision.fuse(model), which keeps it dynamic, or dyvision.collapse(model, data), which makes it static"
    )


@cache
def _folds(name: str) -> bool:
    return bool(_FOLDS.search(name))
