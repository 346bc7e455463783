"""``dyvision report routing``: what the branches of a trained network decide, as pictures, numbers and a table."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyvision.saving import replacing, write_text
from dyvision.text import plain, printable

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor, nn

    from dyvision.analysis.routing import LayerRouting

#: layers per picture, spread over the depth; columns of a heat map, those that differ most between classes
_ROWS, _COLUMNS = 8, 64
#: colours distinguishable without colour vision (Okabe and Ito)
_STATIC, _DYNAMIC = "#999999", "#0072B2"


def add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("report", help="look into a trained network: coefficients and kernels")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    routing = actions.add_parser(
        "routing",
        help="correlation of the kernels, coefficients per class",
        description="Correlation between a layer's output kernels, static against dynamic, and its coefficients by "
        "class. Writes correlation.png, coefficients.png and routing.json.",
    )
    routing.add_argument("checkpoint", type=Path, metavar="CKPT", help="checkpoint of dyvision fit")
    routing.add_argument("--static", type=Path, metavar="CKPT", help="the same network with static layers, to compare")
    routing.add_argument("--trust", default="", metavar="NAMES", help="classes a checkpoint may name, as NAME,NAME")
    routing.add_argument("--output", type=Path, default=Path("report"), metavar="DIR")
    routing.add_argument("--data.root", dest="root", metavar="ROOT", help="data set, if not where training found it")
    routing.add_argument("--images", type=int, default=256, metavar="N", help="images, drawn evenly from validation")
    routing.add_argument(
        "--correlation-images", type=int, default=16, metavar="N", help="of these, to form kernels for"
    )
    routing.add_argument("--layers", nargs="+", default=["*"], metavar="PATTERN", help="layers by name: 'blocks.3.*'")
    routing.set_defaults(run=_routing)


def _routing(options: argparse.Namespace) -> None:
    from rich.console import Console

    from dyvision.analysis.routing import analyze_routing
    from dyvision.cli._messages import silence_advice
    from dyvision.cli._trainer import TaskCLI, read_request

    for name in ("images", "correlation_images"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    silence_advice()
    typed = [f"--ckpt_path={options.checkpoint}", "--trainer.accelerator=cpu", "--trainer.logger=false"]
    typed += [] if options.root is None else [f"--data.root={options.root}"]
    typed += [f"--trust={options.trust}"] if options.trust else []
    run = TaskCLI("report routing", read_request(typed))
    model = _load(run.model, options.checkpoint, options.trust)
    static = None
    if options.static is not None:
        task = read_request([f"--ckpt_path={options.static}"]).task
        if task != run.model.task:
            raise ValueError(f"--static {options.static}: of task {task!r}, but {options.checkpoint} is of another")
        static = _load(run.model, options.static, options.trust)
    batches = _batches(run.datamodule, options.images)
    results = analyze_routing(model, batches, static, options.layers, options.correlation_images)
    classes = list(getattr(run.datamodule, "class_names", None) or [])
    numbers = {
        "checkpoint": str(options.checkpoint),
        "static": None if options.static is None else str(options.static),
        "classes": classes,
        "layers": [_numbers(result, len(classes)) for result in results],
    }
    write_text(options.output / "routing.json", f"{json.dumps(numbers, indent=1)}\n")
    draw_correlation(results, options.output / "correlation.png")
    draw_coefficients(results, options.output / "coefficients.png", classes)
    console = Console()
    console = console if console.is_terminal else Console(width=140)
    console.print(_table(results))
    for name in ("correlation.png", "coefficients.png", "routing.json"):
        console.print(options.output / name, soft_wrap=True, highlight=False)


def _load(like: Any, path: Path, trust: str) -> nn.Module:
    """The task of a checkpoint with its weights (the averaged ones, if it has them)."""
    model: nn.Module = type(like).load_from_checkpoint(path, map_location="cpu", trust=trust.split(","))
    return model


def _batches(data: Any, count: int) -> Iterator[tuple[Any, Tensor | None]]:
    """Validation images, evenly over the set, which is sorted by class, and in a fixed random order."""
    import torch
    from torch.utils.data import DataLoader, Subset

    data.setup("validate")
    loader = data.val_dataloader()
    total = len(loader.dataset)
    count = min(count, total)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    chosen = Subset(loader.dataset, [index * total // count for index in order])
    for batch in DataLoader(chosen, batch_size=loader.batch_size, collate_fn=loader.collate_fn):
        yield batch["image"], batch.get("label")


def _numbers(result: LayerRouting, classes: int) -> dict[str, Any]:
    """The numbers of a layer as plain types."""
    coefficients = result.coefficients
    numbers = {
        "layer": result.name,
        "kind": result.kind,
        "coefficients": result.meaning,
        "images": len(coefficients),
        "correlation_images": result.correlation_images,
        "static_source": result.static_source,
        "mean_abs_correlation_static": result.static.mean,
        "mean_abs_correlation_dynamic": result.dynamic.mean,
        "histogram_static": result.static.histogram.tolist(),
        "histogram_dynamic": result.dynamic.histogram.tolist(),
        "between_class_share": result.class_share,
        "between_class_share_by_chance": result.chance_share,
        "coefficient_mean": coefficients.mean(0).tolist(),
        "coefficient_std": coefficients.std(0, correction=0).tolist(),
        "class_means": None if result.labels is None else result.class_means(classes).tolist(),
    }
    return {name: _plain(value) for name, value in numbers.items()}


def _plain(value: Any) -> Any:
    """JSON has no NaN: None."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _table(results: Sequence[LayerRouting]) -> Table:
    from rich.table import Table

    first = results[0]
    caption = (
        f"|r|: mean absolute correlation of a layer's output kernels, {first.correlation_images} images; static: "
        f"{_sources(results)}. Share: variance of the coefficients between classes over all of it, "
        f"{len(first.coefficients)} images"
    )
    if first.chance_share is not None:
        caption += f"; classes that mean nothing would give {first.chance_share:.3f}"
    names, prefix = _short(results)
    table = Table(title=f"routing of {prefix}*" if prefix else "routing", caption=f"{caption}.", caption_justify="left")
    table.add_column("layer", overflow="fold")
    for name in ("kind", "coefficients", "|r| static", "|r| dynamic", "share"):
        table.add_column(name, justify="left" if name == "kind" else "right", no_wrap=True)
    for result in results:
        values = (result.static.mean, result.dynamic.mean, result.class_share)
        shown = ("-" if value is None or math.isnan(value) else f"{value:.3f}" for value in values)
        table.add_row(plain(names[result.name]), result.kind, str(result.coefficients.shape[1]), *shown)
    return table


def _sources(results: Sequence[LayerRouting]) -> str:
    return ", ".join(dict.fromkeys(result.static_source for result in results))


def _short(results: Sequence[LayerRouting]) -> tuple[dict[str, str], str]:
    """Names without the modules that all layers are in, and these."""
    names = [result.name for result in results]
    parents = zip(*(name.split(".")[:-1] for name in names), strict=False)
    prefix = "".join(f"{column[0]}." for column in takewhile(lambda column: len(set(column)) == 1, parents))
    return {name: name.removeprefix(prefix) for name in names}, prefix


def _spread(results: Sequence[LayerRouting]) -> tuple[list[LayerRouting], str]:
    """At most ``_ROWS`` layers from first to last, and what a title says about it."""
    if len(results) <= _ROWS:
        return list(results), f"{len(results)} layers"
    chosen = [results[round(index * (len(results) - 1) / (_ROWS - 1))] for index in range(_ROWS)]
    return chosen, f"{_ROWS} of {len(results)} layers (--layers chooses)"


def draw_correlation(results: Sequence[LayerRouting], path: Path) -> None:
    """Draw per layer both matrices of |correlation| and their histograms.

    Args:
        results: The layers; at most eight are drawn, spread over the depth.
        path: Picture to write.
    """
    import torch
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, which = _spread(results)
    names, _ = _short(results)
    figure = Figure(figsize=(11, 1 + 2.8 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"|correlation| of output kernels, {which}; static: {_sources(results)}")
    grid = figure.subplots(len(rows), 3, squeeze=False)
    for (left, middle, right), result in zip(grid, rows, strict=True):
        pairs = ((left, result.static, "static"), (middle, result.dynamic, "dynamic"))
        for axes, part, name in pairs:
            image = axes.imshow(part.matrix.numpy(), vmin=0, vmax=1, cmap="magma", interpolation="nearest")
            source = result.static_source if name == "static" else f"mean of {result.correlation_images} images"
            mean = "none" if math.isnan(part.mean) else f"{part.mean:.3f}"
            axes.set_title(f"{name}: {source}\nmean {mean}", fontsize="small")
        figure.colorbar(image, ax=middle)
        left.set_ylabel(names[result.name], fontsize="small")
        bins = len(result.static.histogram)
        edges = torch.linspace(0, 1, bins + 1).tolist()
        right.stairs(result.static.histogram.numpy(), edges, color=_STATIC, fill=True, label="static")
        right.stairs(result.dynamic.histogram.numpy(), edges, color=_DYNAMIC, linewidth=1.5, label="dynamic")
        right.set_xlabel("|r|")
        right.set_title("share of pairs", fontsize="small")
        right.legend(frameon=False, fontsize="small")
    with replacing(path) as target:
        figure.savefig(target, dpi=100)


def draw_coefficients(results: Sequence[LayerRouting], path: Path, classes: Sequence[str] = ()) -> None:
    """Draw the coefficients of each layer: by class as a heat map, or their distribution if there are no classes.

    Args:
        results: The layers; at most eight are drawn, spread over the depth.
        path: Picture to write.
        classes: Names of the classes, in the order of the labels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, which = _spread(results)
    names, _ = _short(results)
    height = min(max(2.4, 0.22 * len(classes) + 1.2), 8) if rows[0].labels is not None else 2.4
    figure = Figure(figsize=(11, 1 + height * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    what = "class mean minus mean of all images" if rows[0].labels is not None else "distribution over images"
    figure.suptitle(f"coefficients: {what}, {which}")
    for axes, result in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        count = result.coefficients.shape[1]
        title = f"{names[result.name]}: {result.meaning}"
        if result.labels is None:
            columns = result.coefficients.std(0, correction=0).topk(min(count, _COLUMNS)).indices.sort().values
            axes.boxplot(result.coefficients[:, columns].numpy(), showfliers=False)
            ranked = "vary most"
        else:
            total = max(len(classes), int(result.labels.max()) + 1)
            deviation = result.class_means(total) - result.coefficients.mean(0)
            spread = deviation.nan_to_num().square().sum(0)
            columns = spread.topk(min(count, _COLUMNS)).indices.sort().values
            deviation = deviation[:, columns]
            limit = float(deviation.nan_to_num().abs().max()) or 1.0
            image = axes.imshow(deviation.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
            figure.colorbar(image, ax=axes)
            if len(classes) == total <= 40:
                # "$" begins a formula in matplotlib
                shown = [printable(name).replace("$", r"\$") for name in classes]
                axes.set_yticks(range(total), shown, fontsize="small")
            share = result.class_share
            share_text = "coefficients do not vary" if share is None or math.isnan(share) else f"share {share:.2f}"
            title += f"; {share_text}"
            ranked = "differ most between classes"
        shown = f"{len(columns)} of {count} that {ranked}" if count > _COLUMNS else f"all {count}"
        axes.set_xticks([])
        axes.set_xlabel(f"coefficients ({shown})", fontsize="small")
        axes.set_title(title, fontsize="small")
    with replacing(path) as target:
        figure.savefig(target, dpi=100)
