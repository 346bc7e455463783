"""Whether a mixture is planned for kernels of our own: then more of a layer than its convolution goes into them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from dyvision.ops.geometry import Padding, Size, resolve
from dyvision.ops.measuring import find_fastest, wants_measurement
from dyvision.ops.planner import forced_formulation, make_plan
from dyvision.ops.problem import Plan, Problem


def plans_natively(
    shape: Sequence[int],
    kernels: Sequence[int],
    arguments: tuple[Size, Padding, Size, int],
    training: bool,
    linear: bool,
) -> bool:
    """Whether all passes are planned natively; asked once per signature.

    Args:
        shape: Of the input of a call that is plain, see :func:`dyvision.ops.plain.is_plain`: ``(B, C_in, H, W)``.
        kernels: ``(K, C_out, C_in/groups, kH, kW)``.
        arguments: Stride, padding, dilation and groups of the convolution.
        training: Whether there will be a backward pass.
        linear: Whether outputs could be mixed instead of kernels.
    """
    # what is planned may be forced, or measured
    decided_by = (torch.get_num_threads(), forced_formulation(), wants_measurement())
    return _plans_natively(tuple(shape), tuple(kernels), arguments, training, linear, decided_by)


@lru_cache(4096)
def _plans_natively(
    shape: tuple[int, ...],
    kernels: tuple[int, ...],
    arguments: tuple[Size, Padding, Size, int],
    training: bool,
    linear: bool,
    _: object,
) -> bool:
    edges, geometry = resolve(shape, kernels[3:], *arguments)
    left, right, top, bottom = edges or (0, 0, 0, 0)
    problem = Problem(
        batch=shape[0],
        in_channels=shape[1],
        out_channels=kernels[1],
        kernel=(kernels[3], kernels[4]),
        size=(shape[2] + top + bottom, shape[3] + left + right),
        geometry=geometry,
        mixed=kernels[0],
        device="cpu",
        dtype=torch.float32,
        channels_last=False,
        training=training,
        linear=linear,
    )
    return make_plan(problem, find_fastest) == Plan("native", "native")
