"""segmentation_models_pytorch: after ``import dyvision.adapters.smp`` its networks take ``dyvision-NETWORK-LAYER``.

``smp.Unet("dyvision-mobilenetv2_100-dcd", encoder_weights=None)``, and so on for every class with an ``encoder_name``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
from torch import Tensor

from dyvision.adapters._names import split_name
from dyvision.adapters._packages import need
from dyvision.adapters.timm import register
from dyvision.saving import write_tensors

__all__ = ("DyVisionEncoder",)

_smp = need("segmentation_models_pytorch", "smp")
_TimmEncoder: Any = _smp.encoders.TimmUniversalEncoder


class DyVisionEncoder(_TimmEncoder):
    """A dyvision network as an encoder of segmentation_models_pytorch.

    Args:
        name: ``dyvision-NETWORK-LAYER``.
        depth: Number of levels, 1 to 5.
        output_stride: Reduction of the last level: 32, 16 or 8.
        in_channels: Channels of the input.

    Shape:
        ``[B, C, H, W]`` to a list: the input, and one map per level.
    """

    _weights: Mapping[str, Tensor] | None

    def __init__(self, name: str, depth: int = 5, output_stride: int = 32, in_channels: int = 3) -> None:
        (self._timm_name,) = register(name)
        self._sizes = {"depth": depth, "output_stride": output_stride}
        self._build(in_channels, None)

    def load_state_dict(self, state_dict: Mapping[str, Tensor], **kwargs: Any) -> Any:
        """Load the weights of an encoder, or those of the static classifier, which ``encoder_weights`` downloads."""
        if any(name.startswith("model.") for name in state_dict):
            return super().load_state_dict(state_dict, **kwargs)
        self._build(self._in_channels, state_dict)
        return None

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        """Take images of another number of channels; called by ``get_encoder`` after the weights are loaded."""
        weights, self._weights = self._weights, None
        if in_channels != self._in_channels:
            self._build(in_channels, weights if pretrained else None)
            self._weights = None

    def make_dilated(self, output_stride: int) -> None:
        """Nothing to do: the network was built with its output stride."""

    def _build(self, in_channels: int, weights: Mapping[str, Tensor] | None) -> None:
        with TemporaryDirectory(prefix="dyvision-") as folder:
            arguments: dict[str, Any] = {"pretrained": False}
            if weights is not None:  # timm reads weights from files only
                file = Path(folder) / "model.safetensors"
                write_tensors(file, {name: tensor.contiguous() for name, tensor in weights.items()})
                arguments = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(file)}}
            _TimmEncoder.__init__(self, name=self._timm_name, in_channels=in_channels, **self._sizes, **arguments)
        self._weights = weights


class _Encoders(dict[str, Any]):
    """smp's table of encoders, which also knows every name that begins with ``dyvision``.

    Asked for one by one, because there are thousands, and layers that are registered later are among them. A wrong name
    is a ``ValueError`` with the closest ones.
    """

    def __contains__(self, name: object) -> bool:
        if _is_ours(name):
            split_name(str(name))
            return True
        return super().__contains__(name)

    def __getitem__(self, name: str) -> Any:
        if not _is_ours(name):
            return super().__getitem__(name)
        network, _ = split_name(name)
        hub = getattr(timm.get_pretrained_cfg(network) if timm.is_model(network) else None, "hf_hub_id", None)
        weights = {"imagenet": {"repo_id": hub, "revision": None}} if hub else {}
        return {"encoder": DyVisionEncoder, "params": {"name": name}, "pretrained_settings": weights}


def _is_ours(name: object) -> bool:
    return isinstance(name, str) and name.startswith(("dyvision-", "dyvision_"))


if not isinstance(_smp.encoders.encoders, _Encoders):
    # smp has no function that registers; get_encoder looks into this dict of its module
    _smp.encoders.encoders = _Encoders(_smp.encoders.encoders)
