"""``dyvision fit | validate | test | predict``: LightningCLI with flat configs and short names.

``LightningCLI`` runs with ``run=False`` and the trainer is called here. So one flat config serves all four commands,
and a checkpoint's hyperparameters do not overwrite what was typed: the order is defaults < data of the checkpoint <
config files < model of the checkpoint < command line.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentError
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, cli
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from dyvision import data as data_package
from dyvision import tasks as task_package
from dyvision.cli._configs import closest, load_layers, option_groups, unknown_keys
from dyvision.cli._messages import silence_advice

#: task name -> (LightningModule, LightningDataModule)
TASKS = {
    "classification": ("ClassificationTask", "ImageFolderDataModule"),
    "segmentation": ("SegmentationTask", "CityscapesDataModule"),
    "detection": ("DetectionTask", "COCODataModule"),
}
_SAMPLE_FORMATS = ("imagenet", "cityscapes", "coco")


@dataclass
class Request:
    """What was asked for, before the options themselves are parsed.

    Attributes:
        layers: ``(where it comes from, content)`` of every config, bases first.
        checkpoint: Content of ``--ckpt_path``, without weights; empty if none was given.
        typed: The remaining command line.
    """

    layers: list[tuple[Path, dict[str, Any]]] = field(default_factory=list)
    checkpoint: dict[str, Any] = field(default_factory=dict)
    typed: list[str] = field(default_factory=list)

    @property
    def task(self) -> str:
        """Name of the task: typed, else from the last config that has one, else from the checkpoint."""
        named = _option(self.typed, "--task")
        for _, content in reversed(self.layers):
            named = named or content.get("task")
        named = named or self.checkpoint.get("task")
        if named is None:
            raise ValueError(
                f"which task? Give --config NAME (see 'dyvision list configs') or --task with one of {', '.join(TASKS)}"
            )
        if named not in TASKS:
            raise ValueError(f"unknown task {named!r}{closest(str(named), TASKS)}; tasks are {', '.join(TASKS)}")
        made = self.checkpoint.get("task")
        if made not in (None, named):
            raise ValueError(f"--ckpt_path: the checkpoint is one of task {made!r}, but the config is for {named!r}")
        return str(named)

    def names_class(self, section: str) -> bool:
        """Whether ``model`` or ``data`` is given as a class path instead of the task's own class."""
        given = any("class_path" in (content.get(section) or {}) for _, content in self.layers)
        return (
            given
            or _option(self.typed, f"--{section}.class_path") is not None
            or _option(self.typed, f"--{section}") is not None
        )


class TaskCLI(cli.LightningCLI):
    """LightningCLI for one task: checks every key at once, and logs to TensorBoard and CSV under ``runs/<task>``.

    Args:
        command: ``fit``, ``validate``, ``test``, ``predict``, or ``quickstart``, which prints its own table.
        request: The command line.
    """

    def __init__(self, command: str, request: Request) -> None:
        self.command, self.request = command, request
        model, data = TASKS[request.task]
        self.custom = {section: request.names_class(section) for section in ("model", "data")}
        super().__init__(
            model_class=LightningModule if self.custom["model"] else getattr(task_package, model),
            datamodule_class=LightningDataModule if self.custom["data"] else getattr(data_package, data),
            subclass_mode_model=self.custom["model"],
            subclass_mode_data=self.custom["data"],
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            parser_kwargs={"prog": f"dyvision {command}", "exit_on_error": False},
            args=[],
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: cli.LightningArgumentParser) -> None:
        """Add the options that belong neither to the model nor to the data nor to the trainer."""
        parser.add_argument("--task", type=str, default=self.request.task, help=f"one of {', '.join(TASKS)}")
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="checkpoint to resume from or to evaluate"
        )
        parser.add_argument("--output", type=str | None, default=None, help="folder for predictions")
        parser.add_argument(
            "--sample_data", type=str | None, default=None, help="draw the sample data there if missing"
        )
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        monitor = getattr(self._model_class, "monitor", None)
        parser.set_defaults({"checkpoint.save_last": True, "checkpoint.monitor": monitor, "checkpoint.mode": "max"})

    def parse_arguments(self, parser: cli.LightningArgumentParser, args: Any) -> None:
        """Check all keys, then parse configs, checkpoint and command line in the order of precedence."""
        known = list(vars(parser.get_defaults().as_flat()))
        _check_keys(self.request, known, free=[section for section, custom in self.custom.items() if custom])
        data, model = _checkpoint_sections(self.request, known)
        contents = [data, *(content for _, content in self.request.layers), model]
        with tempfile.TemporaryDirectory() as folder:
            arguments = []
            for number, content in enumerate(contents):
                path = Path(folder, f"{number}.yaml")
                path.write_text(yaml.safe_dump(content), encoding="utf-8")
                arguments.append(f"--config={path}")
            try:
                self.config = parser.parse_args([*arguments, *self.request.typed])
            except ArgumentError as error:
                raise ValueError(str(error)) from error

    def before_instantiate_classes(self) -> None:
        """Draw the sample data a quickstart config refers to."""
        if self.config.sample_data is not None:
            ensure_sample_data(Path(self.config.sample_data))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Log to TensorBoard and CSV unless a logger was chosen; add the prediction writer for ``predict``."""
        from dyvision.tasks.callbacks import PredictionWriter, ResultsTable

        trainer = self.config_init.trainer
        if trainer.logger in (None, True) and not trainer.fast_dev_run:
            root = Path(trainer.default_root_dir or "runs")
            board = TensorBoardLogger(root, name=self.config.task, default_hp_metric=False)
            kwargs["logger"] = [board, CSVLogger(root, name=self.config.task, version=board.version)]
        added: list[Callback] = []
        if self.command in ("fit", "quickstart"):
            added.append(data_package.FinishEpoch())
        if self.command in ("fit", "validate", "test"):
            added.append(ResultsTable())
        if self.command == "predict":
            added.append(PredictionWriter(self.config.output or "predictions"))
        kwargs["callbacks"] = [*(trainer.callbacks or []), *added]
        return super().instantiate_trainer(**kwargs)


def ensure_sample_data(root: Path, seed: int = 0) -> None:
    """Draw the sample data below ``root`` unless it is there; half of it never is, however the drawing ends."""
    if all((root / name).is_dir() for name in _SAMPLE_FORMATS):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as folder:
        drawn = data_package.write_sample_data(Path(folder), seed=seed)
        root.mkdir(exist_ok=True)
        for name in _SAMPLE_FORMATS:
            with suppress(OSError):  # another process was faster
                (drawn / name).rename(root / name)


def run_trainer(command: str, arguments: Sequence[str]) -> TaskCLI:
    """Parse the command line, build task and data, and run the trainer.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        arguments: The command line behind the command.

    Returns:
        The CLI object, with ``trainer``, ``model`` and ``datamodule``.

    Raises:
        ValueError: If the task is unclear or a key does not exist.
        FileNotFoundError: If a config or the checkpoint does not exist.
    """
    silence_advice()
    command_line = TaskCLI(command, read_request(arguments))
    run = getattr(command_line.trainer, command)
    extra: dict[str, Any] = {"predict": {"return_predictions": False}, "fit": {}}.get(command, {"verbose": False})
    run(
        command_line.model,
        datamodule=command_line.datamodule,
        ckpt_path=command_line.config.ckpt_path,
        weights_only=True,
        **extra,
    )
    return command_line


def read_request(arguments: Sequence[str]) -> Request:
    """Split a command line into configs, checkpoint and typed options.

    Raises:
        FileNotFoundError: If a config or the checkpoint does not exist.
        ValueError: If ``--config`` or ``--ckpt_path`` has no value, or the checkpoint cannot be read.
    """
    request = Request()
    pending = list(arguments)
    while pending:
        argument = pending.pop(0)
        name, equals, value = argument.partition("=")
        if name in ("--config", "-c"):
            if not equals and not pending:
                raise ValueError("--config needs a file or a packaged name; see 'dyvision list configs'")
            request.layers += load_layers(value if equals else pending.pop(0))
        else:
            request.typed.append(argument)
    checkpoint = _option(request.typed, "--ckpt_path")
    if checkpoint is not None and checkpoint not in ("last", "best", "hpc"):
        request.checkpoint = _read_checkpoint(Path(checkpoint))
    return request


def _option(arguments: Sequence[str], name: str) -> str | None:
    """Return the last value given for an option as ``--name value`` or ``--name=value``."""
    found = None
    for argument, following in zip(arguments, [*arguments[1:], "", ""], strict=False):
        if argument == name:
            found = following
        elif argument.startswith(f"{name}="):
            found = argument.partition("=")[2]
    return found


def _read_checkpoint(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"--ckpt_path {path}: no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise ValueError(f"--ckpt_path {path}: not a checkpoint of dyvision ({type(error).__name__})") from error
    return {
        "task": content.get("task"),
        "model": dict(content.get("hyper_parameters") or {}),
        "data": dict(content.get("datamodule_hyper_parameters") or {}),
    }


def _check_keys(request: Request, known: list[str], free: list[str]) -> None:
    """Report every key that does not exist, with the nearest one, in one error."""
    known = [*known, *free]
    wrong = [
        f"{path.name}: {key!r}{closest(key, known)}"
        for path, content in request.layers
        for key in unknown_keys(content, known)
    ]
    groups = option_groups(known)
    for argument in request.typed:
        key = argument.partition("=")[0].removeprefix("--").removesuffix("+")
        if not argument.startswith("--") or key in ("help", "print_config") or key.endswith(".help") or key in groups:
            continue
        below_option = any(key.startswith(f"{option}.") for option in known)
        negative = key.removeprefix("no_") in known
        if key not in known and not below_option and not negative:
            wrong.append(f"--{key}{closest(key, known)}")
    if wrong:
        raise ValueError(f"unknown option{'s' * (len(wrong) > 1)}: {'; '.join(wrong)}")


def _checkpoint_sections(request: Request, known: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a checkpoint contributes: its data below the configs, its model above them."""
    sections = {
        section: {
            name: value for name, value in request.checkpoint.get(section, {}).items() if f"{section}.{name}" in known
        }
        for section in ("data", "model")
    }
    for path, content in request.layers:
        for name, value in (content.get("model") or {}).items():
            kept = sections["model"].get(name, value)
            if kept != value and _option(request.typed, f"--model.{name}") is None:
                typed = shlex.quote(f"--model.{name}={value}")
                given = f"not {value!r} as in {path.name} (type {typed} to change it)"
                print(f"model.{name} is {kept!r} as in the checkpoint, {given}")
    return {"data": sections["data"]}, {"model": sections["model"]}
