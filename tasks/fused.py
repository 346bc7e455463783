"""Which of torch's implementations of an optimiser runs (fused, foreach, for-loop), and what a run needs for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adagrad, Adam, AdamW, Optimizer

#: arguments that say how an optimiser computes, not what
IMPLEMENTATION = ("foreach", "fused")
#: what has fused kernels that give the for-loop's results, and where; in half precision they round less often than it
_FUSED: dict[Any, tuple[str, ...]] = {
    SGD: ("cpu", "cuda"),
    Adam: ("cpu", "cuda"),
    AdamW: ("cpu", "cuda"),
    Adagrad: ("cpu",),
}
_TYPES = (torch.float32, torch.float64)
#: of a device's memory: foreach keeps a copy of all parameters during a step, which matters above this share
_SHARE = 0.01


def implementation(
    optimizer_class: Any,
    given: Mapping[str, Any],
    accepted: Collection[str],
    parameters: Iterable[Tensor],
    sparse: bool,
) -> dict[str, bool]:
    """Choose how an optimiser computes, unless the user has.

    Fused where torch has kernels of that optimiser for these parameters and nothing else that was asked for excludes
    them; otherwise one parameter after the other where the copy that ``foreach`` makes is large for the device;
    otherwise what torch chooses (on a CPU one after the other, on a GPU ``foreach``).

    Args:
        optimizer_class: Class of the optimiser.
        given: Arguments that the user gives.
        accepted: Names of the arguments that the class takes.
        parameters: What it is to optimise.
        sparse: Whether some of their gradients are sparse.

    Returns:
        Arguments to add: ``fused``, ``foreach`` or neither.
    """
    chosen = any(name in given for name in IMPLEMENTATION)
    if (
        chosen
        or given.get("differentiable")
        or given.get("capturable")
        or not optimizer_class.__module__.startswith("torch.optim")
    ):
        return {}
    every = list(parameters)
    devices = _FUSED.get(optimizer_class, ())
    if every and not sparse and all(parameter.device.type in devices and _is_plain(parameter) for parameter in every):
        return {"fused": True}
    return {"foreach": False} if "foreach" in accepted and _copy_is_large(every) else {}


def _is_plain(parameter: Tensor) -> bool:
    """Whether a kernel that walks through memory meets the numbers of parameter, gradient and state in one order."""
    dense = parameter.layout == torch.strided and (
        parameter.is_contiguous()
        or (parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last))
    )
    # not what strategies of several devices make of them
    return dense and type(parameter) in (Tensor, nn.Parameter) and parameter.dtype in _TYPES


def _copy_is_large(parameters: Iterable[Tensor]) -> bool:
    sizes: dict[torch.device, int] = {}
    for parameter in parameters:
        if parameter.device.type == "cuda":
            sizes[parameter.device] = sizes.get(parameter.device, 0) + parameter.numel() * parameter.element_size()
    return any(size > _SHARE * _memory(device) for device, size in sizes.items())


def _memory(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).total_memory)


def has_sparse_gradients(model: nn.Module) -> bool:
    """Whether a module makes sparse gradients, as ``nn.Embedding(sparse=True)`` does."""
    return any(getattr(module, "sparse", False) is True for module in model.modules())


def prepare(optimizer: Optimizer, trainer: L.Trainer) -> None:
    """Make an optimiser of any implementation take any checkpoint, and gradients that were scaled or are to be clipped.

    Args:
        optimizer: An optimiser, before the state of a checkpoint is loaded.
        trainer: Its trainer.

    Raises:
        ValueError: If it evaluates the loss several times a step, which gradient scaling does not allow.
    """
    if isinstance(optimizer, LBFGS) and getattr(trainer.precision_plugin, "scaler", None) is not None:
        raise ValueError(
            f"trainer.precision={trainer.precision!r} scales gradients, which model.optimizer='lbfgs' does not allow: "
            "give bf16-mixed or 32-true, or another optimizer"
        )
    optimizer.register_load_state_dict_pre_hook(_keep_implementation)
    optimizer.register_load_state_dict_post_hook(_match_layout)
    # By this mark torch's GradScaler and Lightning know optimisers that take scaled gradients. Those cannot be clipped,
    # so Lightning refuses clipping under any mixed precision; and a fused SGD whose first step overflows computes with
    # a momentum that was never written. Without the mark gradients are unscaled first. No public switch does that.
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]


def _keep_implementation(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any] | None:
    """Let the run compute in its own way: a checkpoint may be from another machine, or older."""
    stored, built = state["param_groups"], optimizer.param_groups
    if len(stored) != len(built):
        return None  # refused by whoever asked
    own = [{name: group[name] for name in IMPLEMENTATION if name in group} for group in built]
    return {**state, "param_groups": [old | new for old, new in zip(stored, own, strict=True)]}


def _match_layout(optimizer: Optimizer) -> None:
    """Give state the strides of its parameter: fused kernels for CPUs walk through memory without asking.

    They differ if ``channels_last`` was changed between the runs.
    """
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items() if isinstance(kept, dict) else ():
            same = isinstance(value, Tensor) and isinstance(parameter, Tensor) and value.shape == parameter.shape
            if same and value.stride() != parameter.stride():
                kept[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


#: optimisers of torch that compute each parameter's update from its own gradient and state alone
_BY_PARAMETER = frozenset(
    {
        *("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax"),
        *("Muon", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"),
    }
)


def check_steps_by_parameter(optimizer: Optimizer) -> None:
    """Refuse ``optimizer_in_backward`` for an optimiser that may compute over all parameters.

    Raises:
        ValueError: If it is none of torch's, or one that does.
    """
    kind = type(optimizer)
    if kind.__module__.startswith("torch.optim") and kind.__name__ in _BY_PARAMETER:
        return
    raise ValueError(
        f"optimizer_in_backward=true: {kind.__name__} may compute over all parameters at once; "
        "give false, or one of torch's optimizers that do not, such as adamw or sgd"
    )
