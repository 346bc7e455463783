"""dyvision: dynamic convolutions on any backbone, in classification, segmentation and detection.

The names below are imported on first use, so that ``import dyvision`` and the command line's ``--help`` stay fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dyvision.lazy import lazy_names
from dyvision.version import VERSION

if TYPE_CHECKING:
    from dyvision.analysis import profile
    from dyvision.backbones import (
        Backbone,
        create_backbone,
        create_model,
        list_backbones,
        load_backbone_weights,
        register_backbone,
    )
    from dyvision.checkpoints import load_official
    from dyvision.convert import collapse, dynamize, freeze, fuse, list_policies
    from dyvision.inference import load
    from dyvision.layers import get_layer, list_layers, register_layer

__version__ = VERSION

_SUBPACKAGES = (
    "analysis",
    "backbones",
    "checkpoints",
    "configs",
    "convert",
    "data",
    "inference",
    "layers",
    "ops",
    "tasks",
    "visualize",
)
_ORIGIN = {
    "Backbone": "backbones",
    "collapse": "convert",
    "create_backbone": "backbones",
    "create_model": "backbones",
    "dynamize": "convert",
    "freeze": "convert",
    "fuse": "convert",
    "get_layer": "layers",
    "list_backbones": "backbones",
    "list_layers": "layers",
    "list_policies": "convert",
    "load": "inference",
    "load_backbone_weights": "backbones",
    "load_official": "checkpoints",
    "profile": "analysis",
    "register_backbone": "backbones",
    "register_layer": "layers",
}

__all__ = (
    "Backbone",
    "__version__",
    "collapse",
    "create_backbone",
    "create_model",
    "dynamize",
    "freeze",
    "fuse",
    "get_layer",
    "list_backbones",
    "list_layers",
    "list_policies",
    "load",
    "load_backbone_weights",
    "load_official",
    "profile",
    "register_backbone",
    "register_layer",
)

__getattr__, __dir__ = lazy_names(__name__, _ORIGIN, _SUBPACKAGES)
