"""``dyvision list``: what can be named on the command line."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from fnmatch import fnmatch

from dyvision.cli._declared import declared_keys, decorated_names
from dyvision.plugins import installed
from dyvision.text import did_you_mean, printable

KINDS = ("layers", "backbones", "heads", "formats", "transforms", "policies", "configs")
#: kind -> the module whose import fills a registry, the registry's kind, what stands before its names
_OWN = {
    "layers": (("dyvision.layers", "layer", ""),),
    "backbones": (("dyvision.backbones", "backbone", ""),),
    "heads": (
        ("dyvision.tasks.heads.segmentation", "segmentation head", "segmentation/"),
        ("dyvision.tasks.heads.detection", "detection head", "detection/"),
    ),
    "formats": (("dyvision.data.formats", "data format", ""),),
    "transforms": (("dyvision.data.transforms", "transform", ""),),
}


def add_list(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("list", help=f"list {', '.join(KINDS[:-1])} or configs")
    parser.add_argument("what", choices=KINDS, metavar="|".join(KINDS), help="kind of names")
    parser.add_argument("pattern", nargs="?", default="*", help="wildcard, for example '*mobilenetv2*'")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    print_list(options.what, options.pattern)


def print_list(what: str, pattern: str = "*") -> None:
    """Print names, one a line.

    Args:
        what: One of :data:`KINDS`.
        pattern: Wildcard the name has to match, or a part of the name.

    Raises:
        ValueError: If nothing matches.
    """
    known, own = names_of(what), own_names(what)
    wanted = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    names = [name for name in known if fnmatch(name.lower(), wanted.lower())]
    if not names:
        raise ValueError(f"no {what} match {pattern!r}{did_you_mean(pattern, known)}; see 'dyvision list {what}'")
    absent = _absent_heads() if what == "heads" else ()
    notes = {name: '  (not installed: pip install "dyvision[mmseg]")' for name in absent}
    notes |= {name: f"  (from {printable(source)})" for name, source in own.items()}
    print("\n".join(f"{name}{notes.get(name, '')}" for name in names))


def names_of(what: str) -> list[str]:
    """The names of a kind, those of plug-ins among them.

    Args:
        what: One of :data:`KINDS`; names of heads are ``task/name``.
    """
    known, own = _names_of_dyvision(what), own_names(what)
    return [*known, *(name for name in own if name not in known)]


def own_names(what: str) -> dict[str, str]:
    """The names of a kind that plug-ins registered, and where each comes from."""
    if not installed() and "dyvision.registry" not in sys.modules:
        return {}  # nothing can have registered one, and importing PyTorch takes seconds
    from dyvision.registry import foreign_names

    found: dict[str, str] = {}
    for module, kind, before in _OWN.get(what, ()):
        importlib.import_module(module)
        found |= {f"{before}{name}": origin.source for name, origin in foreign_names(kind).items()}
    return found


def _names_of_dyvision(what: str) -> list[str]:
    if what == "configs":
        from dyvision.cli.configs import packaged_configs

        return packaged_configs()
    if what == "layers":
        return decorated_names("dyvision.layers", "register_layer")
    if what == "policies":
        return declared_keys("dyvision.convert", "policies.py", "_POLICIES")
    if what == "formats":
        return declared_keys("dyvision.data", "formats.py", "_FORMATS")
    if what == "transforms":
        from dyvision.data.transforms import available_transforms

        return available_transforms()
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
