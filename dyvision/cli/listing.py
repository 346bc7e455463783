"""``dyvision list``: what can be named on the command line."""

from __future__ import annotations

import importlib.util
from fnmatch import fnmatch

from dyvision.text import did_you_mean


def print_list(what: str, pattern: str = "*") -> None:
    """Print names, one a line.

    Args:
        what: ``layers``, ``backbones``, ``heads``, ``policies`` or ``configs``.
        pattern: Wildcard the name has to match, or a part of the name.

    Raises:
        ValueError: If nothing matches.
    """
    known = _names(what)
    wanted = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    names = [name for name in known if fnmatch(name.split("  ")[0].lower(), wanted.lower())]
    if not names:
        hint = did_you_mean(pattern, [name.split("  ")[0] for name in known])
        raise ValueError(f"no {what} match {pattern!r}{hint}; see 'dyvision list {what}'")
    print("\n".join(names))


def _names(what: str) -> list[str]:
    if what == "configs":
        from dyvision.cli.configs import packaged_configs

        return packaged_configs()
    if what == "layers":
        from dyvision.layers import list_layers

        return list_layers()
    if what == "backbones":
        from dyvision.backbones import list_backbones

        return list_backbones()
    if what == "policies":
        from dyvision.backbones import list_policies

        return list_policies()
    from dyvision.tasks.heads import list_heads
    from dyvision.tasks.heads.segmentation.mmseg import MMSEG_HEADS

    absent = frozenset() if importlib.util.find_spec("mmseg") else frozenset(MMSEG_HEADS)
    note = '  (not installed: pip install "dyvision[mmseg]")'
    return [
        f"{task}/{name}{note if name in absent else ''}"
        for task in ("segmentation", "detection")
        for name in list_heads(task)
    ]
