"""``dyvision report routing``: what the branches of a trained network decide, as pictures, numbers and a table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyvision.cli._trust import add_trust_option, trainer_arguments
from dyvision.saving import check_folder, write_text

if TYPE_CHECKING:
    from torch import Tensor, nn


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
    routing.add_argument("checkpoint", type=Path, metavar="CKPT", help="checkpoint of dyvision fit; also last, best")
    routing.add_argument("--static", type=Path, metavar="CKPT", help="the same network with static layers, to compare")
    add_trust_option(routing)
    routing.add_argument("--output", type=Path, default=Path("report"), metavar="DIR", help="folder to write to")
    routing.add_argument("--data.root", dest="root", metavar="ROOT", help="data set, if not where training found it")
    routing.add_argument("--images", type=int, default=256, metavar="N", help="images, drawn evenly from validation")
    routing.add_argument(
        "--correlation-images", type=int, default=16, metavar="N", help="of these, to form kernels for"
    )
    routing.add_argument(
        "--layers",
        nargs="+",
        default=["*"],
        metavar="PATTERN",
        help="as the table names them: 'blocks.3.*'",
    )
    routing.set_defaults(run=_routing)


def _routing(options: argparse.Namespace) -> None:
    from rich.progress import track

    from dyvision.analysis.routing import analyze_routing
    from dyvision.analysis.routing_pictures import draw_coefficients, draw_correlation
    from dyvision.analysis.routing_report import make_table, routing_numbers
    from dyvision.cli._messages import silence_advice
    from dyvision.cli.trainer import TaskCLI, read_request
    from dyvision.tables import make_console

    for name in ("images", "correlation_images"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    check_folder(options.output, "--output")
    silence_advice()
    typed = [f"--ckpt_path={options.checkpoint}", "--trainer.accelerator=cpu", "--trainer.logger=false"]
    typed += [] if options.root is None else [f"--data.root={options.root}"]
    typed += trainer_arguments(options.trust)
    request = read_request(typed, "report routing")
    run = TaskCLI("report routing", request)
    path = request.checkpoint_path or options.checkpoint
    model = _load(run.model, path, options.trust)
    static = None
    if options.static is not None:
        request = read_request([f"--ckpt_path={options.static}"], "report routing")
        if request.task != run.model.task:
            raise ValueError(f"--static {options.static}: of task {request.task!r}, but {path} is of another")
        static = _load(run.model, request.checkpoint_path or options.static, options.trust)
    console = make_console()
    batches = track(
        _batches(run.datamodule, options.images),
        description="images",
        total=None,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    results = analyze_routing(model, batches, static, options.layers, options.correlation_images)
    classes = list(getattr(run.datamodule, "class_names", None) or [])
    numbers = {
        "checkpoint": str(path),
        "static": None if options.static is None else str(options.static),
        "classes": classes,
        "layers": [routing_numbers(result, len(classes)) for result in results],
    }
    write_text(options.output / "routing.json", f"{json.dumps(numbers, indent=1)}\n")
    draw_correlation(results, options.output / "correlation.png")
    draw_coefficients(results, options.output / "coefficients.png", classes)
    console.print(make_table(results))
    for name in ("correlation.png", "coefficients.png", "routing.json"):
        console.print(options.output / name, soft_wrap=True, highlight=False)


def _load(like: Any, path: Path, trust: Sequence[str]) -> nn.Module:
    """The task of a checkpoint with its weights (the averaged ones, if it has them)."""
    model: nn.Module = type(like).load_from_checkpoint(path, map_location="cpu", trust=trust)
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
