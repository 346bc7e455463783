"""What a network costs."""

from dyvision.analysis.macs import count_macs, count_parameters
from dyvision.analysis.profile import Profile, profile

__all__ = ("Profile", "count_macs", "count_parameters", "profile")
