"""One network into another: convolutions made dynamic, BatchNorm folded into them, and the way back."""

from dyvision.convert.collapse import collapse
from dyvision.convert.dynamize import dynamize
from dyvision.convert.freeze import freeze
from dyvision.convert.fuse import fuse
from dyvision.convert.inflate import inflate_checkpoint
from dyvision.convert.policies import list_policies
from dyvision.convert.pretrained_report import PretrainedReport
from dyvision.convert.report import ConversionReport, ConvertedLayer

__all__ = (
    "ConversionReport",
    "ConvertedLayer",
    "PretrainedReport",
    "collapse",
    "dynamize",
    "freeze",
    "fuse",
    "inflate_checkpoint",
    "list_policies",
)
