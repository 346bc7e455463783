"""The most memory that one call holds."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dyvision.analysis.benchmark.timing import Run
from dyvision.ops.modes import following_memory

#: what the number means, by kind of device
COUNTED = {
    "cpu": "memory: parameters, buffers and the most that tensors made in one step occupy (activations, gradients, "
    "temporary ones), without scratch memory inside an operation",
    "cuda": "memory: parameters, buffers and the allocator's peak during one step (activations, gradients, temporary "
    "tensors, workspaces)",
}


def measure_peak_memory(run: Run, model: nn.Module, device: torch.device) -> int:
    """Bytes of a model's parameters and buffers, and the most that one call holds beyond what was there before it.

    That is gradients (if they were None before), activations kept for the backward pass, and temporary tensors; not
    the input, nor an optimiser's state.

    * CUDA: the allocator's peak (``torch.cuda.max_memory_allocated``), workspaces of the libraries included.
    * CPU: the storages of all tensors that operations return, counted from then until they are freed. What an
      operation uses inside (a library's scratch memory) is not seen. The call is much slower: do not time it.

    Args:
        run: What is called once; it should have run before, so that nothing is allocated for the first time.
        model: Whose parameters and buffers are added.
        device: Where it runs.
    """
    tensors = {tensor.data_ptr(): tensor for tensor in [*model.parameters(), *model.buffers()]}
    own = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if device.type != "cuda":
        with following_memory(), _LiveStorages() as storages:
            run()
        return own + storages.peak
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return own + torch.cuda.max_memory_allocated(device) - before


class _LiveStorages(TorchDispatchMode):
    """Follows the storages that operations create.

    Attributes:
        live: Bytes that exist now.
        peak: The most that existed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        # the reference of a storage lives here; by address, as storages compare by content
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for value in tree_leaves((args, kwargs)):
            self._meet(value, created=False)  # what no operation made was there before
        output = func(*args, **kwargs)
        for value in tree_leaves(output):
            self._meet(value, created=True)
        return output

    def _meet(self, value: Any, created: bool) -> None:
        if not isinstance(value, Tensor) or value.layout is not torch.strided:
            return
        storage = value.untyped_storage()
        address = storage._cdata
        if address in self._known:
            return
        size = storage.nbytes() if created else 0

        def free(_: Any) -> None:
            del self._known[address]
            self.live -= size

        self._known[address] = weakref.ref(storage, free)
        self.live += size
        self.peak = max(self.peak, self.live)
