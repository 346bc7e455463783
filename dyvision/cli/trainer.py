"""``dyvision fit | validate | test | predict``: LightningCLI with flat configs and short names.

``LightningCLI`` runs with ``run=False`` and the trainer is called here. So one flat config serves all four commands,
and a checkpoint's hyperparameters do not overwrite what was typed: the order is defaults < data of the checkpoint <
config files < model of the checkpoint < command line.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, cli
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from dyvision import data as data_package
from dyvision import tasks as task_package
from dyvision.building import LimitedMemory
from dyvision.cli._display import display_callbacks
from dyvision.cli._evaluated import check_evaluated
from dyvision.cli._loggers import make_loggers
from dyvision.cli._messages import expect_frozen_modules, silence_advice
from dyvision.cli._option_errors import explain
from dyvision.cli._results_folder import ResultsFolder
from dyvision.cli._resume import explain_restoring, kept_options
from dyvision.cli._run import TrainingRun, as_list, with_checkpoint_io
from dyvision.cli._trainer_options import MonitorCheck, check_checkpoint, check_trainer
from dyvision.cli.predict import add_prediction_options, prediction_writer
from dyvision.cli.request import TASKS, Request, check_keys, checkpoint_sections, option, read_request
from dyvision.tasks.callbacks import LastCheckpoint, StopOnSignal, Stopped

_SAMPLE_FORMATS = ("imagenet", "cityscapes", "coco")


class TaskCLI(cli.LightningCLI):
    """LightningCLI for one task: checks every key at once, and logs to TensorBoard and CSV under ``runs/<task>``.

    Args:
        command: ``fit``, ``validate``, ``test``, ``predict``, or ``quickstart``, which prints its own table.
        request: The command line.
    """

    def __init__(self, command: str, request: Request) -> None:
        self.command, self.request = command, request
        self.run: TrainingRun | None = None
        self.results: ResultsFolder | None = None
        model, data = TASKS[request.task]
        self.custom = {section: request.names_class(section) for section in ("model", "data")}
        super().__init__(
            model_class=LightningModule if self.custom["model"] else getattr(task_package, model),
            datamodule_class=LightningDataModule if self.custom["data"] else getattr(data_package, data),
            subclass_mode_model=self.custom["model"],
            subclass_mode_data=self.custom["data"],
            save_config_callback=None,
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
        parser.add_argument(
            "--trust", type=str | None, default=None, help="classes a checkpoint may name, as NAME,NAME"
        )
        add_prediction_options(parser)
        parser.add_argument(
            "--sample_data", type=str | None, default=None, help="draw the sample data there if missing"
        )
        parser.add_class_arguments(ModelCheckpoint, "checkpoint", instantiate=False)
        monitor = getattr(self._model_class, "monitor", None)
        parser.set_defaults({"checkpoint.save_last": True, "checkpoint.monitor": monitor, "checkpoint.mode": "max"})
        parser.add_class_arguments(LastCheckpoint, "last", skip={"dirpath"}, instantiate=False)

    def parse_arguments(self, parser: cli.LightningArgumentParser, args: Any) -> None:
        """Check all keys, then parse configs, checkpoint and command line in the order of precedence."""
        known = list(vars(parser.get_defaults().as_flat()))
        check_keys(self.request, known, free=[section for section, custom in self.custom.items() if custom])
        data, model = checkpoint_sections(self.request, known)
        kept = kept_options(self.request.checkpoint) if self.command == "fit" else {}
        contents = [data, kept, *(content for _, content in self.request.layers), model]
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

    def _classes(self) -> dict[str, Any]:
        return {
            "model": self._model_class,
            "data": self._datamodule_class,
            "trainer": Trainer,
            "checkpoint": ModelCheckpoint,
            "last": LastCheckpoint,
        }

    def before_instantiate_classes(self) -> None:
        """Check the trainer's options, refuse to evaluate random weights, and draw the sample data of a quickstart.

        Raises:
            ValueError: If an option is out of range, or the weights, or those of the head, would be random.
        """
        check_trainer(vars(self.config.trainer), self.command)
        check_checkpoint(vars(self.config.checkpoint))
        if self.command == "fit" and option(self.request.typed, "--output") is not None:
            raise ValueError("fit has no --output; its folder is <--trainer.default_root_dir, runs>/<task>/version_N")
        evaluates = self.command in ("validate", "test", "predict") and not self.custom["model"]
        if evaluates and self.config.ckpt_path is None:
            classifies = self.request.task == "classification"
            if not (classifies and self.config.model.pretrained):
                also = ", or --model.pretrained true" if classifies else ""
                raise ValueError(f"{self.command} needs trained weights: give --ckpt_path FILE, last or best{also}")
        if not self.custom["data"]:
            check_evaluated(self.command, self.request, self.config.data.as_dict())
        if self.config.sample_data is not None and self._is_drawn(Path(self.config.sample_data)):
            ensure_sample_data(Path(self.config.sample_data))

    def _is_drawn(self, sample: Path) -> bool:
        """Whether the data of this command is the sample data: that of a user needs none."""
        data = self.config.data.as_dict()
        root = (data.get("init_args") or {}).get("root") if self.custom["data"] else data.get("root")
        return root is not None and Path(root).expanduser().resolve().is_relative_to(sample.expanduser().resolve())

    def instantiate_classes(self) -> None:
        """Build task, data and trainer; what a checkpoint describes is not built beyond a multiple of its weights."""
        made = self.request.checkpoint
        with LimitedMemory(made["weights"], f"--ckpt_path {made['path']}") if made else nullcontext():
            super().instantiate_classes()
        if any(self.model.hparams.get(name) for name in ("freeze_backbone", "freeze_norm")):
            expect_frozen_modules()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A training run has a folder, logs and checkpoints; an evaluation one for its results; a trial nothing."""
        from dyvision.tasks.callbacks import ConfusionMatrixWriter, PredictionPictures, ResultsTable

        options = {**self.config_init.trainer, **kwargs}
        options["callbacks"] = as_list(options["callbacks"])
        trains = self.command in ("fit", "quickstart")
        if trains and not options["fast_dev_run"]:
            self.run = TrainingRun(self.config.as_dict(), self.parser.dump(self.config, skip_none=False), self.request)
            added = self.run.callbacks()
            if options["logger"] in (None, True):
                options["logger"] = self.run.loggers()
            options["default_root_dir"] = str(self.run.folder.path)
            added += [PredictionPictures(), ConfusionMatrixWriter(self.run.folder.path)]
        else:
            added = [StopOnSignal()] if trains else []
            options["enable_checkpointing"] = False
            if options["logger"] in (None, True):
                options["logger"] = False
        if self.command in ("validate", "test") and not options["fast_dev_run"]:
            self.results = ResultsFolder.take(self.config, self.command)
            options["default_root_dir"] = str(self.results.path)
            if self.request.loggers:
                options["logger"] = make_loggers(self.request.loggers, self.results.path)
            added.append(ConfusionMatrixWriter(self.results.path))
        if self.command in ("fit", "validate", "test"):
            added.append(ResultsTable())
        if self.command == "predict":
            added.append(prediction_writer(self.config))
        if trains:
            added.append(MonitorCheck())
        added += display_callbacks(options)
        options["callbacks"] = [*added, *options["callbacks"]]
        options["plugins"] = with_checkpoint_io(options["plugins"], options["strategy"])
        try:
            trainer = Trainer(**options)
        except BaseException:
            if self.run is not None:
                self.run.release(None)
            raise
        if self.run is not None:
            self.run.complete(trainer)
        return trainer


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
    command_line = TaskCLI(command, read_request(arguments, command))
    trainer, path = command_line.trainer, command_line.request.checkpoint_path or command_line.config.ckpt_path
    extra: dict[str, Any] = {"predict": {"return_predictions": False}, "fit": {}}.get(command, {"verbose": False})
    try:
        getattr(trainer, command)(
            command_line.model, datamodule=command_line.datamodule, ckpt_path=path, weights_only=True, **extra
        )
    except BaseException as error:
        if isinstance(error, OSError) and isinstance(error.filename, bytes):
            error.filename = os.fsdecode(error.filename)  # as TensorBoard names its files
        status = _stopped(error, trainer)
        if command_line.run is not None and trainer.global_step > 0:
            command_line.run.messages.how_to_go_on(trainer)
        if status is not None:
            raise SystemExit(status) from error
        _end_further_processes(trainer)
        if command == "fit" and command_line.run is not None and command_line.run.messages.first_step is None:
            explain_restoring(error, path)
        raise
    else:
        if command_line.run is not None:
            command_line.run.messages.finished(trainer)
        if command_line.results is not None:
            command_line.results.tell()
    finally:
        if command_line.run is not None:
            command_line.run.release(trainer)
        if command_line.results is not None:
            command_line.results.release()
    return command_line


def _end_further_processes(trainer: Trainer) -> None:
    """After an error in the first process the others would wait for it, or end by the same error and say so again."""
    launcher: Any = trainer.strategy.launcher
    if trainer.is_global_zero and hasattr(launcher, "kill"):  # Lightning has no public name for those that have it
        launcher.kill(signal.SIGKILL)


def _stopped(error: BaseException, trainer: Trainer) -> int | None:
    """The exit status of a run that was stopped from outside; None for an error."""
    if isinstance(error, Stopped):
        return error.status
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    stopper = next((callback for callback in callbacks if isinstance(callback, StopOnSignal)), None)
    if isinstance(error, (KeyboardInterrupt, SystemExit)):  # Lightning turns the former into the latter
        return 128 + (stopper.signum if stopper is not None and stopper.signum else signal.SIGINT)
    return None
