"""Which messages of the libraries below do not reach the terminal: advertisements, and advice that does not apply."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any

from dyvision.text import printable

_WARNINGS = (
    # deprecated in torch, used by Lightning
    r".*isinstance\(treespec, LeafSpec\).*",
    # both loggers write to one version folder on purpose
    r"Experiment logs directory .* exists and is not empty.*",
    r"Checkpoint directory .* exists and is not empty.*",
    # small sets load faster in the main process
    r".*does not have many workers.*",
    r".*The number of training batches .* is smaller than the logging interval.*",
    # a run that goes on has a folder of its own
    r".*The dirpath has changed from .*",
    # what the callbacks of training kept is of no use to an evaluation
    r"Be aware that when using `ckpt_path`, callbacks used to create the checkpoint .*",
    # the size in memory of the weights, which are float32
    r"Precision .* is not supported by the model summary.*",
)
#: what ``freeze_backbone`` and ``freeze_norm`` do on purpose
_FROZEN = r"Found \d+ module\(s\) in eval mode at the start of training.*"
#: metrics of our tasks are those of all processes when they are logged
_SYNCHRONISED = r"It is recommended to use `self\.log\('(val|test)/.*sync_dist=True.*"
_LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.fabric.utilities.seed",
    "lightning.pytorch.trainer.connectors.callback_connector",
)
_LOGGED = (
    "💡 Tip",
    "Loading `train_dataloader` to estimate",
    "Seed set to",
    "Trainer already configured with model summary",
    "GPU available: False",
    "TPU available",
    "HPU available",
    # said again by the line of the loaded weights, or by "goes on after"
    "Restoring states from the checkpoint",
    # the end of a run is told by the run
    "\nDetected KeyboardInterrupt",
    "`Trainer.fit` stopped: `max_epochs",
    "`Trainer.fit` stopped: `max_steps",
    "`Trainer(limit_",
)


def silence_advice() -> None:
    """Filter those messages from here on, and show dyvision's own."""
    for pattern in _WARNINGS:
        warnings.filterwarnings("ignore", message=pattern)
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if _is_wanted not in logger.filters:
            logger.addFilter(_is_wanted)
    show_messages()


def shorten_warnings() -> None:
    """Print a warning as one line, without the place in the code that gave it (``DYVISION_DEBUG=1`` keeps that)."""
    if not os.environ.get("DYVISION_DEBUG"):
        warnings.formatwarning = _one_line


def _one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    kind = "dyvision: warning" if category is UserWarning else category.__name__
    return f"{kind}: {printable(' '.join(str(message).split()))}\n"


def expect_frozen_modules() -> None:
    """Filter Lightning's warning that parts of the network are in evaluation mode, where the user asked for that."""
    warnings.filterwarnings("ignore", message=_FROZEN)


def expect_synchronised_metrics() -> None:
    """Filter Lightning's advice to average over processes what is the same in all of them, of our tasks."""
    warnings.filterwarnings("ignore", message=_SYNCHRONISED)


def show_messages() -> None:
    """Print what dyvision itself has to say (how much of the pretrained weights was used), by one process of a run."""
    logger = logging.getLogger("dyvision")
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    if not logger.handlers:
        logger.addHandler(_ErrorStream())
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


class _ErrorStream(logging.StreamHandler[Any]):
    """Writes to ``sys.stderr`` as it is at the time of a message: several commands may run in one process."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        """The base sets it once."""


def _is_wanted(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_LOGGED)
