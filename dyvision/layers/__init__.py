"""Dynamic convolutions: one published method per file, each a drop-in for ``torch.nn.Conv2d``."""

from dyvision.layers._base import DynamicConv2d
from dyvision.layers._branch import CoefficientBranch
from dyvision.layers._registry import get_layer, list_layers, register_layer
from dyvision.layers.condconv import CondConv2d
from dyvision.layers.condinst import DynamicMaskHead
from dyvision.layers.dcd import DCDConv2d
from dyvision.layers.dgc import DGConv2d
from dyvision.layers.drconv import DRConv2d
from dyvision.layers.dyconv import DyConv2d
from dyvision.layers.dynet import DyNetConv2d
from dyvision.layers.eca import ECA, ECAConv2d
from dyvision.layers.fdconv import FDConv2d
from dyvision.layers.kernelwarehouse import KernelWarehouseConv2d, share_warehouses
from dyvision.layers.norm import GuardedBatchNorm1d, GuardedBatchNorm2d
from dyvision.layers.odconv import ODConv2d
from dyvision.layers.se import SEConv2d, SqueezeExcite
from dyvision.layers.sk import SKConv2d
from dyvision.layers.static import StaticConv2d
from dyvision.layers.weightnet import WeightNetConv2d

__all__ = (
    "ECA",
    "CoefficientBranch",
    "CondConv2d",
    "DCDConv2d",
    "DGConv2d",
    "DRConv2d",
    "DyConv2d",
    "DyNetConv2d",
    "DynamicConv2d",
    "DynamicMaskHead",
    "ECAConv2d",
    "FDConv2d",
    "GuardedBatchNorm1d",
    "GuardedBatchNorm2d",
    "KernelWarehouseConv2d",
    "ODConv2d",
    "SEConv2d",
    "SKConv2d",
    "SqueezeExcite",
    "StaticConv2d",
    "WeightNetConv2d",
    "get_layer",
    "list_layers",
    "register_layer",
    "share_warehouses",
)
