"""Constant tensors of a module: they follow its device, and nothing else that is done to its parameters and buffers.

A buffer would be rounded down by averages of buffers (``AveragedModel(use_buffers=True)``, Lightning's
``EMAWeightAveraging``: ``0.9 * 6 + 0.1 * 6`` is 5 as an integer, and truths cannot be subtracted), and would stay
without values where a module that was built on the meta device gets its parameters from a state dict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound="WithConstants")


class WithConstants(nn.Module):
    """Mixin for a module whose attributes ``constants`` are constants; those of ``saved_constants`` are saved as well.

    They always have values, also on the meta device. At use they are brought to the input's device, which costs
    nothing if they are there.
    """

    #: names of the attributes, which may be missing
    constants: tuple[str, ...] = ()
    #: those of them that are in the state dict
    saved_constants: tuple[str, ...] = ()

    def set_constant(self, name: str, value: Tensor, device: torch.device) -> None:
        """Set a constant, built on the CPU, for a module whose parameters are on this device."""
        setattr(self, name, value if device.type == "meta" else value.to(device))

    def __setattr__(self, name: str, value: Any) -> None:
        # loaders that fill a module of the meta device (transformers) make a parameter of whatever is no buffer
        super().__setattr__(
            name, value.detach() if name in self.constants and isinstance(value, nn.Parameter) else value
        )

    def _apply(self: Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Module:
        super()._apply(fn, recurse)
        for name, value in self._held(self.constants):
            device = fn(value.new_empty(0)).device  # whatever else it does to values
            if device.type != "meta":
                setattr(self, name, value.to(device))
        return self

    def _held(self, names: tuple[str, ...]) -> list[tuple[str, Tensor]]:
        return [(name, getattr(self, name)) for name in names if hasattr(self, name)]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update({prefix + name: value for name, value in self._held(self.saved_constants)})

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(
            cast(Any, state_dict), prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        for name, own in self._held(self.saved_constants):
            key = prefix + name
            if key in unexpected_keys:
                unexpected_keys.remove(key)
            value = state_dict.get(key)
            if value is None:
                missing_keys.extend([key] if strict else [])
            elif value.shape != own.shape:
                error_msgs.append(
                    f"size mismatch for {key}: copying a constant with shape {value.shape} from checkpoint, the "
                    f"shape in current model is {own.shape}."
                )
            elif local_metadata.get("assign_to_params_buffers", False) and not value.is_meta:
                setattr(self, name, value.to(own.dtype))
            elif not value.is_meta:
                with torch.no_grad():
                    own.copy_(value)
