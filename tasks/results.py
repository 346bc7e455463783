"""What an evaluation found, as numbers: those of the whole set, and those of each class."""

from __future__ import annotations

from typing import Any

import lightning as L


def evaluation_results(
    trainer: L.Trainer, module: Any, stage: str
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Collect what was logged at the end of an evaluation.

    Values per class are those logged as ``val/IoU/<class>``, and those a metric has in its attribute ``per_class``.

    Args:
        trainer: It has just evaluated.
        module: What it has evaluated.
        stage: ``"val"`` or ``"test"``.

    Returns:
        Values by the name of the metric, and for each class its values by the name of the metric.
    """
    prefix = f"{stage}/"
    found = trainer.callback_metrics.items()
    logged = {name.removeprefix(prefix): float(value) for name, value in found if name.startswith(prefix)}
    metrics = getattr(module, "metrics", {})
    metric = metrics[stage] if stage in metrics else None
    per_class: dict[str, dict[str, float]] = {
        name: dict(values) for name, values in (getattr(metric, "per_class", None) or {}).items()
    }
    numbers: dict[str, float] = {}
    for name, value in logged.items():
        kind, slash, class_name = name.partition("/")
        if slash:
            per_class.setdefault(class_name, {})[kind] = value
        else:
            numbers[name] = value
    return numbers, per_class


def is_measured(value: float) -> bool:
    """Whether there was something to measure: COCO's evaluation says -1 where there was not, other metrics NaN."""
    return value == value and value != -1
