"""The options of ``fit | validate | test | predict`` for one task: model, data, trainer, checkpoints, predictions."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any, Union, get_args, get_origin

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, cli
from lightning.pytorch.callbacks import ModelCheckpoint

from dyvision import data as data_package
from dyvision import tasks as task_package
from dyvision.cli.imports import HELP as IMPORT_HELP
from dyvision.cli.predict import add_prediction_options
from dyvision.cli.task_table import TASKS
from dyvision.data.formats import get_data_format
from dyvision.tasks.callbacks import LastCheckpoint


class TaskOptions(cli.LightningCLI):
    """LightningCLI for one task: what options there are.

    Args:
        command: ``fit``, ``validate``, ``test``, ``predict`` or ``quickstart``.
        task: Name of the task.
        custom: Sections (``"model"``, ``"data"``) that take the class path of any class instead of the task's own.
        data_format: Name of the data format; None for that of the task.

    Raises:
        ValueError: If there is no data format of that name.
    """

    def __init__(self, command: str, task: str, custom: Sequence[str] = (), data_format: str | None = None) -> None:
        self.command, self.task, self.custom = command, task, list(custom)
        entry = TASKS[task]
        data_class = entry.data if data_format is None else get_data_format(data_format)
        if isinstance(data_class, str):
            data_class = getattr(data_package, data_class)
        super().__init__(
            model_class=LightningModule if "model" in custom else getattr(task_package, entry.model),
            datamodule_class=LightningDataModule if "data" in custom else data_class,
            subclass_mode_model="model" in custom,
            subclass_mode_data="data" in custom,
            save_config_callback=None,
            seed_everything_default=0,
            parser_kwargs={"prog": f"dyvision {command}", "exit_on_error": False},
            args=[],
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        """Make the parser."""
        super().setup_parser(*args, **kwargs)
        integers_first(self.parser)

    @property
    def classes(self) -> dict[str, Any]:
        """Section -> the class whose constructor's arguments its options are."""
        return {
            "model": self._model_class,
            "data": self._datamodule_class,
            "trainer": Trainer,
            "checkpoint": ModelCheckpoint,
            "last": LastCheckpoint,
        }

    def known_options(self) -> list[str]:
        """Dotted names of all options."""
        return list(vars(self.parser.get_defaults().as_flat()))

    def add_arguments_to_parser(self, parser: cli.LightningArgumentParser) -> None:
        """Add the options that belong neither to the model nor to the data nor to the trainer."""
        parser.add_argument("--task", type=str, default=self.task, help=f"one of {', '.join(TASKS)}")
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="checkpoint to resume from or to evaluate"
        )
        parser.add_argument("--import", type=list[str] | None, default=None, help=IMPORT_HELP)
        parser.add_argument(
            "--data_format",
            type=str | None,
            default=None,
            help="dyvision list formats; without it that of the checkpoint, else that of the task",
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


class TaskParser(TaskOptions):
    """The parser alone: no command line is read, and nothing is built."""

    def parse_arguments(self, parser: cli.LightningArgumentParser, args: Any) -> None:
        """Nothing is parsed; the random generators stay as they are."""
        self.config = Namespace(seed_everything=False)

    def instantiate_classes(self) -> None:
        """Nothing is built."""


def integers_first(parser: ArgumentParser) -> None:
    """Read ``4`` as an integer wherever an integer or a float is taken: of the trainer these mean batches and shares.

    Types are tried in the order of the annotation, and Python's cache of ``Optional[...]`` gives ``Union[int, float]``
    the order of the last module that asked for both: it depends on what was imported before Lightning.
    """
    for action in parser._actions:
        hint = getattr(action, "_typehint", None)  # jsonargparse has no public name for it
        kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else ()
        if int in kinds and float in kinds:
            others = [kind for kind in kinds if kind not in (int, float)]
            vars(action)["_typehint"] = Union[(int, float, *others)]


def task_parser(command: str, task: str) -> cli.LightningArgumentParser:
    """The parser of a command, for one task.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        task: A name of :data:`~dyvision.cli.task_table.TASKS`.
    """
    return TaskParser(command, task).parser
