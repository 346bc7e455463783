"""``dyvision fit | validate | test | predict``: LightningCLI with flat configs and short names.

``LightningCLI`` runs with ``run=False`` and the trainer is called here. So one flat config serves all four commands,
and a checkpoint's hyperparameters do not overwrite what was typed: the order is defaults < data of the checkpoint <
config files < model of the checkpoint < command line.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, cli
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from dyvision import data as data_package
from dyvision import tasks as task_package
from dyvision.cli._messages import silence_advice
from dyvision.cli._option_errors import explain
from dyvision.cli._request import TASKS, Request, check_keys, checkpoint_sections, read_request
from dyvision.cli._trainer_options import MonitorCheck, check_checkpoint, check_trainer

_SAMPLE_FORMATS = ("imagenet", "cityscapes", "coco")


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
        check_keys(self.request, known, free=[section for section, custom in self.custom.items() if custom])
        data, model = checkpoint_sections(self.request, known)
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
                raise ValueError(explain(str(error), self.request, self._classes())) from error

    def _classes(self) -> dict[str, type]:
        return {
            "model": self._model_class,
            "data": self._datamodule_class,
            "trainer": Trainer,
            "checkpoint": ModelCheckpoint,
        }

    def before_instantiate_classes(self) -> None:
        """Check the trainer's options, and draw the sample data a quickstart config refers to."""
        check_trainer(vars(self.config.trainer), self.command)
        check_checkpoint(vars(self.config.checkpoint))
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
            added += [data_package.FinishEpoch(), MonitorCheck()]
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
