"""Per-sample convolution as pure functions: several formulations of the same mathematics behind two names."""

from dyvision.ops.dynamic import dynamic_conv2d
from dyvision.ops.formulations import FORMULATIONS
from dyvision.ops.mixture import mixture_conv2d
from dyvision.ops.planner import formulation

__all__ = ("FORMULATIONS", "dynamic_conv2d", "formulation", "mixture_conv2d")

#: Measure every formulation once per shape and keep the fastest, as ``torch.backends.cudnn.benchmark`` does.
benchmark = False
