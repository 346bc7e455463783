"""Ways to compute a convolution with one kernel per sample: one file each, one row each in the table.

A new one is a file beside these and a row of :data:`TABLE`; the planner, autograd, tiling, the fast path, measurements
and tests find it there.
"""

from __future__ import annotations

from dyvision.ops.formulations._formulation import Convolve, ConvolveMixture, Formulation, Gradients, GradientsOfMixture
from dyvision.ops.formulations.grouped import GROUPED
from dyvision.ops.formulations.loop import LOOP
from dyvision.ops.formulations.matmul import MATMUL, UNFOLD
from dyvision.ops.formulations.mix_outputs import MIX_OUTPUTS
from dyvision.ops.formulations.native import NATIVE
from dyvision.ops.formulations.scan import SCAN
from dyvision.ops.formulations.shifted import SHIFTED
from dyvision.ops.formulations.triton import TRITON
from dyvision.ops.problem import Problem

__all__ = (
    "FORMULATIONS",
    "TABLE",
    "Convolve",
    "ConvolveMixture",
    "Formulation",
    "Gradients",
    "GradientsOfMixture",
    "applicable",
    "separable",
)

TABLE = {row.name: row for row in (GROUPED, MATMUL, UNFOLD, SHIFTED, LOOP, MIX_OUTPUTS, SCAN, NATIVE, TRITON)}
#: their names
FORMULATIONS = tuple(TABLE)


def applicable(problem: Problem) -> tuple[str, ...]:
    """Names of the formulations that can compute a problem."""
    return tuple(name for name, row in TABLE.items() if row.applies(problem))


def separable(problem: Problem) -> tuple[str, ...]:
    """Of these, the ones whose passes can be chosen one by one."""
    return tuple(name for name in applicable(problem) if TABLE[name].separable)
