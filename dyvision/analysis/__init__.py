"""What a network costs."""

from dyvision.analysis.macs import count_macs, count_parameters

__all__ = ("count_macs", "count_parameters")
