"""What a resumed run takes over from the one before: its length, its folder, its log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from dyvision.cli._run_folder import RunFolder, folder_of
from dyvision.cli.request import Request

#: options outside model and data that decide how training goes on; a checkpoint keeps them as plain values
KEPT_OPTIONS = tuple(
    f"trainer.{name}"
    for name in (
        *("max_epochs", "min_epochs", "max_steps", "min_steps", "limit_train_batches", "overfit_batches"),
        *("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "precision"),
        *("limit_val_batches", "check_val_every_n_epoch", "val_check_interval", "log_every_n_steps"),
    )
)
#: options of the data that say where it is or how fast it is read, not what is trained on
_PLACE = ("root", "num_workers", "pin_memory", "persistent_workers", "eval_batch_size", "predict_root", "test_split")


class RunOptions(Callback):
    """Keeps the options of a run in its checkpoints.

    Args:
        options: Dotted names and plain values.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.options = {name: value for name, value in options.items() if _is_plain(value)}

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> RunOptions:
        """The options to keep of a parsed command line."""
        pairs = {name: tuple(name.split(".")) for name in KEPT_OPTIONS}
        return cls({name: config[section][key] for name, (section, key) in pairs.items() if key in config[section]})

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add them."""
        checkpoint["run_options"] = self.options


def kept_options(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a checkpoint's run as a nested configuration; only those named in ``KEPT_OPTIONS``."""
    nested: dict[str, Any] = {}
    stored = checkpoint.get("run_options")
    for name, value in stored.items() if isinstance(stored, Mapping) else ():
        if name in KEPT_OPTIONS and _is_plain(value):
            section, _, key = name.partition(".")
            nested.setdefault(section, {})[key] = value
    return nested


def explain_restoring(error: BaseException, path: str | Path | None) -> None:
    """Blame the checkpoint for an error before the first step that only made-up or foreign content causes.

    Raises:
        ValueError: If it is one, with the file and what to do.
    """
    if path is not None and isinstance(error, (LookupError, TypeError, AttributeError, AssertionError)):
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise ValueError(
            f"--ckpt_path {path}: the state of its run cannot be restored ({reason}); use an earlier checkpoint, or "
            "start a new run from its weights with --model.backbone_weights"
        ) from error


def take_folder(config: Mapping[str, Any], request: Request) -> tuple[RunFolder, tuple[Path, int] | None]:
    """Take the folder of a training run, and find the log it goes on with.

    A run that goes on from the end of an earlier one (``version_N/checkpoints/last.ckpt``), and changes nothing but its
    length, goes on in the folder of that one. Any other gets a new folder, with the rows of the log up to the
    checkpoint, so that nothing of the earlier run is overwritten.

    Args:
        config: The parsed options, nested.
        request: The command line.

    Returns:
        The folder, and the log to continue with the number of its rows; None for a run from scratch.

    Raises:
        OSError: If nothing can be written there.
    """
    given = config["trainer"].get("default_root_dir")
    task = config["task"]
    path = request.checkpoint_path
    earlier = path.resolve().parent.parent if path is not None else None
    root = Path(given) if given else Path("runs")
    if not given and earlier is not None and folder_of(path, earlier.parent) and earlier.parent.name == task:  # type: ignore[arg-type]
        root = earlier.parent.parent
    folder = None
    if path is not None and earlier is not None and folder_of(path, root / task) is not None:
        changed = _changed(config, request.checkpoint)
        folder = RunFolder.resume(earlier) if not changed else None
        if folder is None:
            reason = f"{', '.join(changed)} changed" if changed else f"another process is running in {earlier}"
            print(f"a new folder for this run: {reason}")
    if folder is None:
        folder = RunFolder.take(root, task)
    rows = request.checkpoint.get("log_rows")
    has_log = earlier is not None and isinstance(rows, int) and (earlier / "metrics.csv").is_file()
    return folder, (earlier / "metrics.csv", rows) if has_log and earlier is not None and rows is not None else None


def _changed(config: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> list[str]:
    changed = []
    for section in ("model", "data"):
        before = checkpoint.get(section) or {}
        for name, value in (config.get(section) or {}).items():
            if name in before and name not in _PLACE and _listed(before[name]) != _listed(value):
                changed.append(f"{section}.{name}")
    return changed


def _listed(value: Any) -> Any:
    """Tuples as lists, paths as text: as both look in YAML."""
    if isinstance(value, Mapping):
        return {name: _listed(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_listed(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))
