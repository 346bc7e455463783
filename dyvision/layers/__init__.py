"""Dynamic convolutions: one published method per file, each a drop-in for ``torch.nn.Conv2d``."""

from dyvision.layers._base import DynamicConv2d
from dyvision.layers._branch import CoefficientBranch
from dyvision.layers._norm import GuardedBatchNorm1d, GuardedBatchNorm2d
from dyvision.layers._registry import get_layer, list_layers, register_layer
from dyvision.layers.condconv import CondConv2d
from dyvision.layers.dcd import DCDConv2d
from dyvision.layers.dyconv import DyConv2d
from dyvision.layers.dynet import DyNetConv2d
from dyvision.layers.static import StaticConv2d

__all__ = (
    "CoefficientBranch",
    "CondConv2d",
    "DCDConv2d",
    "DyConv2d",
    "DyNetConv2d",
    "DynamicConv2d",
    "GuardedBatchNorm1d",
    "GuardedBatchNorm2d",
    "StaticConv2d",
    "get_layer",
    "list_layers",
    "register_layer",
)
