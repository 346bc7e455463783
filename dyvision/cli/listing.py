"""``dyvision list``: what can be named on the command line."""

from __future__ import annotations

import argparse
import importlib.util
from fnmatch import fnmatch

from dyvision.cli._declared import declared_keys, decorated_names
from dyvision.text import did_you_mean

KINDS = ("layers", "backbones", "heads", "policies", "configs")


def add_list(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("list", help="list layers, backbones, heads, policies or configs")
    parser.add_argument("what", choices=KINDS, metavar="|".join(KINDS), help="kind of names")
    parser.add_argument("pattern", nargs="?", default="*", help="wildcard, for example '*mobilenetv2*'")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    print_list(options.what, options.pattern)


def print_list(what: str, pattern: str = "*") -> None:
    """Print names, one a line.

    Args:
        what: ``layers``, ``backbones``, ``heads``, ``policies`` or ``configs``.
        pattern: Wildcard the name has to match, or a part of the name.

    Raises:
        ValueError: If nothing matches.
    """
    known = names_of(what)
    wanted = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    names = [name for name in known if fnmatch(name.lower(), wanted.lower())]
    if not names:
        raise ValueError(f"no {what} match {pattern!r}{did_you_mean(pattern, known)}; see 'dyvision list {what}'")
    absent = _absent_heads() if what == "heads" else ()
    note = '  (not installed: pip install "dyvision[mmseg]")'
    print("\n".join(f"{name}{note if name in absent else ''}" for name in names))


def names_of(what: str) -> list[str]:
    """The names of a kind, as far as dyvision itself has them (an own layer is known where it is imported).

    Args:
        what: ``layers``, ``backbones``, ``heads`` (``task/name``), ``policies`` or ``configs``.
    """
    if what == "configs":
        from dyvision.cli.configs import packaged_configs

        return packaged_configs()
    if what == "layers":
        return decorated_names("dyvision.layers", "register_layer")
    if what == "policies":
        return declared_keys("dyvision.convert", "policies.py", "_POLICIES")
    if what == "backbones":  # timm is asked which of them it has
        from dyvision.backbones import list_backbones

        return list_backbones()
    segmentation = declared_keys("dyvision.tasks", "heads/segmentation/create.py", "_BUILDERS") + _mmseg_heads()
    detection = declared_keys("dyvision.tasks", "heads/detection/create.py", "_BUILDERS")
    return [f"segmentation/{name}" for name in segmentation] + [f"detection/{name}" for name in detection]


def _absent_heads() -> list[str]:
    return [] if importlib.util.find_spec("mmseg") else [f"segmentation/{name}" for name in _mmseg_heads()]


def _mmseg_heads() -> list[str]:
    return declared_keys("dyvision.tasks", "heads/segmentation/mmseg.py", "MMSEG_HEADS")
