"""What counters of operations need, to see all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from dyvision.ops.kernels import mixing_as_products
from dyvision.ops.planner import formulation


@contextmanager
def every_operation() -> Iterator[None]:
    """Run what counters see and always the same: no transformer layer as one operation, kernels mixed by products.

    The planner may mix the outputs of all K kernels instead, where K times the multiply-adds are faster.
    """
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # attention by products: torch's counter does not know the fused kernel for CPUs
        with formulation("grouped"), mixing_as_products(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
