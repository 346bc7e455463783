"""What a command line of ``fit | validate | test | predict`` asks for, before its options are parsed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyvision import checkpoint_file
from dyvision.cli._exported import as_checkpoint, read_exported, take_exported
from dyvision.cli._loggers import take_loggers
from dyvision.cli._run_folder import find_checkpoint, last_checkpoints
from dyvision.cli._trust import check_typed, trusted_names
from dyvision.cli.configs import load_layers, shown_name
from dyvision.cli.imports import take_imports
from dyvision.cli.task_table import TASKS, check_task
from dyvision.cli.typed import TypedOptions
from dyvision.cli.words import check_words, take_photos
from dyvision.data.formats import recorded_format
from dyvision.reading import parse_yaml
from dyvision.registry import check_plugins
from dyvision.trust import hyperparameters_of, name_unknown
from dyvision.version import VERSION

if TYPE_CHECKING:
    from dyvision.tasks.exporting import ExportedTask

#: hyperparameters that decide whether a checkpoint is one of the wanted configuration
_ARCHITECTURE = ("backbone", "layer", "layer_kwargs", "policy", "head", "aux_head")

#: options of the data that null leaves to what the weights expect
_FROM_WEIGHTS = ("mean", "std", "crop_ratio", "interpolation")


@dataclass
class Request:
    """What was asked for, before the options themselves are parsed.

    Attributes:
        layers: ``(where it comes from, content)`` of every config, bases first.
        checkpoint: What ``--ckpt_path`` is: its ``path``, the number of its ``weights``, ``task``, and the
            hyperparameters of ``model`` and ``data``; empty if none was given.
        typed: The remaining command line.
        checkpoint_path: The file behind ``checkpoint``.
        loggers: Classes of loggers that were given by name only.
        imports: Modules and files of the user that were imported.
        exported: The ONNX file that ``checkpoint`` is of, given as ``--model FILE``.
    """

    layers: list[tuple[Path, dict[str, Any]]] = field(default_factory=list)
    checkpoint: dict[str, Any] = field(default_factory=dict)
    typed: TypedOptions = field(default_factory=TypedOptions)
    checkpoint_path: Path | None = None
    loggers: list[str] = field(default_factory=list)
    imports: list[str] = field(default_factory=list)
    exported: ExportedTask | None = None

    @property
    def data_format(self) -> str | None:
        """Name of the data format: given, else of the checkpoint; None for that of the task.

        Raises:
            ValueError: If a plug-in had registered that of the checkpoint, and nothing here does.
        """
        given = self.value("", "data_format")
        if given is not None or "data" in self.custom_sections:
            return None if given == "null" else given
        return recorded_format(self.checkpoint.get("plugins"), self.origin)

    @property
    def origin(self) -> str:
        """What the weights come from, as it was typed."""
        return f"{'--ckpt_path' if self.exported is None else '--model'} {self.checkpoint.get('path')}"

    @property
    def task(self) -> str:
        """Name of the task: typed, else from the last config that has one, else from the checkpoint."""
        named = self.named_task or self.checkpoint.get("task")
        if named is None:
            raise ValueError(
                f"which task? Give --config NAME (see 'dyvision list configs') or --task with one of {', '.join(TASKS)}"
            )
        named = check_task(named)
        made = self.checkpoint.get("task")
        if made is None and self.checkpoint.get("path") and not self.names_class("model"):
            raise ValueError(
                f"{self.origin}: of another project (it names no task of dyvision); weights of "
                "a backbone are taken by --model.backbone_weights"
            )
        if made not in (None, named):
            raise ValueError(
                f"{self.origin.split()[0]}: the checkpoint is one of task {made!r}, but the config is for {named!r}"
            )
        return named

    @property
    def named_task(self) -> Any:
        """The task that was typed, or that the last config names which has one; None otherwise."""
        named = self.typed.get("task")
        for _, content in reversed(self.layers):
            named = named or content.get("task")
        return named

    def value(self, section: str, name: str) -> Any:
        """What was given for an option: typed (as text), else by the last config that has it, else None."""
        given = self.typed.get(f"{section}.{name}" if section else name)
        for _, content in reversed(self.layers):
            below = (content.get(section) or {}) if section else content
            given = below.get(name) if given is None and isinstance(below, dict) else given
        return given

    @property
    def custom_sections(self) -> list[str]:
        """Of ``model`` and ``data`` those that are given as a class path instead of the task's own class."""
        return [section for section in ("model", "data") if self.names_class(section)]

    def names_class(self, section: str) -> bool:
        """Whether ``model`` or ``data`` is given as a class path instead of the task's own class."""
        given = any("class_path" in (content.get(section) or {}) for _, content in self.layers)
        return given or f"{section}.class_path" in self.typed or section in self.typed


def read_request(arguments: Sequence[str], command: str = "fit") -> Request:
    """Split a command line into configs, checkpoint and typed options.

    Args:
        arguments: What stands behind the command.
        command: The command, for what an error advises.

    Raises:
        FileNotFoundError: If a config or the checkpoint does not exist.
        ValueError: If ``--config`` or ``--ckpt_path`` has no value, or the checkpoint cannot be read.
    """
    typed = TypedOptions.read(arguments)
    exported = take_exported(typed)
    if command == "predict":
        take_photos(typed)
    check_words(typed)
    request = Request(typed=typed)
    for name in typed.take("config"):
        if not name:
            raise ValueError("--config needs a file or a packaged name; see 'dyvision list configs'")
        request.layers += load_layers(name)
    check_typed(typed)
    request.imports = take_imports(request.layers, typed)
    request.loggers = take_loggers(request.layers, typed)
    checkpoint = request.value("", "ckpt_path")
    if checkpoint is None and "ckpt_path" in typed:
        raise ValueError("--ckpt_path: a value is missing; write --ckpt_path=FILE")
    if checkpoint in ("last", "best"):
        request.checkpoint_path = resolve_checkpoint(request, checkpoint, command)
    elif checkpoint not in (None, "null", "hpc"):
        request.checkpoint_path = Path(checkpoint)
    if request.checkpoint_path is not None:
        request.checkpoint = read_checkpoint(request.checkpoint_path)
    if exported is not None:
        if request.checkpoint_path is not None:
            raise ValueError(f"--model {exported} and --ckpt_path {request.checkpoint_path}: give one of them")
        request.exported = read_exported(exported, command)
        photos = command == "predict" and request.value("data", "predict_root") is not None
        if command == "predict" and not photos and request.value("data", "root") is None:
            raise ValueError(
                f"--model {exported}: which images? Give one, or a folder of them, behind it, or a data set as "
                "--data.root"
            )
        request.checkpoint = as_checkpoint(request.exported, photos)
    if request.checkpoint:
        decided = request.checkpoint["data"]
        request.layers = [(path, _without_open(content, decided)) for path, content in request.layers]
    return request


def _without_open(content: dict[str, Any], decided: Mapping[str, Any]) -> dict[str, Any]:
    """A config without the options of the data that it leaves to the weights (null) and a checkpoint has decided.

    The config of a run says what was asked for; its checkpoint, which no longer starts from other weights, what that
    was.
    """
    given = content.get("data")
    if not isinstance(given, Mapping):
        return content
    names = {name for name in _FROM_WEIGHTS if given.get(name, "") is None and decided.get(name) is not None}
    return {**content, "data": {name: value for name, value in given.items() if name not in names}}


def resolve_checkpoint(request: Request, kind: str, command: str) -> Path:
    """Find what ``--ckpt_path last`` or ``best`` means for a command line, and say so where no task is named.

    Raises:
        FileNotFoundError: If there is no such run, saying what was looked for.
    """
    root = Path(request.value("trainer", "default_root_dir") or "runs")
    given = {name: request.value("model", name) for name in _ARCHITECTURE}
    wanted = {
        name: parse_yaml(value, f"--model.{name}") if isinstance(value, str) else value
        for name, value in given.items()
        if value is not None
    }

    def fits(path: Path) -> bool:
        made = read_checkpoint(path)["model"]
        return all(made.get(name, value) == value for name, value in wanted.items())

    task = request.task if request.named_task is not None else "*"
    found = find_checkpoint(kind, root, task, fits, trains=command == "fit")
    if task == "*":
        others = sorted({path.parents[2].name for path in last_checkpoints(root)} - {found.parents[2].name})
        more = f"; there are runs of {', '.join(others)}, too" if others else ""
        print(f"--ckpt_path {kind}: {found}, of the newest run below {root}{more}", flush=True)
    return found


def read_checkpoint(path: Path, option: str = "--ckpt_path ") -> dict[str, Any]:
    """What the options are parsed with.

    Args:
        path: The file.
        option: What stands before it in messages.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint of a run, or damaged.
    """
    try:
        content = checkpoint_file.read_checkpoint(path, mmap=True)
        checkpoint_file.check_finite(content["state_dict"], str(path))
    except (ValueError, OSError) as error:
        raise type(error)(f"{option}{error}") from error
    if not isinstance(content.get("pytorch-lightning_version"), str):
        raise ValueError(f"{option}{path}: not a checkpoint of a training run (it lacks Lightning's version)")
    if (
        content.get("task") in TASKS
        and content["state_dict"]
        and content["hyper_parameters"].get("num_classes") is None
    ):
        raise ValueError(f"{option}{path}: has weights, but its hyperparameters lack num_classes")
    return {
        "path": path,
        "weights": checkpoint_file.count(content["state_dict"]),
        "task": content.get("task"),
        "model": content["hyper_parameters"],
        "data": content["datamodule_hyper_parameters"],
        "plugins": content.get("plugins"),
        "run_options": content.get("run_options"),
        "dyvision_version": content.get("dyvision_version"),
        "log_rows": content.get("log_rows"),
        "global_step": content.get("global_step"),
    }


def checkpoint_sections(request: Request, known: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a checkpoint contributes: its data below the configs, its model above them.

    Raises:
        ValueError: If it names code that neither dyvision knows nor the user names again.
    """
    trusted = trusted_names(request.typed, (content for _, content in request.layers))
    where = request.origin
    checkpoint_file.warn_of_newer(request.checkpoint, where, VERSION)
    sections: dict[str, dict[str, Any]] = {}
    used: dict[str, Any] = {}
    for section in ("data", "model"):
        prefix = f"{section}."
        own = {name.removeprefix(prefix) for name, _ in request.typed if name.startswith(prefix)}
        if section == "data":
            own |= {name for _, content in request.layers for name in content.get("data") or {}}
        stored = request.checkpoint.get(section, {})
        kept = hyperparameters_of(stored, where, trusted, own, "--trust {names}", prefix)
        used |= {} if section in request.custom_sections else kept
        names = [name.removeprefix(prefix) for name in known if name.startswith(prefix)]
        # a model of the user's own class takes its arguments from the user
        sections[section] = name_unknown(kept, names, where, prefix) if names else {}
    check_plugins(request.checkpoint.get("plugins"), used, where)
    for path, content in request.layers:
        for name, value in (content.get("model") or {}).items():
            kept = sections["model"].get(name, value)
            taken_over = value is None or name in ("pretrained", "backbone_weights")  # what a run started from
            if kept != value and not taken_over and f"model.{name}" not in request.typed:
                typed = shlex.quote(f"--model.{name}={value}")
                given = f"not {value!r} as in {shown_name(path)} (type {typed} to change it)"
                print(f"model.{name} is {kept!r} as in the checkpoint, {given}")
    return {"data": sections["data"]}, {"model": sections["model"]}
