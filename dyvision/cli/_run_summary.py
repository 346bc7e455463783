"""What a run folder, a checkpoint or a file of ``validate --json`` says about a run: a row of ``dyvision compare``."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dyvision import checkpoint_file
from dyvision.analysis.macs import count_macs, count_parameters
from dyvision.cli._results_file import FORMAT
from dyvision.cli._run_folder import LAST
from dyvision.cli.task_table import TASKS
from dyvision.reading import read_json
from dyvision.tasks.results import is_measured

#: weights that a file without weights may describe; the largest networks of timm have twice as many
_MOST = 1_000_000_000
#: where things are and how fast they are read: no difference between runs
_PLACES = (
    *("data.root", "data.predict_root", "data.num_workers", "data.pin_memory", "data.persistent_workers"),
    *("data.eval_batch_size", "model.results_dir", "trainer.log_every_n_steps"),
)


@dataclass(frozen=True)
class RunSummary:
    """One run.

    Attributes:
        source: What was given.
        task: Name of the task.
        backbone: Name of the backbone.
        layer: Its layers.
        metric: Name of the metric that is compared, as it is logged.
        value: Its best value; None if nothing was evaluated.
        epochs: Epochs that were begun; None where the source does not say.
        parameters: Of the whole network.
        macs: Multiply-adds of the backbone for one image of ``input_size``.
        input_size: Height and width.
        seconds: Wall time: of training for a run folder, of the evaluation for a file of one.
        options: Dotted names and values of what it was configured with.
    """

    source: str
    task: str
    backbone: str
    layer: str
    metric: str
    value: float | None
    epochs: int | None
    parameters: int
    macs: int
    input_size: tuple[int, int]
    seconds: float | None
    options: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def summarize(path: Path, input_size: tuple[int, int]) -> RunSummary:
    """Read what there is about a run.

    Args:
        path: A folder of ``dyvision fit``, a checkpoint, or a file of ``validate --json`` or ``test --json``.
        input_size: Height and width of the image that multiply-adds are counted for.

    Raises:
        OSError: If it is not there.
        ValueError: If it is something else, or damaged.
    """
    if path.is_dir():
        return _of_folder(path, input_size)
    if path.suffix == ".json":
        return _of_results(path, input_size)
    return _of_checkpoint(path, str(path), input_size, None)


def _of_folder(path: Path, size: tuple[int, int]) -> RunSummary:
    checkpoints = sorted((path / "checkpoints").glob("[!.]*.ckpt"), key=lambda file: file.stat().st_mtime)
    last = path / "checkpoints" / LAST
    if not checkpoints:
        what = (
            "a run that has saved no checkpoint yet" if (path / "config.yaml").is_file() else "no run of dyvision fit"
        )
        raise ValueError(f"{path}: {what} (checkpoints/*.ckpt); give runs/TASK/version_N, a checkpoint or a JSON file")
    return _of_checkpoint(last if last.is_file() else checkpoints[-1], str(path), size, path)


def _of_checkpoint(path: Path, source: str, size: tuple[int, int], folder: Path | None) -> RunSummary:
    content = checkpoint_file.read_checkpoint(path, mmap=True)
    task = content.get("task")
    if task not in TASKS:
        raise ValueError(f"{path}: of another project (it names no task of dyvision)")
    monitor, best = _monitored(content)
    if folder is not None:
        values = [value for value in _column(folder / "metrics.csv", monitor or _monitor(task)) if is_measured(value)]
        best = max(values, default=best)
    options = {
        **_dotted("model", content["hyper_parameters"]),
        **_dotted("data", content["datamodule_hyper_parameters"]),
        **_of_run(content.get("run_options")),
    }
    return _summary(
        path,
        source,
        task,
        content["hyper_parameters"],
        checkpoint_file.count(content["state_dict"]),
        size,
        content.get("plugins"),
        metric=monitor or _monitor(task),
        value=best,
        epochs=_epochs(content),
        seconds=None if folder is None else _wall_time(folder),
        options=options,
    )


def _of_results(path: Path, size: tuple[int, int]) -> RunSummary:
    content = read_json(path)
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: a JSON file, but not one of validate --json or test --json")
    parts = {name: content.get(name) for name in ("model", "data", "metrics")}
    if content.get("task") not in TASKS or not all(isinstance(part, Mapping) for part in parts.values()):
        raise ValueError(f"{path}: lacks its task, or model, data or metrics; write it again by validate --json")
    metric = str(content.get("monitor") or _monitor(content["task"]))
    value = parts["metrics"].get(metric.partition("/")[2])  # type: ignore[union-attr]
    seconds = content.get("seconds")
    return _summary(
        path,
        str(path),
        content["task"],
        parts["model"],  # type: ignore[arg-type]
        _MOST,
        size,
        metric=metric if content.get("stage") == "val" else metric.replace("val/", "test/"),
        value=float(value) if isinstance(value, (int, float)) else None,
        epochs=None,
        seconds=float(seconds) if isinstance(seconds, (int, float)) else None,
        options={**_dotted("model", parts["model"]), **_dotted("data", parts["data"])},
    )


def _summary(
    path: Path,
    source: str,
    task: str,
    hparams: Mapping[str, Any],
    weights: int,
    size: tuple[int, int],
    plugins: Any = None,
    **values: Any,
) -> RunSummary:
    """The network is built for what it costs; no weights are read."""
    from dyvision.tasks.opening import task_class

    if hparams.get("num_classes") is None:
        raise ValueError(f"{path}: its hyperparameters lack num_classes")
    model = task_class(task, str(path)).from_hyperparameters(hparams, str(path), weights, plugins=plugins)
    return RunSummary(
        source=source,
        task=task,
        backbone=str(model.hparams.backbone),
        layer=str(model.hparams.layer),
        parameters=count_parameters(model.built_network),
        macs=count_macs(model.backbone_network, (1, model.hparams.in_chans, *size)),
        input_size=size,
        **values,
    )


def _monitor(task: str) -> str:
    from dyvision.tasks.opening import TASK_CLASSES

    return TASK_CLASSES[task].monitor


def _monitored(content: Mapping[str, Any]) -> tuple[str | None, float | None]:
    """Name and best value of the metric that the run keeps its best checkpoint by."""
    for name, state in (content.get("callbacks") or {}).items():
        if str(name).startswith("ModelCheckpoint") and isinstance(state, Mapping) and state.get("monitor"):
            score = state.get("best_model_score")
            return str(state["monitor"]), None if score is None else float(score)
    return None, None


def _column(path: Path, name: str) -> Iterator[float]:
    """A column of the log; what a run that was killed has half written is left out."""
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.DictReader(file):
            try:
                yield float(row.get(name) or "nan")
            except ValueError:
                continue


def _epochs(content: Mapping[str, Any]) -> int | None:
    progress: Any = content.get("loops")
    for name in ("fit_loop", "epoch_progress", "current", "ready"):
        progress = progress.get(name) if isinstance(progress, Mapping) else None
    return progress if isinstance(progress, int) else None


def _wall_time(folder: Path) -> float | None:
    """Seconds between the first and the last entry of each log of TensorBoard: a run that went on has several."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    spans: list[tuple[float, float]] = []
    for path in folder.glob("events.out.tfevents.*"):
        times = [event.wall_time for event in EventFileLoader(str(path)).Load()]
        if len(times) > 1:
            spans.append((min(times), max(times)))
    total, end = 0.0, 0.0
    for begin, stop in sorted(spans):  # two logs of one run overlap
        total += max(0.0, stop - max(begin, end))
        end = max(end, stop)
    return total or None


def _of_run(options: object) -> dict[str, Any]:
    return {str(name): value for name, value in options.items()} if isinstance(options, Mapping) else {}


def _dotted(section: str, values: object) -> dict[str, Any]:
    return {f"{section}.{name}": value for name, value in values.items()} if isinstance(values, Mapping) else {}


def differing_options(runs: list[RunSummary]) -> dict[str, list[Any]]:
    """Options in which those runs differ that have them, with the value of each run; None where it has none."""
    names = list(dict.fromkeys(name for run in runs for name in run.options if name not in _PLACES))
    found = {}
    for name in names:
        first, *others = [_listed(run.options[name]) for run in runs if name in run.options]
        if any(value != first for value in others):
            found[name] = [_listed(run.options.get(name)) for run in runs]
    return found


def _listed(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, Mapping):
        return {name: _listed(item) for name, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, (list, tuple)) else value
