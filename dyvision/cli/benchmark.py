"""``dyvision benchmark``: time of dynamic operators, networks and training steps over the static ones."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dyvision.analysis.benchmark import Comparison, Timer
    from dyvision.analysis.benchmark.cases import ConvShape, Setting
    from dyvision.analysis.benchmark.rows import Row

    #: what is measured next or has been, how many there are, and rows once it has been
    Progressed = Iterator[tuple[str, int, list[Row]]]

_DTYPES = ("float32", "bfloat16", "float16")
_WHAT = ("operators", "models", "training")
_BATCHES = {"operators": [1, 8, 32], "models": [1, 8, 32], "training": [16]}
_MEMORY = {
    "cpu": "memory: parameters, buffers and the most that tensors made in one step occupy (activations, gradients, "
    "temporary ones), without scratch memory inside an operation",
    "cuda": "memory: parameters, buffers and the allocator's peak during one step (activations, gradients, temporary "
    "tensors, workspaces)",
}
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
    parser.add_argument("what", choices=_WHAT)
    parser.add_argument("--networks", nargs="+", metavar="NAME", help="networks (dyvision list backbones)")
    parser.add_argument("--layers", nargs="+", metavar="NAME", help="dynamic layers (dyvision list layers)")
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

    from dyvision.analysis.benchmark import describe_machine, make_timer
    from dyvision.analysis.benchmark.chart import save_plot
    from dyvision.analysis.benchmark.rows import make_summary, make_table, write_csv, write_json
    from dyvision.tables import make_console

    setting = _check(options)
    console = make_console(180)
    rows: list[Row] = []
    with _threads(options.threads):
        torch.manual_seed(0)
        machine = describe_machine(setting.device)
        by_autocast = " by autocast" if options.what == "training" and options.dtype != "float32" else ""
        machine["dtype"] = options.dtype + by_autocast
        machine["memory_format"] = "channels_last" if options.channels_last else "contiguous"
        machine["mode"] = ("fused, " if options.fuse else "") + ("compiled" if options.compile else "eager")
        console.print(", ".join(machine.values()), highlight=False, soft_wrap=True)
        measure = _operators if options.what == "operators" else _networks
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("preparing")
            try:
                for label, total, found in measure(options, setting, make_timer(setting.device)):
                    rows += found
                    progress.update(task, total=total, advance=1 if found else 0, description=label)
            except KeyboardInterrupt:
                if not rows:
                    raise
                console.print("interrupted: what was measured until now follows", style="yellow")
    rounds = sorted(row.rounds for row in rows)
    many = f"{rounds[0]}" if rounds[0] == rounds[-1] else f"{rounds[0]} to {rounds[-1]}"
    title = f"{options.what}, {options.input_size} pixels, {many} rounds"
    console.print(make_table(rows, title))
    if options.what == "operators":
        console.print(make_summary(rows))
    if any(row.memory_mib is not None for row in rows):
        console.print(_MEMORY[setting.device.type], highlight=False, soft_wrap=True)
    if options.csv:
        write_csv(rows, options.csv)
    if options.json:
        write_json(rows, machine, options.json)
    if options.plot:
        save_plot(rows, options.plot, f"{title}\n{', '.join(machine.values())}")


def _check(options: argparse.Namespace) -> Setting:
    """Check what argparse does not, fill in defaults, and return where everything runs.

    Raises:
        ValueError: If an option is out of range or does not apply.
    """
    import torch

    from dyvision.analysis.benchmark import MIN_ROUNDS
    from dyvision.analysis.benchmark.cases import Setting
    from dyvision.analysis.benchmark.rows import check_plot
    from dyvision.cli._devices import find_device
    from dyvision.saving import check_target

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
    if options.what != "operators" and options.formulations:
        raise ValueError(f"--formulations applies to operators, not to {options.what}")
    if options.what != "models" and options.fuse:
        raise ValueError(f"--fuse applies to models, in evaluation mode, not to {options.what}")
    for name in ("csv", "json", "plot"):
        if getattr(options, name) is not None:
            check_target(getattr(options, name), f"--{name}")
    if options.plot is not None:
        check_plot(options.plot)
    device = find_device(options.device)
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device must be cpu or cuda, not {options.device}: there is no timer for others")
    return Setting(device, getattr(torch, options.dtype), options.channels_last, options.compile)


def _operators(options: argparse.Namespace, setting: Setting, timer: Timer) -> Progressed:
    """Yield what comes next without rows, and again with its rows."""
    import torch

    from dyvision.analysis.benchmark import compare
    from dyvision.analysis.benchmark.cases import OPERATOR_NETWORKS, operator_runs, trace_shapes
    from dyvision.backbones import create_model
    from dyvision.backbones.registry import find_builder
    from dyvision.ops import FORMULATIONS

    networks = list(dict.fromkeys(options.networks or OPERATOR_NETWORKS))
    for network in networks:
        find_builder(network)
    counts: dict[ConvShape, list[str]] = {}
    for network in networks:
        for shape, count in trace_shapes(create_model(network), options.input_size).items():
            counts.setdefault(shape, []).append(f"{count}x {network}")
    total = len(counts) * len(options.batch)
    for shape, uses in counts.items():
        for batch in options.batch:
            yield f"{shape}, batch {batch}", total, []
            with torch.inference_mode():
                runs = operator_runs(shape, batch, setting, options.formulations)
                found = compare(runs, options.rounds, budget=options.budget, timer=timer)
            pairs = [(name, "static") for name in runs if name != "static"]
            pairs += [("mixture", "timm")] if "timm" in runs else []
            rows = [_row(options, found, str(shape), batch, pair, note=", ".join(uses)) for pair in pairs]
            forced = [name for name in runs if name in FORMULATIONS]
            if forced:
                best = found.fastest(forced)
                rows.append(_row(options, found, str(shape), batch, ("mixture", best), best=best))
            yield f"{shape}, batch {batch}", total, rows
        if setting.compiled:
            torch.compiler.reset()  # it keeps a few shapes per function only


def _networks(options: argparse.Namespace, setting: Setting, timer: Timer) -> Progressed:
    """Yield what comes next without rows, and again with its rows."""
    import torch

    from dyvision.analysis.benchmark import compare, measure_peak_memory
    from dyvision.analysis.benchmark.cases import inference_run, make_groups, training_run
    from dyvision.backbones import fuse

    training = options.what == "training"
    groups = make_groups(options.networks, options.layers)
    total = len(groups) * len(options.batch)
    for group in groups:
        yield f"building {group.name}", total, []
        models = {label: build().to(setting.device).train(training) for label, build in group.builders.items()}
        for model in models.values():
            model.to(dtype=None if training else setting.dtype).to(memory_format=setting.memory_format)
        if options.fuse:
            models = {label: fuse(model) for label, model in models.items()}
        functions = {label: setting.compile(model) for label, model in models.items()}
        for batch in options.batch:
            yield f"{group.name}, batch {batch}", total, []
            images = torch.randn(batch, 3, options.input_size, options.input_size, device=setting.device)
            images = images.to(None if training else setting.dtype, memory_format=setting.memory_format)
            runs = {
                label: training_run(function, images, setting.dtype) if training else inference_run(function, images)
                for label, function in functions.items()
            }
            found = compare(runs, options.rounds, budget=options.budget, timer=timer)
            memory = {}
            if training and not (setting.compiled and setting.device.type == "cpu"):
                for label, model in models.items():
                    model.zero_grad(set_to_none=True)
                    memory[label] = measure_peak_memory(runs[label], model, setting.device)
            yield (
                f"{group.name}, batch {batch}",
                total,
                [_row(options, found, group.name, batch, pair, memory) for pair in group.pairs],
            )
        del models, functions, runs
        if setting.compiled:
            torch.compiler.reset()


def _row(
    options: argparse.Namespace,
    found: Comparison,
    group: str,
    batch: int,
    pair: tuple[str, str],
    memory: Mapping[str, int] | None = None,
    note: str = "",
    best: str = "",
) -> Row:
    from dyvision.analysis.benchmark.rows import Row

    name, reference = pair
    ratio = found.ratio(name, reference)
    return Row(
        what=options.what,
        group=group,
        name=name,
        reference="best formulation" if best else reference,
        batch=batch,
        input_size=options.input_size,
        ratio=ratio.median,
        low=ratio.low,
        high=ratio.high,
        reference_ms=found.milliseconds(reference),
        rounds=found.rounds,
        memory_mib=memory[name] / 2**20 if memory else None,
        memory_ratio=memory[name] / memory[reference] if memory else None,
        note=note,
        best=best,
    )


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
