"""The quickstart: one dynamic backbone learns three tasks on generated scenes, by the packaged configs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch import LightningDataModule
from rich.console import Console

from dyvision.analysis import count_macs
from dyvision.backbones import create_backbone, list_backbones
from dyvision.cli._ending import last_checkpoint
from dyvision.cli._messages import silence_advice
from dyvision.cli._sample_data import ensure_sample_data
from dyvision.cli.request import read_request
from dyvision.cli.task_table import TASKS
from dyvision.cli.trainer import TaskCLI
from dyvision.layers import get_layer
from dyvision.tables import NAME, FittingTable
from dyvision.tasks.callbacks import Stopped
from dyvision.tasks.callbacks.pictures import draw_predictions
from dyvision.text import plain


@dataclass(frozen=True)
class Result:
    """One row of the table that ends the quickstart.

    Attributes:
        task: Name of the task.
        metric: Name of the metric.
        untrained: The metric before training.
        trained: The metric after training, on the validation split.
        static_macs: Multiply-adds of the static backbone at the task's image size.
        dynamic_macs: Multiply-adds of the dynamic backbone at the same size.
        seconds: Wall-clock time of training and evaluation.
        picture: Predictions beside the truth.
    """

    task: str
    metric: str
    untrained: float
    trained: float
    static_macs: int
    dynamic_macs: int
    seconds: float
    picture: Path


def run_quickstart(
    layer: str = "dcd", backbone: str = "mobilenetv4_conv_small_relu6", output: Path = Path("quickstart"), seed: int = 0
) -> list[Result]:
    """Draw the sample data, train three tasks, print a table and write pictures.

    The classifier comes first; segmentation and detection start from its backbone, as one would from ImageNet.

    Args:
        layer: Dynamic layer of the backbone.
        backbone: Name of the backbone.
        output: Folder for the data, the runs and the pictures.
        seed: Seed of the weights, the order of the images and the augmentation.

    Returns:
        One result per task.

    Raises:
        ValueError: If the layer or the backbone does not exist.
    """
    get_layer(layer)
    if backbone not in list_backbones():
        create_backbone(backbone)  # raises with the closest names
    silence_advice()
    console = Console()
    started = time.perf_counter()
    data = output / "data"
    ensure_sample_data(data)
    console.print(plain(f"sample data: {data} ({time.perf_counter() - started:.0f} s)"))

    results: list[Result] = []
    weights: Path | None = None
    checkpoints: dict[str, Path] = {}
    for task, entry in TASKS.items():
        console.rule(f"{task}: {backbone}, layer {layer}")
        begin = time.perf_counter()
        arguments = [
            f"--config={task}/quickstart.yaml",
            f"--model.backbone={backbone}",
            f"--model.layer={layer}",
            f"--data.root={data / entry.sample_format}",
            f"--trainer.default_root_dir={output / 'runs'}",
            f"--seed_everything={seed}",
            "--sample_data=null",
        ]
        if weights is not None:
            arguments.append(f"--model.backbone_weights={weights}")
        run = TaskCLI("quickstart", read_request(arguments))
        untrained = run.trainer.validate(run.model, datamodule=run.datamodule, verbose=False)[0][entry.metric]
        try:
            run.trainer.fit(run.model, datamodule=run.datamodule)
        except Stopped as stopped:  # which it said itself
            raise SystemExit(stopped.status) from None
        finally:
            if run.run is not None:
                run.run.release(run.trainer)
        trained = float(run.trainer.callback_metrics[entry.metric])  # the last epoch ends with a validation
        checkpoints[task] = last_checkpoint(run.trainer)
        weights = weights or checkpoints[task]
        picture = draw_predictions(run.model, run.datamodule, output / f"{task}.png")
        size = _image_size(run.datamodule)
        static, dynamic = (count_macs(create_backbone(backbone, layer=name), size) for name in ("static", layer))
        results.append(
            Result(task, entry.metric_label, untrained, trained, static, dynamic, time.perf_counter() - begin, picture)
        )
    _print_results(console, results, backbone, layer, time.perf_counter() - started)
    _print_next(console, output, checkpoints["segmentation"])
    return results


def _image_size(data: LightningDataModule) -> tuple[int, int, int, int]:
    data.setup("validate")
    image = next(iter(data.val_dataloader()))["image"][0]
    return (1, *image.shape)


def _print_results(console: Console, results: list[Result], backbone: str, layer: str, seconds: float) -> None:
    table = FittingTable(f"{backbone} with {layer} layers, {seconds:.0f} s in all")
    for name in ("task", "metric"):
        table.add_column(name, NAME)
    columns = (("untrained", 1), ("trained", 1), ("MACs static", 2), (f"MACs {layer}", 2), ("s", 3))
    for name, importance in columns:
        table.add_column(name, importance, justify="right")
    for result in results:
        table.add_row(
            result.task,
            result.metric,
            f"{result.untrained:.3f}",
            f"[bold]{result.trained:.3f}[/]",
            f"{result.static_macs / 1e6:.1f} M",
            f"{result.dynamic_macs / 1e6:.1f} M",
            f"{result.seconds:.0f}",
        )
    console.print(table)
    console.print("MACs: multiply-adds executed by the backbone for one image of the task's size.")
    for result in results:
        console.print(plain(f"predictions beside the truth: {result.picture}"), soft_wrap=True)


def _print_next(console: Console, output: Path, checkpoint: Path) -> None:
    console.print("\n[bold]Next[/]")
    for command in (
        "dyvision list layers",
        "dyvision fit --config segmentation/quickstart.yaml --config layers/dyconv.yaml",
        f"dyvision validate --ckpt_path {checkpoint}",
        f"dyvision predict --ckpt_path {checkpoint} --data.predict_root {output / 'data/cityscapes/leftImg8bit/val'}",
        "dyvision fit --config segmentation/cityscapes_dcd.yaml --data.root /path/to/cityscapes",
    ):
        console.print(plain(f"  {command}"), soft_wrap=True, highlight=False)
