"""dyvision: dynamic convolutions on any backbone, in classification, segmentation and detection.

The names below are imported on first use, so that ``import dyvision`` and the command line's ``--help`` stay fast.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dyvision.analysis import profile
    from dyvision.backbones import (
        Backbone,
        create_backbone,
        create_model,
        list_backbones,
        load_backbone_weights,
    )
    from dyvision.checkpoints import load_official
    from dyvision.convert import dynamize, fuse, list_policies
    from dyvision.layers import get_layer, list_layers, register_layer

try:
    __version__ = version("dyvision")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

_SUBPACKAGES = (
    "analysis",
    "backbones",
    "checkpoints",
    "configs",
    "convert",
    "data",
    "layers",
    "ops",
    "tasks",
    "visualize",
)
_ORIGIN = {
    "Backbone": "backbones",
    "create_backbone": "backbones",
    "create_model": "backbones",
    "dynamize": "convert",
    "fuse": "convert",
    "get_layer": "layers",
    "list_backbones": "backbones",
    "list_layers": "layers",
    "list_policies": "convert",
    "load_backbone_weights": "backbones",
    "load_official": "checkpoints",
    "profile": "analysis",
    "register_layer": "layers",
}

__all__ = (
    "Backbone",
    "__version__",
    "create_backbone",
    "create_model",
    "dynamize",
    "fuse",
    "get_layer",
    "list_backbones",
    "list_layers",
    "list_policies",
    "load_backbone_weights",
    "load_official",
    "profile",
    "register_layer",
)


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return import_module(f"{__name__}.{name}")
    if name in _ORIGIN:
        return getattr(import_module(f"{__name__}.{_ORIGIN[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBPACKAGES, *_ORIGIN})
