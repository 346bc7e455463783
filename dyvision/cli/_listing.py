"""``dyvision list``: what can be named on the command line."""

from __future__ import annotations

from fnmatch import fnmatch


def print_list(what: str, pattern: str = "*") -> None:
    """Print names, one a line.

    Args:
        what: ``layers``, ``backbones``, ``heads``, ``policies`` or ``configs``.
        pattern: Wildcard the name has to match.

    Raises:
        ValueError: If nothing matches.
    """
    names = [name for name in _names(what) if fnmatch(name.split("  ")[0], pattern)]
    if not names:
        raise ValueError(f"no {what} match {pattern!r}; see 'dyvision list {what}'")
    print("\n".join(names))


def _names(what: str) -> list[str]:
    if what == "configs":
        from dyvision.cli._configs import packaged_configs

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

    return [f"{task}/{name}" for task in ("segmentation", "detection") for name in list_heads(task)]
