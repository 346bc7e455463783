"""Errors that name the argument and both shapes, before a library does it less well."""

from __future__ import annotations

from torch import Tensor


def check_tensors(
    input: Tensor, weight: Tensor, weight_name: str, groups: int, others: dict[str, Tensor | None]
) -> None:
    """Check what ``dynamic_conv2d`` and ``mixture_conv2d`` have in common.

    Args:
        input: ``[B, C_in, H, W]``.
        weight: ``[N, C_out, C_in/groups, kH, kW]``.
        weight_name: What the caller calls ``weight``.
        groups: Number of groups.
        others: Further tensors by name; they have to be floating point and on the same device.

    Raises:
        TypeError: If a tensor is not floating point.
        ValueError: If shapes, groups or devices do not fit.
    """
    for name, tensor in {"input": input, weight_name: weight, **others}.items():
        if tensor is None:
            continue
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {tensor.dtype}")
        if tensor.device != input.device:
            raise ValueError(f"{name} is on {tensor.device}, input is on {input.device}; move them to one device")
    channels, outputs = input.shape[1] if input.ndim > 1 else 0, weight.shape[1] if weight.ndim > 1 else 0
    ordinary = input.ndim == 4 and weight.ndim == 5 and isinstance(groups, int) and groups >= 1
    if ordinary and outputs % groups == 0 and weight.shape[2] * groups == channels:
        return  # messages take time to write
    shapes = f"input {tuple(input.shape)}, {weight_name} {tuple(weight.shape)}"
    if input.ndim != 4:
        raise ValueError(f"input must be [B, C_in, H, W]; got {shapes}")
    if weight.ndim != 5:
        raise ValueError(f"{weight_name} must have five dimensions, [.., C_out, C_in/groups, kH, kW]; got {shapes}")
    if not isinstance(groups, int) or groups < 1 or input.shape[1] % groups or weight.shape[1] % groups:
        raise ValueError(f"groups must divide C_in and C_out, got groups={groups!r}; {shapes}")
    if weight.shape[2] * groups != input.shape[1]:
        raise ValueError(
            f"{weight_name} is for {weight.shape[2] * groups} input channels (with groups={groups}), input has "
            f"{input.shape[1]}; {shapes}"
        )


def check_shape(name: str, tensor: Tensor | None, allowed: tuple[tuple[int, ...], ...], meaning: str) -> None:
    """Check one tensor's shape.

    Raises:
        ValueError: If it has none of the allowed shapes.
    """
    if tensor is not None and tuple(tensor.shape) not in allowed:
        expected = " or ".join(str(list(shape)) for shape in allowed)
        raise ValueError(f"{name} must be {meaning} = {expected}, got {list(tensor.shape)}")
