"""Checkpoints that rebuild themselves, say what they are, and continue a run's random numbers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from zipfile import is_zipfile

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from dyvision.building import building_from
from dyvision.checkpoint_file import check_archive, check_finite, checked, count, read_checkpoint, warn_of_newer
from dyvision.reading import read_yaml
from dyvision.registry import check_plugins, record_plugins
from dyvision.tasks import random_state
from dyvision.tasks.classes import check_names
from dyvision.tasks.components import accepted_arguments, check_arguments
from dyvision.tasks.images import ImagesMixin
from dyvision.tasks.misfit import class_of, describe_misfit
from dyvision.tasks.preprocessing import stored_preprocessing
from dyvision.tasks.resume_state import check_resumable
from dyvision.tasks.resume_structure import check_restorable
from dyvision.tensor_kinds import check_kinds
from dyvision.text import printable
from dyvision.trust import hyperparameters_of, name_unknown
from dyvision.version import VERSION

if TYPE_CHECKING:
    from typing_extensions import Self


class CheckpointMixin(ImagesMixin):
    """What a task adds to Lightning's checkpoints.

    A checkpoint has the keys ``task``, ``dyvision_version``, ``random_state`` and ``initialized_from`` (the weights
    training started from). Its hyperparameters name no other file, so that loading it needs nothing else; and it holds
    plain types only, so that ``torch.load(path, weights_only=True)`` reads it.
    """

    task: ClassVar[str]
    if TYPE_CHECKING:

        @property
        def hparams(self) -> Any:
            """Hyperparameters, as attributes and as a mapping (Lightning's own annotation knows only the latter)."""

    _loaded: tuple[str | None, dict[str, Any]] | None = None
    _loaded_from = "the given state dict"
    _stored: dict[str, list[dict[str, Any]]] | None = None
    #: steps in the whole training, once the optimiser is configured
    total_steps: float | None = None
    _progress: dict[str, Any] | None = None
    _random_state: dict[str, Any] | None = None
    #: what the data of the training calls the classes, where that is not what the task calls them
    _data_names: Any = None
    #: of the first of the runs that this one goes on with
    _initialized_from: dict[str, Any] | None = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what describes the task, and the averaged weights if there are any."""
        from dyvision.tasks.callbacks import EMA

        checkpoint["task"] = self.task
        checkpoint["dyvision_version"] = VERSION
        checkpoint["random_state"] = random_state.capture()
        own = {name: self.hparams[name] for name in ("pretrained", "backbone_weights")}
        checkpoint["initialized_from"] = own if self._initialized_from is None else self._initialized_from
        checkpoint["hyper_parameters"] = {**self.hparams, "pretrained": False, "backbone_weights": None}
        data: Any = getattr(self.trainer, "datamodule", None)
        plugins = record_plugins({**self.hparams, **getattr(data, "hparams", {})}, data)
        if plugins:
            checkpoint["plugins"] = plugins
        found = getattr(data, "class_names", None)
        if found and list(found) != self.hparams.get("class_names"):  # the user has named them in another way
            checkpoint["data_class_names"] = [str(name) for name in found]
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EMA):
                # Lightning does not ask callbacks when it saves weights only
                callback.on_save_checkpoint(self.trainer, self, checkpoint)

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | os.PathLike[str] | Any,
        map_location: Any = None,
        hparams_file: str | os.PathLike[str] | None = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        trust: Collection[str] = (),
        **kwargs: Any,
    ) -> Self:
        """Build the task that a checkpoint was made with, and load its weights.

        A checkpoint of any origin is safe to load: it is read as plain data, its check sums are compared, and its
        hyperparameters may name only what dyvision knows itself.

        Args:
            checkpoint_path: The file; a URL or an open file is read, too.
            map_location: As for ``torch.load``; where the tensors were by default, as far as that device exists.
            hparams_file: YAML file of hyperparameters instead of those in the checkpoint.
            strict: Whether the names of all weights have to agree.
            weights_only: For Lightning's signature; objects are refused in any case.
            trust: Dotted names of classes, or names of networks (``hf-hub:...``), that the hyperparameters may name
                although they are not dyvision's.
            **kwargs: Hyperparameters that replace the checkpoint's.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no checkpoint, is damaged, has weights that are not finite, or names other code.
        """
        where = str(checkpoint_path)
        location: Any = map_location or (None if torch.accelerator.is_available() else "cpu")
        if "://" in where:
            content = checked(TorchCheckpointIO().load_checkpoint(where, location, weights_only=True), where)
        elif hasattr(checkpoint_path, "read"):
            content = checked(torch.load(checkpoint_path, map_location=location, weights_only=True), where)
        else:
            content = read_checkpoint(checkpoint_path, location)
        if hparams_file is not None:
            content["hyper_parameters"] = read_yaml(Path(hparams_file))
        return cls.from_content(content, where, strict, trust, **kwargs)

    @classmethod
    def from_content(
        cls,
        content: dict[str, Any],
        where: str,
        strict: bool | None = None,
        trust: Collection[str] = (),
        **kwargs: Any,
    ) -> Self:
        """Build the task that a checkpoint describes, and load its weights.

        Args:
            content: What :func:`dyvision.checkpoint_file.read_checkpoint` returns, or the same from another kind of
                file.
            where: The file, for messages.
            strict: As for :meth:`load_from_checkpoint`.
            trust: As for :meth:`load_from_checkpoint`.
            **kwargs: Hyperparameters that replace the checkpoint's.

        Raises:
            ValueError: As for :meth:`load_from_checkpoint`.
        """
        made = content.get("task")
        if isinstance(made, str) and made != getattr(cls, "task", made):
            other = class_of(made)
            hint = f"; use {other}.load_from_checkpoint" if other else ""
            raise ValueError(f"{where}: of task {made!r}, and {cls.__name__} is for {cls.task!r}{hint}")
        warn_of_newer(content, where, VERSION)
        stored, plugins = content["hyper_parameters"], content.get("plugins")
        model = cls.from_hyperparameters(stored, where, count(content["state_dict"]), trust, plugins, **kwargs)
        model.on_load_checkpoint(content)
        model._loaded_from = where
        model._trained_with = stored_preprocessing(content, where) or None
        strict = model.strict_loading if strict is None else strict
        model.load_state_dict(content["state_dict"], strict=strict)
        first = next(iter(content["state_dict"].values()), None)
        return model if first is None else model.to(first.device)

    @classmethod
    def from_hyperparameters(
        cls,
        hyperparameters: Mapping[str, Any],
        where: str,
        weights: int,
        trust: Collection[str] = (),
        plugins: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Build the task that a file of any origin describes; its weights are random.

        Args:
            hyperparameters: As the file has them.
            where: The file, for messages.
            weights: Number of its weights, which limits what is built.
            trust: As for :meth:`load_from_checkpoint`.
            plugins: What the file says of plug-ins.
            **kwargs: Hyperparameters that replace the file's.

        Raises:
            ValueError: If they name other code, or describe no network, or a far larger one.
        """
        names, anything = accepted_arguments(cls)
        check_arguments(cls, kwargs, f"{where}: {cls.__name__}")
        stored = hyperparameters_of(hyperparameters, where, (trust,) if isinstance(trust, str) else trust, kwargs)
        check_plugins(plugins, stored, where)
        arguments = {**(stored if anything else name_unknown(stored, names, where)), **kwargs}
        with building_from(where, "network", weights):
            return cls(**arguments)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember what the weights belong to and, when resuming, the state of the random generators.

        Raises:
            ValueError: If the file is damaged, weights are not finite, or a run cannot be resumed from it.
        """
        self._loaded = checkpoint.get("task"), dict(checkpoint.get("hyper_parameters") or {})
        trainer = getattr(self, "_trainer", None)
        path = None if trainer is None else trainer.ckpt_path
        if path is not None and os.path.isfile(path) and is_zipfile(path):
            # a trainer of the user's own reads the file without looking at its check sums
            check_archive(Path(path))
        self._loaded_from = str(path or "the checkpoint")
        check_finite(checkpoint["state_dict"], self._loaded_from)
        self._data_names = checkpoint.get("data_class_names")
        self._trained_with = stored_preprocessing(checkpoint, self._loaded_from) or None
        if trainer is not None:
            self.compare_classes(trainer.state.fn)
        if trainer is not None and trainer.state.fn == "fit":
            check_resumable(checkpoint, str(path))
            self._stored = {name: checkpoint[name] for name in ("optimizer_states", "lr_schedulers")}
            # the callback that puts the counters right rewrites them in place, before the schedule is built
            self._progress = {name: checkpoint[name] for name in ("global_step", "loops")}
            self._random_state = checkpoint.get("random_state")
            if self._random_state is None:
                warnings.warn(
                    f"{path}: has no random_state, as early versions wrote it: the run goes on with other random "
                    "numbers than the one that never stopped",
                    stacklevel=1,
                )
            self._initialized_from = checkpoint.get("initialized_from")

    @property
    def data_names(self) -> list[str] | None:
        """What the data of the training calls the classes, where that is not what the task calls them."""
        return self._data_names if isinstance(self._data_names, list) else None

    def remember(self, where: str, task: str, made: Mapping[str, Any], data_names: list[str] | None) -> None:
        """Take what it is run by for what it was loaded from.

        Args:
            where: The file, for messages.
            task: Name of its task.
            made: Its hyperparameters.
            data_names: See ``data_names``.
        """
        self._loaded, self._loaded_from, self._data_names = (task, dict(made)), where, data_names

    def compare_classes(self, stage: str | None) -> None:
        """Compare the classes of a checkpoint, once it is read, with those of the data.

        Names that the user gave again are theirs. Predictions are made from any images, whatever classes lie beside.

        Raises:
            ValueError: If they are others.
        """
        if self._loaded is None or stage == "predict":
            return
        stored = self._loaded[1].get("class_names")
        names = stored if self.data_names is None else self.data_names
        if names:
            where = str(self.trainer.ckpt_path or self._loaded_from)
            renamed = stored != self.hparams.get("class_names")
            check_names(names, getattr(self.trainer, "datamodule", None), where, renamed)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights.

        Raises:
            ValueError: If a checkpoint has another architecture, with what it was made with, or a tensor holds
                another kind of numbers.
        """
        check_kinds(state_dict, self.state_dict(), self._loaded_from)
        try:
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        except RuntimeError as error:
            if self._loaded is None:
                raise
            raise ValueError(printable(describe_misfit(self, self._loaded_from, *self._loaded, state_dict))) from error

    def on_fit_start(self) -> None:
        """When resuming: check that the optimisers and schedules just built are those that are restored next.

        Raises:
            ValueError: If not, with the file and the first value that differs.
        """
        if self._stored is not None:
            names = {parameter: name for name, parameter in self.named_parameters()}
            schedules = [config.scheduler for config in self.trainer.lr_scheduler_configs]
            where = str(self.trainer.ckpt_path)
            check_restorable(self._stored, self.trainer.optimizers, schedules, names, where)
            self._stored = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """After resuming: continue the random numbers of the run that was interrupted.

        Not earlier, since Lightning makes the loader's iterator at another moment than in an unbroken run (a loader
        draws a number then, unless it has a generator of its own, as those of ``dyvision.data`` have).
        """
        if self._random_state is not None:
            random_state.restore(self._random_state)
            self._random_state = None
