"""``dyvision fit | validate | test | predict``: LightningCLI with flat configs and short names.

``LightningCLI`` runs with ``run=False`` and the trainer is called here. So one flat config serves all four commands,
and a checkpoint's hyperparameters do not overwrite what was typed: the order is defaults < data of the checkpoint <
config files < model of the checkpoint < command line.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer, cli
from lightning.pytorch.callbacks import Callback

from dyvision.building import LimitedMemory
from dyvision.cli._display import display_callbacks
from dyvision.cli._evaluated import check_evaluated
from dyvision.cli._loggers import make_loggers
from dyvision.cli._messages import expect_frozen_modules, expect_synchronised_metrics, silence_advice
from dyvision.cli._parsing import NEEDS_WEIGHTS, check_without_task, parse
from dyvision.cli._results_file import ResultsFile
from dyvision.cli._results_folder import ResultsFolder
from dyvision.cli._resume import explain_restoring
from dyvision.cli._run import TrainingRun, as_list, with_checkpoint_io
from dyvision.cli._sample_data import ensure_sample_data
from dyvision.cli._trainer_options import MonitorCheck
from dyvision.cli.checking import check_values, find_errors
from dyvision.cli.errors import OptionErrors
from dyvision.cli.predict import prediction_writer
from dyvision.cli.request import Request, read_request
from dyvision.cli.task_parser import TaskOptions
from dyvision.tasks.callbacks import StopOnSignal, Stopped


class TaskCLI(TaskOptions):
    """One command line, parsed: task, data and trainer.

    Logs go to TensorBoard and CSV under ``runs/<task>``.

    Args:
        command: ``fit``, ``validate``, ``test``, ``predict``, or ``quickstart``, which prints its own table.
        request: The command line.
    """

    def __init__(self, command: str, request: Request) -> None:
        self.request = request
        self.run: TrainingRun | None = None
        self.results: ResultsFolder | None = None
        super().__init__(command, request.task, request.custom_sections, request.data_format)

    def parse_arguments(self, parser: cli.LightningArgumentParser, args: Any) -> None:
        """Parse configs, checkpoint and command line."""
        self.config = parse(self, self.request)

    def before_instantiate_classes(self) -> None:
        """Check the trainer's options, refuse to evaluate random weights, and draw the sample data of a quickstart.

        Raises:
            ValueError: If an option is out of range, or the weights, or those of the head, would be random.
        """
        check_values(self, self.config, "trainer", "checkpoint")
        if self.command == "fit" and "output" in self.request.typed:
            raise ValueError("fit has no --output; its folder is <--trainer.default_root_dir, runs>/<task>/version_N")
        if self.config.json is not None and self.command not in ("validate", "test"):
            raise ValueError(
                f"{self.command} has no --json; metrics are written by validate --json FILE and test --json FILE"
            )
        evaluates = self.command in ("validate", "test", "predict") and "model" not in self.custom
        if evaluates and self.config.ckpt_path is None and self.request.exported is None:
            classifies = self.request.task == "classification"
            if not (classifies and self.config.model.pretrained):
                also = ", or --model.pretrained true" if classifies else ""
                raise ValueError(f"{self.command} {NEEDS_WEIGHTS}{also}")
        if "data" not in self.custom:
            check_evaluated(self.command, self.request, self.config.data.as_dict())
        if self.config.sample_data is not None and self._is_drawn(Path(self.config.sample_data)):
            check_values(self, self.config, "last", "prediction", "model", "data")
            ensure_sample_data(Path(self.config.sample_data))

    def _is_drawn(self, sample: Path) -> bool:
        """Whether the data of this command is the sample data: that of a user needs none."""
        data = self.config.data.as_dict()
        root = (data.get("init_args") or {}).get("root") if "data" in self.custom else data.get("root")
        return root is not None and Path(root).expanduser().resolve().is_relative_to(sample.expanduser().resolve())

    def instantiate_classes(self) -> None:
        """Build task, data and trainer; what a checkpoint describes is not built beyond a multiple of its weights."""
        made = self.request.checkpoint
        with LimitedMemory(made["weights"], self.request.origin) if made else nullcontext():
            super().instantiate_classes()
        if self.request.exported is not None:
            self.request.exported.run(self.model)
        if any(self.model.hparams.get(name) for name in ("freeze_backbone", "freeze_norm")):
            expect_frozen_modules()
        if "model" not in self.custom:
            expect_synchronised_metrics()

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
        if self.config.json is not None:
            added.append(ResultsFile(self.config.json, self.request.checkpoint_path or self.config.ckpt_path))
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


def run_trainer(command: str, arguments: Sequence[str]) -> TaskCLI:
    """Parse the command line, build task and data, and run the trainer.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        arguments: The command line behind the command.

    Returns:
        The CLI object, with ``trainer``, ``model`` and ``datamodule``.

    Raises:
        ValueError: If the task is unclear, a key does not exist or a value is wrong.
        FileNotFoundError: If a config or the checkpoint does not exist.
    """
    silence_advice()
    command_line = _build(command, read_request(arguments, command))
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


def _build(command: str, request: Request) -> TaskCLI:
    """Parse the options and build what they describe; if that fails by a wrong option, look for more of them.

    Raises:
        OptionErrors: If several options are wrong.
    """
    if request.named_task is None and not request.checkpoint:
        check_without_task(command, request)
    task = request.task
    try:
        return TaskCLI(command, request)
    except ValueError as error:
        errors = [] if request.checkpoint else find_errors(request, command, task)
        if len(errors) > 1:
            raise OptionErrors(errors) from error
        if any(str(error) in found for found in errors):  # with the file or the option that it is about
            raise ValueError(errors[0]) from error
        raise


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
