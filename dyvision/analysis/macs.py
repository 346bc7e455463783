"""Multiply-adds and parameters of a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dyvision.ops.counting import every_operation


def count_macs(model: nn.Module, input_size: Sequence[int] = (1, 3, 224, 224)) -> int:
    """Count the multiply-adds of one forward pass in evaluation mode.

    Counted is what is executed, with kernels mixed before they are used: every convolution and matrix product (linear
    layers, attention, per-sample kernels, coefficient branches, and the mixing of kernels), for the whole batch. Not
    counted, as is usual, are element-wise operations, normalisation, activations and pooling. A convolution written as
    multiply-adds per output element; the zeros of padding count.

    Args:
        model: A module called with one image tensor. It may return anything. Left in the mode it was in.
        input_size: Shape of the input, ``[B, C, H, W]``.

    Returns:
        Multiply-adds; MobileNetV2 at 224 x 224 has 300.8 million.

    Raises:
        ValueError: If ``input_size`` is not four positive integers.
    """
    return count_macs_of(model, make_input(model, input_size))


def count_macs_of(model: nn.Module, example: object) -> int:
    """As :func:`count_macs`, for a given input: a detector's is a list of images, and what it finds decides what runs.

    Args:
        model: Left in the mode it was in.
        example: What it is called with.
    """
    counter = FlopCounterMode(display=False)
    with evaluating(model), every_operation(), torch.no_grad(), counter:
        model(example)
    return counter.get_total_flops() // 2


def count_parameters(model: nn.Module, trainable_only: bool = False) -> int:
    """Count the elements of all parameters, each parameter once.

    Args:
        model: Any module.
        trainable_only: Leave out frozen parameters.
    """
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def make_input(model: nn.Module, input_size: Sequence[int]) -> torch.Tensor:
    """Return an image of zeros on the model's device, in its type.

    Raises:
        ValueError: If ``input_size`` is not four positive integers.
    """
    if len(input_size) != 4 or any(not isinstance(size, int) or size < 1 for size in input_size):
        raise ValueError(f"input_size must be four positive integers [B, C, H, W], not {tuple(input_size)!r}")
    reference = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), torch.zeros(()))
    return torch.zeros(*input_size, device=reference.device, dtype=reference.dtype)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, restored module by module: parts may be frozen on their own."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
