"""All K kernels at once, and their outputs mixed (DyNet's training form, its Eq. 2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dyvision.ops.formulations._formulation import Formulation
from dyvision.ops.geometry import Geometry
from dyvision.ops.kernels import Mixture
from dyvision.ops.problem import Problem
from dyvision.ops.work import Work, calls, convolutions, maps, moved, sizes_of


def mix_outputs(input: Tensor, mixture: Mixture, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """Convolve with all kernels and mix the results."""
    kernels, coefficients, _ = mixture
    count, out_channels = kernels.shape[:2]
    groups = geometry.groups
    # group-major, so that one convolution with `groups` groups serves all kernels
    stacked = kernels.view(count, groups, out_channels // groups, *kernels.shape[2:]).transpose(0, 1)
    outputs = F.conv2d(
        input,
        stacked.reshape(count * out_channels, *kernels.shape[2:]).to(input.dtype),
        None,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        groups,
    )
    size = outputs.shape[-2:]
    outputs = outputs.view(input.shape[0], groups, count, out_channels // groups, *size)
    per_channel = coefficients[:, :, None].expand(-1, -1, out_channels) if coefficients.ndim == 2 else coefficients
    weights = per_channel.reshape(-1, count, groups, out_channels // groups).transpose(1, 2)
    output = (outputs * weights.to(outputs.dtype)[..., None, None]).sum(2).flatten(1, 2)
    return output if bias is None else output.add_(bias[:, :, None, None])


def _work(problem: Problem) -> Work:
    sizes = sizes_of(problem)
    stacked = sizes._replace(outputs=sizes.banks * sizes.outputs)
    parts = sizes.groups * stacked.outputs
    kernels, outputs = parts * sizes.inputs * sizes.taps, parts * sizes.batch * sizes.pixels
    work = convolutions(stacked, 1, sizes.batch, sizes.groups) | maps(sizes) | calls(4)
    return work | moved("kernels", kernels) | moved("outputs", outputs)


MIX_OUTPUTS = Formulation(
    "mix_outputs",
    applies=lambda problem: problem.mixed > 0 and problem.linear,
    rank=lambda problem: 6,
    forward_of_mixture=mix_outputs,
    work=_work,
    any_batch=True,
)
