"""``dyvision benchmark``: time of dynamic operators, networks and training steps over the static ones."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dyvision.cli._layer_arguments import add_layer_arguments, layer_arguments

if TYPE_CHECKING:
    from dyvision.analysis.benchmark.measure import Plan
    from dyvision.analysis.benchmark.rows import Row

_DTYPES = ("float32", "bfloat16", "float16")
_WHAT = ("operators", "models", "training")
_BATCHES = {"operators": [1, 8, 32], "models": [1, 8, 32], "training": [16]}
_SIZES = {"operators": 224, "models": 224, "training": 128}


def add_benchmark(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "benchmark",
        help="measure the time and memory of dynamic networks over static ones",
        description="Everything that is compared takes turns in one loop, so that a change of the machine's speed "
        "meets all of it. operators: per-sample convolutions of the shapes of real networks; models: inference; "
        "training: forward pass, loss, backward pass, and peak memory.",
    )
    parser.add_argument("what", choices=_WHAT, help="what is measured")
    parser.add_argument("--networks", nargs="+", metavar="NAME", help="networks (dyvision list backbones)")
    parser.add_argument("--layers", nargs="+", metavar="NAME", help="dynamic layers (dyvision list layers)")
    add_layer_arguments(parser)
    parser.add_argument("--batch", nargs="+", type=int, metavar="N", help="batch sizes (1 8 32; training: 16)")
    parser.add_argument("--input-size", type=int, metavar="N", help="side of the images (224; training: 128)")
    parser.add_argument("--formulations", action="store_true", help="operators: force every formulation, name the best")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=_DTYPES,
        help="of everything; in training by autocast, with float32 weights",
    )
    parser.add_argument("--channels-last", action="store_true", help="images and kernels in channels-last memory")
    parser.add_argument(
        "--fuse", action="store_true", help="models: dyvision.fuse everything first, the static networks too"
    )
    parser.add_argument("--compile", action="store_true", help="compile everything, the static networks too")
    parser.add_argument("--rounds", type=int, default=15, help="measurements of each ratio, at least 3")
    parser.add_argument(
        "--budget",
        type=float,
        default=60,
        metavar="SECONDS",
        help="start no further round of a network or shape and batch after so long, once there are 3 (default: 60)",
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write all ratios there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the machine and all ratios there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the ratios (.png, .svg, .pdf)")
    parser.set_defaults(run=_benchmark)


def _benchmark(options: argparse.Namespace) -> None:
    import torch
    from rich.progress import Progress

    from dyvision.analysis.benchmark.chart import save_chart
    from dyvision.analysis.benchmark.measure import limited_threads, measure
    from dyvision.analysis.benchmark.memory import COUNTED
    from dyvision.analysis.benchmark.rows import make_summary, make_table, write_csv, write_json
    from dyvision.tables import make_console

    plan = _check(options)
    console = make_console()
    rows: list[Row] = []
    with limited_threads(options.threads):
        torch.manual_seed(0)
        machine = plan.describe()
        console.print(", ".join(machine.values()), highlight=False)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("preparing")
            try:
                for label, total, found in measure(plan):
                    rows += found
                    progress.update(task, total=total, advance=1 if found else 0, description=label)
            except KeyboardInterrupt:
                if not rows:
                    raise
                console.print("interrupted: what was measured until now follows", style="yellow")
    title = plan.title(rows)
    console.print(make_table(rows, title))
    if plan.what == "operators":
        console.print(make_summary(rows))
    if any(row.memory_mib is not None for row in rows):
        console.print(COUNTED[plan.setting.device.type], highlight=False)
    if options.csv:
        write_csv(rows, options.csv)
    if options.json:
        write_json(rows, machine, options.json)
    if options.plot:
        save_chart(rows, options.plot, f"{title}\n{', '.join(machine.values())}")


def _check(options: argparse.Namespace) -> Plan:
    """Check what argparse does not, fill in defaults, and return what to measure.

    Raises:
        ValueError: If an option is out of range or does not apply.
    """
    import torch

    from dyvision.analysis.benchmark import MIN_ROUNDS
    from dyvision.analysis.benchmark.cases import Setting
    from dyvision.analysis.benchmark.measure import Plan
    from dyvision.cli._devices import find_device
    from dyvision.saving import check_target
    from dyvision.visualize.figures import check_figure

    options.batch = options.batch or _BATCHES[options.what]
    options.input_size = _SIZES[options.what] if options.input_size is None else options.input_size
    least = 2 if options.what == "training" else 1  # batch normalisation has no statistics of one 1x1 map
    for name, value, smallest in (
        ("rounds", options.rounds, MIN_ROUNDS),
        ("input-size", options.input_size, 1),
        *(("batch", batch, least) for batch in options.batch),
        *([("threads", options.threads, 1)] if options.threads is not None else []),
    ):
        if value < smallest:
            raise ValueError(f"--{name} must be at least {smallest}, got {value}")
    if not options.budget > 0:
        raise ValueError(f"--budget must be more than 0 seconds, got {options.budget}")
    if options.what == "operators" and options.layers:
        raise ValueError("--layers applies to models and training; operators have no layers, only shapes of --networks")
    if options.set and (options.what == "operators" or not options.layers):
        raise ValueError("--set gives arguments of the layers of models and training: name these by --layers")
    for layer in options.layers or ():
        layer_arguments(layer, options.set)
    if options.what != "operators" and options.formulations:
        raise ValueError(f"--formulations applies to operators, not to {options.what}")
    if options.what != "models" and options.fuse:
        raise ValueError(f"--fuse applies to models, in evaluation mode, not to {options.what}")
    for name in ("csv", "json", "plot"):
        if getattr(options, name) is not None:
            check_target(getattr(options, name), f"--{name}")
    if options.plot is not None:
        check_figure(options.plot, "--plot")
    device = find_device(options.device)
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device must be cpu or cuda, not {options.device}: there is no timer for others")
    return Plan(
        what=options.what,
        setting=Setting(device, getattr(torch, options.dtype), options.channels_last, options.compile),
        batches=options.batch,
        input_size=options.input_size,
        networks=options.networks,
        layers=options.layers,
        arguments=dict(options.set),
        formulations=options.formulations,
        fused=options.fuse,
        rounds=options.rounds,
        budget=options.budget,
    )
