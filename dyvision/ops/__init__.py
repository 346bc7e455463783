"""Per-sample convolution as pure functions: several formulations of the same mathematics behind two names."""

from dyvision.ops._choice import FORMULATIONS, formulation
from dyvision.ops.dynamic import dynamic_conv2d
from dyvision.ops.mixture import mixture_conv2d

__all__ = ("FORMULATIONS", "dynamic_conv2d", "formulation", "mixture_conv2d")
