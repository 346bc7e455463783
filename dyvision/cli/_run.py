"""A training run: its folder, its logs, its checkpoints, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import CheckpointIO

from dyvision.cli._ending import RunMessages
from dyvision.cli._loggers import make_loggers
from dyvision.cli._resume import RunOptions, take_folder
from dyvision.cli.request import Request
from dyvision.saving import write_text
from dyvision.tasks.callbacks import FinalValidation, FinishEpoch, LastCheckpoint, StopOnSignal
from dyvision.tasks.checkpoint_io import AtomicCheckpointIO
from dyvision.tasks.metrics_log import LogPosition, MetricsLog


class TrainingRun:
    """What a run keeps and where. The folder is taken when this is made.

    Args:
        config: The parsed options, nested; ``checkpoint`` has the arguments of a ``ModelCheckpoint`` and ``last`` those
            of a :class:`~dyvision.tasks.callbacks.LastCheckpoint`.
        text: The options as YAML, for the folder.
        request: The command line.

    Raises:
        OSError: If nothing can be written there.
    """

    def __init__(self, config: Mapping[str, Any], text: str, request: Request) -> None:
        self.config, self.request = config, request
        self.folder, self._log = take_folder(config, request)
        if not self.folder.continued and self.folder.is_first_process:
            content = {**yaml.safe_load(text), "ckpt_path": None}
            if request.imports:
                content["import"] = request.imports
            content["data_format"] = request.data_format
            if request.loggers:
                content["trainer"] = {**content["trainer"], "logger": request.loggers}
            write_text(self.folder.path / "config.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        self.messages = RunMessages(self.folder, request)

    def loggers(self) -> list[Any]:
        """TensorBoard and CSV, both in the folder of the run, or those that were given by name."""
        root, name, version = self.folder.root, self.folder.name, self.folder.version
        # TensorBoard hides what the run before logged after the checkpoint
        purge: dict[str, Any] = {"purge_step": self.request.checkpoint.get("global_step")}
        board = TensorBoardLogger(
            root, name, version, default_hp_metric=False, **(purge if self.folder.continued else {})
        )
        own: dict[str, Any] = {"TensorBoardLogger": board, "CSVLogger": MetricsLog(root, name, version, kept=self._log)}
        if not self.request.loggers:
            return list(own.values())
        others = make_loggers([name for name in self.request.loggers if name not in own], self.folder.path)
        return [*(own[name] for name in dict.fromkeys(self.request.loggers) if name in own), *others]

    def callbacks(self) -> list[Callback]:
        """What has to be called before all other callbacks, which do and log what belongs to the next step."""
        first: list[Callback] = [FinishEpoch(), LogPosition(), RunOptions.of(self.config), StopOnSignal()]
        if self.config["trainer"].get("enable_checkpointing") is not False:
            first += self._checkpoints()
        return [*first, self.messages]

    def _checkpoints(self) -> list[Callback]:
        best, last = dict(self.config["checkpoint"]), dict(self.config["last"])
        own_folder = best["dirpath"] is None
        best["dirpath"] = best["dirpath"] or str(self.folder.checkpoints)
        keeps_last, best["save_last"] = best["save_last"], None
        if own_folder:
            best["enable_version_counter"] = False  # a checkpoint that is written again after a kill is the same
        if best["monitor"] is not None:
            # a metric belongs to the weights that were evaluated: between validations there is no best checkpoint
            steps, interval = best["every_n_train_steps"], best["train_time_interval"]
            best["every_n_train_steps"] = best["train_time_interval"] = None
            last["every_n_train_steps"] = last["every_n_train_steps"] or steps
            if interval is not None:
                last["every_minutes"] = interval.total_seconds() / 60
        checkpoints: list[Callback] = [ModelCheckpoint(**best)]
        if keeps_last is not False:
            checkpoints.insert(0, LastCheckpoint(**last, dirpath=best["dirpath"]))
        return checkpoints

    def complete(self, trainer: Trainer) -> None:
        """Add what has to be called after all other callbacks, to a trainer that has them."""
        trainer.callbacks.append(FinalValidation())  # type: ignore[attr-defined]

    def release(self, trainer: Trainer | None) -> None:
        """Give the folder back; one in which nothing was trained is removed."""
        first = self.messages.first_step  # that of the checkpoint a run goes on with; None if training never began
        trained = trainer is not None and first is not None and trainer.global_step > first
        self.folder.release(used=trained or any(Path(self.folder.checkpoints).glob("*.ckpt")))


def as_list(given: Any) -> list[Any]:
    """What the trainer takes as one object, as several or as None."""
    return list(given) if isinstance(given, (list, tuple)) else [given] if given is not None else []


def with_checkpoint_io(plugins: Any, strategy: Any) -> list[Any]:
    """The trainer's plugins and the writer of checkpoints, except where the strategy writes its own kind."""
    given = as_list(plugins)
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    writes_its_own = any(kind in name.lower() for kind in ("fsdp", "deepspeed", "modelparallel", "xla"))
    if writes_its_own or any(isinstance(plugin, CheckpointIO) for plugin in given):
        return given
    return [*given, AtomicCheckpointIO()]
