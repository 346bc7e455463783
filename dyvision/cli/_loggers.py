"""Loggers by their bare names: ``--trainer.logger csv``, which write into the folder of the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dyvision.cli.typed import TypedOptions
from dyvision.reading import parse_yaml

_NAMES = {"tensorboard": "TensorBoardLogger", "csv": "CSVLogger", "wandb": "WandbLogger"}
_CLASSES = {**_NAMES, **{name.lower(): name for name in _NAMES.values()}}


def take_loggers(layers: list[tuple[Path, dict[str, Any]]], typed: TypedOptions) -> list[str]:
    """Take loggers that are given by name only out of the options, since a parser wants their folder.

    Args:
        layers: The configs, changed in place.
        typed: The command line, changed in place.

    Returns:
        Names of classes; empty if the last that was given is no bare name.
    """
    taken: list[str] = []
    for _, content in layers:
        trainer = content.get("trainer")
        if isinstance(trainer, dict) and "logger" in trainer:
            taken = _named(trainer["logger"])
            if taken:
                content["trainer"] = {name: value for name, value in trainer.items() if name != "logger"}
    last = typed.get("trainer.logger")
    if last is not None:
        taken = _named(parse_yaml(last, "--trainer.logger"))
        if taken:
            typed.take("trainer.logger")
    return taken


def make_loggers(names: list[str], folder: Path) -> list[Any]:
    """Loggers that write into a folder.

    Raises:
        ValueError: If one needs a package that is not installed.
    """
    from lightning.pytorch import loggers

    made = []
    for name in names:
        options = {"project": "dyvision"} if name == "WandbLogger" else {"name": "", "version": ""}
        try:
            made.append(getattr(loggers, name)(save_dir=str(folder), **options))
        except ImportError as error:
            package = next(short for short, full in _NAMES.items() if full == name)
            raise ValueError(f"trainer.logger={name}: it needs a package: pip install {package}") from error
    return made


def _named(value: Any) -> list[str]:
    """The classes of a bare name, a list of such, or a mapping with nothing but the class path."""
    values = value if isinstance(value, list) else [value]
    names = []
    for one in values:
        if isinstance(one, Mapping) and set(one) == {"class_path"}:
            one = str(one["class_path"]).removeprefix("lightning.pytorch.loggers.")
        name = _CLASSES.get(one.lower()) if isinstance(one, str) else None
        if name is None:
            return []
        names.append(name)
    return names
