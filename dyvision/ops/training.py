"""Whether a layer's convolution would be trained by kernels of our own, which take what others need more passes for."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dyvision.ops.geometry import resolve
from dyvision.ops.measuring import find_fastest
from dyvision.ops.planner import make_plan
from dyvision.ops.problem import Plan, describe_problem


def trains_natively(input: Tensor, kernels: Tensor, arguments: dict[str, Any]) -> bool:
    """Whether both passes of a mixture with factors of the weights are planned natively.

    Args:
        input: ``[B, C_in, H, W]``; of a call that is plain, see :func:`dyvision.ops.plain.is_plain`.
        kernels: ``[K, C_out, C_in/groups, kH, kW]``.
        arguments: Stride, padding, dilation and groups of the convolution, by name.
    """
    edges, geometry = resolve(input.shape, kernels.shape[-2:], **arguments)
    problem = describe_problem(input, kernels, geometry, len(kernels), True, linear=False, edges=edges)
    return make_plan(problem, find_fastest) == Plan("native", "native")
