"""Mixtures of kernels, one per sample, and their gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from dyvision.ops.autocast import autocasts, without_autocast

#: numbers up to which a temporary tensor of all products stays in a core's cache
_IN_CACHE = 2**18
#: see :func:`mixing_as_products`
_products = False
#: B F from which matrix products per channel are faster than sums of tensors
_LONG = 3000


class Mixture(NamedTuple):
    """What the kernels of a batch are mixed from.

    Attributes:
        kernels: ``[K, C_out, C_in/groups, kH, kW]``.
        coefficients: ``[B, K]`` or ``[B, K, C_out]``.
        taps: ``[B, kH, kW]``, factors of the kernel's taps, or ``[B, C_in/groups, kH, kW]``, of its weights for every
            output channel, or None.
    """

    kernels: Tensor
    coefficients: Tensor
    taps: Tensor | None = None

    def mix(self) -> Tensor:
        """Kernels ``[B, C_out, C_in/groups, kH, kW]``."""
        mixed = mix_kernels(self.kernels, self.coefficients)
        return mixed if self.taps is None else mixed * self._factors(mixed.dtype)

    def _factors(self, dtype: torch.dtype) -> Tensor:
        """The taps as they multiply mixed kernels."""
        assert self.taps is not None
        taps = self.taps.to(dtype)
        return taps[:, None, None] if taps.ndim == 3 else taps[:, None]

    def samples(self, part: slice) -> Mixture:
        """The mixture of some samples."""
        taps = None if self.taps is None else self.taps[part]
        return Mixture(self.kernels, self.coefficients[part], taps)

    def rows(self, part: slice) -> Mixture:
        """The mixture of some output channels, for one coefficient per kernel."""
        return Mixture(self.kernels[:, part], self.coefficients, self.taps)

    def backward(self, grad: Tensor, mask: list[bool]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of :meth:`mix`; ``mask`` says for which of kernels, coefficients and taps."""
        grad_taps = None
        if self.taps is not None:
            if mask[2]:
                mixed = mix_kernels(self.kernels, self.coefficients)
                axes = (1, 2) if self.taps.ndim == 3 else (1,)
                grad_taps = (grad.to(mixed.dtype) * mixed).sum(axes).to(self.taps.dtype)
            grad = grad * self._factors(grad.dtype)
        return *mix_kernels_backward(grad, self.kernels, self.coefficients, mask[:2]), grad_taps


def mix_kernels(kernels: Tensor, coefficients: Tensor) -> Tensor:
    """Mix kernels per sample.

    Args:
        kernels: ``[K, C_out, C_in/groups, kH, kW]``.
        coefficients: ``[B, K]`` or ``[B, K, C_out]``.

    Returns:
        ``[B, C_out, C_in/groups, kH, kW]`` in the wider of both types.
    """
    if kernels.dtype != coefficients.dtype:
        dtype = torch.promote_types(kernels.dtype, coefficients.dtype)
        kernels, coefficients = kernels.to(dtype), coefficients.to(dtype)
    if autocasts(kernels.device):
        with without_autocast(kernels.device):
            return mix_kernels(kernels, coefficients)
    if coefficients.ndim == 2:
        mixed = torch.mm(coefficients, kernels.flatten(1))
    else:
        mixed = sum_by_channel(coefficients, kernels.flatten(2))
    return mixed.reshape(coefficients.shape[0], *kernels.shape[1:])


def mix_kernels_backward(
    grad: Tensor, kernels: Tensor, coefficients: Tensor, mask: list[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of :func:`mix_kernels`; ``mask`` says for which of kernels and coefficients."""
    dtype = torch.promote_types(kernels.dtype, coefficients.dtype)
    wide, narrow = kernels.to(dtype), coefficients.to(dtype)
    grad_kernels = grad_coefficients = None
    if coefficients.ndim == 2:
        flat = grad.to(dtype).flatten(1)
        if mask[0]:
            grad_kernels = (narrow.t() @ flat).view(kernels.shape)
        if mask[1]:
            grad_coefficients = flat @ wide.flatten(1).t()
    else:
        flat = grad.to(dtype).flatten(2)
        if mask[0]:
            grad_kernels = sum_by_channel(narrow.transpose(0, 1), flat).view(kernels.shape)
        if mask[1]:
            grad_coefficients = torch.einsum("bof,kof->bko", flat, wide.flatten(2))
    return (
        None if grad_kernels is None else grad_kernels.to(kernels.dtype),
        None if grad_coefficients is None else grad_coefficients.to(coefficients.dtype),
    )


def sum_by_channel(factors: Tensor, terms: Tensor) -> Tensor:
    """``sum_k factors[b, k, o] terms[k, o, f]``, ``[B, O, F]``: a product of tiny matrices per channel o.

    The library takes microseconds to start each of them; sums of whole tensors are faster unless B F is large.
    """
    on_cpu, compiling = terms.device.type == "cpu" and not _products, torch.compiler.is_compiling()
    if on_cpu and not compiling and factors.numel() * terms.shape[2] <= _IN_CACHE:
        return (factors.unsqueeze(3) * terms).sum(1)
    # a compiler makes the sums one loop
    if compiling or (on_cpu and (factors.shape[0] == 1 or factors.shape[0] * terms.shape[2] <= _LONG)):
        total = factors[:, 0, :, None] * terms[0]
        for index in range(1, len(terms)):
            total.addcmul_(factors[:, index, :, None], terms[index])
        return total
    return torch.einsum("bko,kof->bof", factors, terms)


@contextmanager
def mixing_as_products() -> Iterator[None]:
    """Mix kernels by matrix products only: counters of multiply-adds see these and no sums of tensors."""
    global _products
    before, _products = _products, True
    try:
        yield
    finally:
        _products = before
