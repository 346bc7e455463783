"""Configuration files: packaged names, ``base`` inheritance, and keys that do not exist."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from dyvision.reading import read_yaml
from dyvision.text import similar_names, suggestion

#: with options in them
SECTIONS = ("model", "data", "trainer", "checkpoint", "last", "prediction")


def packaged_configs() -> list[str]:
    """Names of the packaged YAML files, such as ``"segmentation/quickstart.yaml"``, sorted."""
    root = _config_root()
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.yaml"))


def find_config(name: str | Path) -> Path:
    """Find a configuration file.

    Args:
        name: A path, or the name of a packaged file (the ``.yaml`` may be left out).

    Returns:
        The file. A path that exists wins over a packaged name.

    Raises:
        FileNotFoundError: If there is neither; the message gives the closest packaged names.
    """
    path = Path(name)
    if path.is_file():
        return path
    for candidate in (str(name), f"{name}.yaml"):
        if (_config_root() / candidate).is_file():
            return Path(str(_config_root() / candidate))
    if path.is_dir():
        raise IsADirectoryError(f"--config {name}: this is a folder; give a YAML file in it")
    ends = {config.removesuffix(".yaml"): config for config in packaged_configs()}  # all end alike
    hint = suggestion([ends[one] for one in similar_names(str(name).removesuffix(".yaml"), ends)])
    raise FileNotFoundError(
        f"no config {str(name)!r}, neither as a file nor as a packaged name{hint}; see 'dyvision list configs'"
    )


def load_layers(name: str | Path) -> list[tuple[Path, dict[str, Any]]]:
    """Read a configuration file and the files it builds on through its ``base`` key.

    Args:
        name: As for :func:`find_config`; ``base`` names are looked up beside the file first.

    Returns:
        ``(file, content without base)``, the deepest base first, in the order in which they apply.

    Raises:
        FileNotFoundError: If a file or a base does not exist.
        ValueError: If a file is not a YAML mapping, or the bases form a circle.
    """
    chain: list[tuple[Path, dict[str, Any]]] = []
    path: Path | None = find_config(name)
    while path is not None:
        if any(path.resolve() == seen.resolve() for seen, _ in chain):
            raise ValueError(f"{path}: 'base' leads back to this file; remove one of the links")
        content = _read_mapping(path)
        base = content.pop("base", None)
        if base is not None and not isinstance(base, str):
            raise ValueError(f"{path}: base={base!r}: expected the name of one config")
        chain.append((path, content))
        try:
            path = None if base is None else find_config(_beside(chain[-1][0], base))
        except OSError as error:
            raise type(error)(f"{path}: base: {error}") from error
    return chain[::-1]


def shown_name(path: Path) -> str:
    """A config in messages: the packaged name, or the name of the file."""
    root = _config_root()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def option_groups(options: Iterable[str]) -> set[str]:
    """Return the dotted names above options: ``model`` of ``model.head``."""
    return {option.rsplit(".", depth)[0] for option in options for depth in range(1, option.count(".") + 1)}


def unknown_keys(content: Mapping[str, Any], known: Iterable[str]) -> list[str]:
    """Find the keys of a configuration that no option has.

    Args:
        content: Nested configuration.
        known: Dotted names of all options. What lies below an option (a free-form mapping) is not checked.

    Returns:
        Dotted names without an option, in order.
    """
    options = set(known)
    return [key for key in _leaves(content, options, option_groups(options)) if key not in options]


def similar(name: str, candidates: Iterable[str]) -> list[str]:
    """The candidates closest to a wrong name, at most three, best first.

    Where candidates are dotted, a name without its section (``lr`` for ``model.lr``) finds them, too.
    """
    pool = sorted(set(candidates))
    section, _, last = name.rpartition(".")
    leaves: dict[str, list[str]] = {}
    for candidate in pool:
        if "." in candidate:
            leaves.setdefault(candidate.rsplit(".", 1)[-1], []).append(candidate)
    alike = [last] if last in leaves else similar_names(last, leaves)
    matches = [candidate for leaf in alike for candidate in leaves[leaf]]
    same = [candidate for candidate in matches if section and candidate.startswith(f"{section}.")]
    if not section and last in leaves:
        return matches[:3]
    # the sections of dotted names are alike whatever the options are
    whole = [] if section and matches else similar_names(name, pool)
    return list(dict.fromkeys([*same, *whole] or matches))[:3]


def closest(name: str, candidates: Iterable[str]) -> str:
    """Phrase the closest matches of a wrong name, such as ``" (did you mean 'dcd' or 'dyconv'?)"``; may be empty."""
    return suggestion(similar(name, candidates))


def _config_root() -> Path:
    return Path(str(files("dyvision.configs")))


def _beside(path: Path, base: str) -> str | Path:
    return path.parent / base if (path.parent / base).is_file() else base


def _read_mapping(path: Path) -> dict[str, Any]:
    content = read_yaml(path, unique_keys=True)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: expected a mapping of options such as 'model:' and 'data:', got {type(content).__name__}"
        )
    wrong = [name for name in SECTIONS if not isinstance(content.get(name) or {}, dict)]
    if wrong:
        given = "; ".join(f"{name}={content[name]!r}" for name in wrong)
        raise ValueError(f"{path}: {given}: expected a mapping of options, such as '{wrong[0]}: {{...}}'")
    # a section all of whose options are commented out
    return {name: value for name, value in content.items() if name not in SECTIONS or value is not None}


def _leaves(content: Mapping[str, Any], options: set[str], groups: set[str], prefix: str = "") -> Iterator[str]:
    for name, value in content.items():
        key = f"{prefix}{name}"
        if key not in options and key in groups and isinstance(value, Mapping):
            yield from _leaves(value, options, groups, f"{key}.")
        else:
            yield key
