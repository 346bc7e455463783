"""A task's network collapsed on its data: calibrated, evaluated before and after, timed in turn, and saved."""

from __future__ import annotations

import argparse
import logging
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from dyvision.analysis.benchmark.timing import Comparison, compare, make_timer
from dyvision.analysis.macs import count_macs_of, count_parameters
from dyvision.cli._resume import RunOptions, kept_options
from dyvision.cli.request import Request
from dyvision.convert.collapse import collapse
from dyvision.data.base import VisionDataModule
from dyvision.data.calibration import calibration_datasets
from dyvision.data.datasets import VisionDataset
from dyvision.tables import NAME, FittingTable
from dyvision.tasks.base import BaseTask
from dyvision.tasks.checkpoint_io import AtomicCheckpointIO
from dyvision.tasks.collapsing import static_task, take_network

_log = logging.getLogger(__name__)

#: seconds after which no further round of the latency starts
_BUDGET = 60


@dataclass(frozen=True)
class Side:
    """The network before or after.

    Attributes:
        metrics: Of the validation split.
        parameters: Of the whole network.
        macs: Multiply-adds of the whole network for one validation image.
        latency_ms: Median, 10th and 90th percentile of the time for that image.
    """

    metrics: dict[str, float]
    parameters: int
    macs: int
    latency_ms: tuple[float, float, float]


@dataclass(frozen=True)
class CollapseResult:
    """What collapsing changes.

    Attributes:
        task: Name of the task.
        backbone: Name of the backbone.
        layer: Its layers before.
        metric: Name of the metric that is compared.
        calibration_images: Training images that coefficients were averaged over.
        comparison_images: Other training images, on which statistics of norms were chosen.
        batchnorm: Which statistics the network has, ``"kept"`` or ``"reestimated"``.
        batchnorm_metric: Metric of the comparison images with each; empty if they were not compared.
        device: Where the time was measured.
        latency_ratio: Time after over before: median, 10th and 90th percentile over the rounds.
        dynamic: Before.
        collapsed: After.
    """

    task: str
    backbone: str
    layer: str
    metric: str
    calibration_images: int
    comparison_images: int
    batchnorm: str
    batchnorm_metric: dict[str, float]
    device: str
    latency_ratio: tuple[float, float, float]
    dynamic: Side
    collapsed: Side

    def table(self) -> FittingTable:
        """One row each."""
        table = FittingTable(
            f"{self.task}, {self.backbone}", f"MACs, latency: one validation image on {self.device}, median [10-90 %]"
        )
        table.add_column("network", NAME)
        for name, importance in ((self.metric, 1), ("parameters", 2), ("MACs (M)", 2), ("latency (ms)", 1)):
            table.add_column(name, importance, justify="right")
        for name, side in ((f"dynamic, {self.layer}", self.dynamic), ("collapsed, static", self.collapsed)):
            middle, low, high = side.latency_ms
            table.add_row(
                name,
                f"{side.metrics[self.metric]:.4f}",
                f"{side.parameters:,}",
                f"{side.macs / 1e6:.1f}",
                rf"{middle:.2f} \[{low:.2f}-{high:.2f}]",
            )
        return table

    def remarks(self) -> list[str]:
        """How it was made, a line each."""
        middle, low, high = self.latency_ratio
        lines = [
            f"latency collapsed/dynamic: {middle:.2f} [{low:.2f}-{high:.2f}], measured in turn",
            f"coefficients: the average over {self.calibration_images} training images",
        ]
        if self.batchnorm_metric:
            kept, anew = self.batchnorm_metric["kept"], self.batchnorm_metric["reestimated"]
            lines.append(
                f"BatchNorm statistics: {self.batchnorm}; {self.metric} of {self.comparison_images} other training "
                f"images {kept:.4f} with those of training, {anew:.4f} with new ones"
            )
        else:
            lines.append(f"BatchNorm statistics: {self.batchnorm}, not compared")
        return lines


def collapse_task(
    task: BaseTask, data: Any, trainer: L.Trainer, options: argparse.Namespace
) -> tuple[CollapseResult, BaseTask]:
    """Collapse a task's network and compare the two.

    Args:
        task: The dynamic task, with its weights.
        data: Its data module.
        trainer: Evaluates.
        options: Of the command: ``images``, ``batchnorm``, ``rounds``.

    Returns:
        What changes, and the static task.

    Raises:
        ValueError: If the network cannot be collapsed, or the result is not the static network.
    """
    if not isinstance(data, VisionDataModule):
        raise ValueError(
            f"{type(data).__name__} has no training images with evaluation transforms, as those of dyvision.data have; "
            "use dyvision.collapse in Python"
        )
    network, metric = task.built_network, task.monitor
    static = static_task(task)
    # one image tells what cannot be collapsed, before the hours that an evaluation may take
    data.take_channels(task.hparams.in_chans)
    data.setup("validate")
    example = next(iter(data.val_dataloader()))["image"][:1]
    take_network(static, collapse(network, [example], reestimate_batchnorm=False))
    _log.info("evaluating the dynamic network on the validation split ...")
    before = _evaluate(trainer, task, data)

    calibrated, compared = calibration_datasets(data, options.images)
    chosen: list[float] = []

    def metric_of(candidate: nn.Module) -> float:
        take_network(static, candidate)
        statistics_are = "those of training" if chosen else "new ones"
        _log.info("evaluating it on other training images, BatchNorm statistics: %s ...", statistics_are)
        chosen.append(_evaluate(trainer, static, data)[metric])
        return chosen[-1]

    _log.info("averaging coefficients over %d training images ...", len(calibrated))
    with _validating_on(data, calibrated):
        loader = data.val_dataloader()
    compares = options.batchnorm == "auto" and compared is not None
    with _validating_on(data, compared):
        collapsed = collapse(
            network.to(trainer.strategy.root_device),
            loader,
            metric_of if compares else None,
            reestimate_batchnorm=None if compares else options.batchnorm == "reestimate",
        )
    take_network(static, collapsed)
    _log.info("evaluating the static network on the validation split ...")
    after = _evaluate(trainer, static, data)
    anew = chosen[0] > chosen[1] if chosen else options.batchnorm == "reestimate"

    device = trainer.strategy.root_device
    networks = {"dynamic": network.to(device).eval(), "collapsed": static.built_network.to(device).eval()}
    example = [image.to(device) for image in example] if isinstance(example, list) else example.to(device)
    _log.info("measuring how long both take ...")
    times = _time(networks, example, options.rounds, device)
    sides = {
        name: Side(
            values, count_parameters(networks[name]), count_macs_of(networks[name], example), _spread(times, name)
        )
        for name, values in (("dynamic", before), ("collapsed", after))
    }
    ratio = times.ratio("collapsed", "dynamic")
    return CollapseResult(
        task.task,
        task.hparams.backbone,
        task.hparams.layer,
        metric,
        len(calibrated),
        len(compared) if compares and compared is not None else 0,
        "reestimated" if anew else "kept",
        {"kept": chosen[1], "reestimated": chosen[0]} if chosen else {},
        str(device),
        (ratio.median, ratio.low, ratio.high),
        sides["dynamic"],
        sides["collapsed"],
    ), static


@contextmanager
def _validating_on(data: VisionDataModule, dataset: VisionDataset | None) -> Iterator[None]:
    """Let the data module's validation be a part of the training images; None leaves it as it is."""
    own = data.datasets["val"]
    data.datasets["val"] = own if dataset is None else dataset
    try:
        yield
    finally:
        data.datasets["val"] = own


def _evaluate(trainer: L.Trainer, task: BaseTask, data: VisionDataModule) -> dict[str, float]:
    found: Sequence[Mapping[str, float]] = trainer.validate(task, datamodule=data, verbose=False)
    return {name: float(value) for name, value in found[0].items()}


def _time(networks: Mapping[str, nn.Module], example: Any, rounds: int, device: torch.device) -> Comparison:
    def call(network: nn.Module) -> Any:
        return lambda: network(example)

    with torch.inference_mode():
        runs = {name: call(network) for name, network in networks.items()}
        return compare(runs, rounds, budget=_BUDGET, timer=make_timer(device))


def _spread(times: Comparison, name: str) -> tuple[float, float, float]:
    values = [1e3 * seconds for seconds in times.seconds[name]]
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    return statistics.median(values), deciles[0], deciles[-1]


class _SaveAndStop(Callback):
    """Saves a training run before its first step, and ends it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.save_checkpoint(self.path, weights_only=False)
        trainer.should_stop = True


def save_as_start(static: BaseTask, run: Any, request: Request, path: Path) -> None:
    """Write a checkpoint of a run that starts from these weights, so that ``fit`` can go on from it as well.

    Args:
        static: The task.
        run: The command line, with its trainer and data module.
        request: What it was read from, with the checkpoint and the options of its run.
        path: The file.
    """
    kept = kept_options(request.checkpoint).get("trainer", {})
    length = {name: value for name, value in kept.items() if name not in ("min_epochs", "min_steps")}
    given = {name: run.config_init.trainer[name] for name in ("accelerator", "devices", "default_root_dir")}
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(
        **{**length, **given, **off},
        num_sanity_val_steps=0,
        callbacks=[RunOptions(request.checkpoint.get("run_options") or {}), _SaveAndStop(path)],
        plugins=[AtomicCheckpointIO()],
    )
    trainer.fit(static.train(), datamodule=run.datamodule)
