"""Who is calling: eager code, a compiler or tracer, or a transform (``torch.func``, forward-mode differentiation)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._device import DeviceContext


def _transforms() -> bool:
    # private: there is no public question for either; torch.autograd.Function asks the first one itself
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def is_transformed() -> bool:
    """Whether a transform (``vmap``, ``jvp``, ``jacrev``, ``hessian``, ``forward_ad.dual_level``) is at work.

    It differentiates and batches plain operations; autograd functions of our own have no rule for it.
    """
    # compilers trace through transforms themselves
    return not torch.compiler.is_compiling() and _transforms()


def is_traced() -> bool:
    """Whether the operations of this call are recorded or transformed: they have to be plain and always the same."""
    # asked at every call of a layer: no question twice
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or _transforms()


def is_wrapped(tensor: Tensor) -> bool:
    """Whether a tensor stands for others, as in a batch of gradients (``is_grads_batched``): it has no memory."""
    # private: a backward pass runs outside the transform, and there is no public question for its tensors
    functorch = torch._C._functorch
    return functorch.is_legacy_batchedtensor(tensor) or functorch.is_functorch_wrapped_tensor(tensor)


def is_watched() -> bool:
    """Whether a mode sees, replaces or counts the operations of this call: what computes without them is not seen."""
    # private: there is no public question that takes less than the call itself
    return torch._C._len_torch_dispatch_stack() > _following or (
        torch._C._len_torch_function_stack() > 0 and _functions_are_seen()
    )


#: modes that only follow memory
_following = 0


@contextmanager
def following_memory() -> Iterator[None]:
    """Say of one dispatch mode, entered inside, that native code goes on under it: all its tensors are torch's."""
    global _following
    _following += 1
    try:
        yield
    finally:
        _following -= 1


def _functions_are_seen() -> bool:
    # of torch.set_default_device: it only says where what is new is made
    return any(type(mode) is not DeviceContext for mode in torch.overrides._get_current_function_mode_stack())


def is_exporting() -> bool:
    """Whether the operations of this call will be run at other sizes: by an exporter, or ``torch.jit.trace``."""
    if torch.jit.is_tracing():
        return True
    # torch 2.7; before it an exporter cannot be told from a compiler
    exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    return bool(exporting())


_to_onnx = False


@contextmanager
def exporting_to_onnx() -> Iterator[None]:
    """Record the operators as what :mod:`dyvision.export` translates, not as plain operations."""
    global _to_onnx
    before, _to_onnx = _to_onnx, True
    try:
        yield
    finally:
        _to_onnx = before


def is_exporting_to_onnx() -> bool:
    """Whether this is inside :func:`exporting_to_onnx`, and the call is recorded."""
    return _to_onnx and is_exporting()


def has_open_size(x: Tensor) -> bool:
    """Whether what is recorded of this call will be run for other heights and widths of ``x`` than these."""
    # the exporter of torch 2.6 fails on maps that are scaled per sample, and has no such function
    if is_exporting_to_onnx() and hasattr(torch.compiler, "is_exporting"):
        return not all(isinstance(size, int) for size in x.shape[2:])
    return is_exporting()
