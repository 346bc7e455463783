"""What a training run says: where it goes on from, what came out, and the command that comes next."""

from __future__ import annotations

import shlex
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, Timer

from dyvision.cli._run_folder import RunFolder
from dyvision.cli.request import Request
from dyvision.cli.typed import TypedOptions
from dyvision.tasks.callbacks import LastCheckpoint


class RunMessages(Callback):
    """Prints from where a run goes on; afterwards, what came out of it and how it is used or continued.

    Args:
        folder: The folder of the run.
        request: The command line, whose options a command that continues the run repeats.
    """

    def __init__(self, folder: RunFolder, request: Request) -> None:
        super().__init__()
        self.folder, self.request = folder, request
        self.first_step: int | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the epoch and the step of the checkpoint."""
        self.first_step = trainer.global_step
        if trainer.ckpt_path is not None and trainer.is_global_zero:
            begun, step = _epoch(trainer), f"step {trainer.global_step}"
            where = f"epoch {begun}, {step}" if begun == trainer.current_epoch else f"{step}, in epoch {begun},"
            print(f"goes on after {where} of {trainer.ckpt_path}, in {self.folder.path}", flush=True)

    def finished(self, trainer: L.Trainer) -> None:
        """Print the end of a run that was not stopped from outside."""
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        if self.first_step is None and trainer.ckpt_path is not None:
            print(
                f"nothing to train: {trainer.ckpt_path} is the end of a run of {_length(trainer)}; "
                "a longer one has --trainer.max_epochs (or max_steps) above that"
            )
            return
        best = _best(trainer)
        if best is not None:
            print(best[1])
        last = _existing_last(trainer)
        if last is not None:
            print(f"end: epoch {_epoch(trainer)}, step {trainer.global_step}: {_short(last)}")
        timer = next((callback for callback in trainer.callbacks if isinstance(callback, Timer)), None)  # type: ignore[attr-defined]
        remaining = timer.time_remaining() if timer is not None else None
        if remaining is not None and remaining <= 0 and not _complete(trainer):
            print("stopped by trainer.max_time")
            self.how_to_go_on(trainer)
        elif best is not None or last is not None:
            kept = _short(best[0] if best is not None else last)  # type: ignore[arg-type]
            path = shlex.join([kept, *self._imports()])
            print(f"next: dyvision validate --ckpt_path {path}")
            print(f"      dyvision predict --ckpt_path {path} --data.predict_root FOLDER --output predictions")

    def how_to_go_on(self, trainer: L.Trainer) -> None:
        """Print the command that continues a run that was stopped."""
        if not trainer.is_global_zero:
            return
        last = _existing_last(trainer)
        if last is None:
            print("nothing was saved from which this run could go on", flush=True)
            return
        arguments = ["dyvision", "fit"]
        config = self.folder.path / "config.yaml"
        if config.is_file():
            arguments += ["--config", _short(config)]
        arguments += ["--ckpt_path", _short(last)]
        if self.folder.continued or not config.is_file():
            arguments += self._imports()
            arguments += TypedOptions([pair for pair in self.request.typed if pair[0] != "ckpt_path"]).arguments()
        print(f"to go on: {shlex.join(arguments)}", flush=True)

    def _imports(self) -> list[str]:
        names = [_short(Path(name)) if name.endswith(".py") else name for name in self.request.imports]
        return [word for name in names for word in ("--import", name)]


def last_checkpoint(trainer: L.Trainer) -> Path:
    """The file that is, or would be, the end of a trainer's run.

    Raises:
        RuntimeError: If the trainer keeps none.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, LastCheckpoint) and callback.path is not None:
            return Path(_short(callback.path))
    raise RuntimeError("this trainer keeps no last checkpoint")


def _existing_last(trainer: L.Trainer) -> Path | None:
    try:
        path = last_checkpoint(trainer)
    except RuntimeError:
        return None
    return path if path.is_file() else None


def _best(trainer: L.Trainer) -> tuple[Path, str] | None:
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_path:
            path = Path(callback.best_model_path)
            if not path.is_file():
                continue
            epoch = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("epoch")
            score = callback.best_model_score
            value = f"{float(score):.4f} " if score is not None else ""
            number = f"at epoch {epoch + 1}" if isinstance(epoch, int) else "at an epoch that it does not say"
            return path, f"best {callback.monitor} {value}{number}: {_short(path)}"
    return None


def _epoch(trainer: L.Trainer) -> int:
    """The epoch under way, or the last one, counted from 1 as everything that is printed; Lightning's files from 0."""
    return int(trainer.fit_loop.epoch_progress.current.ready)


def _complete(trainer: L.Trainer) -> bool:
    by_steps = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    return by_steps or ((trainer.max_epochs or 0) > 0 and trainer.current_epoch >= (trainer.max_epochs or 0))


def _length(trainer: L.Trainer) -> str:
    return f"{trainer.max_steps} steps" if trainer.max_steps != -1 else f"{trainer.max_epochs} epochs"


def _short(path: Path) -> str:
    """Relative to the current folder where it lies below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
