"""What ``dyvision predict`` adds to the trainer: options of the prediction writer, and what is said at the end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from dyvision.saving import check_folder
from dyvision.tasks.callbacks import PredictionWriter


def add_prediction_options(parser: LightningArgumentParser) -> None:
    """Add ``--output``, ``--json`` and ``--prediction.*``."""
    parser.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="folder for predictions, or for the results of validate and test",
    )
    parser.add_argument(
        "--json", type=str | None, default=None, help="file for the metrics of validate and test, those of classes too"
    )
    parser.add_class_arguments(PredictionWriter, "prediction", skip={"output"}, instantiate=False)


def prediction_writer(config: Any) -> PredictionWriter:
    """The writer for the parsed options.

    Raises:
        OSError: If its folder is a file, or cannot be written to.
    """
    output = config.output or "predictions"
    check_folder(output, "--output")
    return PredictionWriter(output, **config.prediction.as_dict())


def report_predictions(trainer: Trainer) -> int:
    """Say what was written, and which images could not be read.

    Returns:
        Exit status: 1 if there is no prediction of some image, else 0. Only the first process has something to say.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    writer = next(callback for callback in callbacks if isinstance(callback, PredictionWriter))
    if not trainer.is_global_zero:
        return 0
    failed = writer.results.failed
    print(f"predictions in {writer.summary()}")
    if not failed:
        return 0
    first, *others = failed
    shown = [Path(path).name for path in others[:3]]
    more = f"; also {', '.join(shown)}{' ...' * (len(others) > 3)}" if others else ""
    rest = " (the others are written)" if writer.results.found else ""
    print(
        f"dyvision: error: no predictions for {len(failed)} image{'s' * (len(failed) != 1)}, listed in "
        f"{writer.output / 'failed.csv'}{rest}: {failed[first]}{more}",
        file=sys.stderr,
    )
    return 1
