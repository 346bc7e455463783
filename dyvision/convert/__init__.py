"""One network into another: convolutions made dynamic, BatchNorm folded into them."""

from dyvision.convert.dynamize import dynamize
from dyvision.convert.fuse import fuse
from dyvision.convert.policies import list_policies

__all__ = ("dynamize", "fuse", "list_policies")
