"""Checkpoints that rebuild themselves, say what they are, and continue a run's random numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import lightning as L

import dyvision
from dyvision.tasks import random_state

#: hyperparameters that decide which tensors a checkpoint has, in the order in which a message names them
_ARCHITECTURE = (
    *("backbone", "layer", "layer_kwargs", "policy", "backbone_kwargs", "head", "aux_head"),
    *("num_classes", "in_chans", "output_stride"),
)


class CheckpointMixin(L.LightningModule):
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
    _random_state: dict[str, Any] | None = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what describes the task, and the averaged weights if there are any."""
        from dyvision.tasks.callbacks import EMA

        checkpoint["task"] = self.task
        checkpoint["dyvision_version"] = dyvision.__version__
        checkpoint["random_state"] = random_state.capture()
        checkpoint["initialized_from"] = {name: self.hparams[name] for name in ("pretrained", "backbone_weights")}
        checkpoint["hyper_parameters"] = {**self.hparams, "pretrained": False, "backbone_weights": None}
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EMA):
                # Lightning does not ask callbacks when it saves weights only
                callback.on_save_checkpoint(self.trainer, self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember what the weights belong to and, when resuming, the state of the random generators."""
        self._loaded = checkpoint.get("task"), dict(checkpoint.get("hyper_parameters") or {})
        trainer = getattr(self, "_trainer", None)
        if trainer is not None and trainer.state.fn == "fit":
            self._random_state = checkpoint.get("random_state")

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights.

        Raises:
            ValueError: If a checkpoint has another architecture, with what it was made with.
        """
        try:
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        except RuntimeError as error:
            if self._loaded is None:
                raise
            raise ValueError(self._difference(*self._loaded, reason=str(error))) from error

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """After resuming: continue the random numbers of the run that was interrupted.

        Not earlier, since Lightning makes the loader's iterator at another moment than in an unbroken run (a loader
        draws a number then, unless it has a generator of its own, as those of ``dyvision.data`` have).
        """
        if self._random_state is not None:
            random_state.restore(self._random_state)
            self._random_state = None

    def _difference(self, task: str | None, made: dict[str, Any], reason: str) -> str:
        if task != self.task:
            what = f"it is one of task {task!r}, this is {self.task!r}"
        else:
            names = [name for name in _ARCHITECTURE if made.get(name) != self.hparams.get(name)]
            listed = [f"{name}={made.get(name)!r} and not {self.hparams.get(name)!r}" for name in names]
            what = f"it was made with {', '.join(listed)}" if listed else " ".join(reason.split())[:300]
        return (
            f"the checkpoint has another architecture: {what}. Give the same arguments, or use "
            f"{type(self).__name__}.load_from_checkpoint, which takes them from the checkpoint"
        )
