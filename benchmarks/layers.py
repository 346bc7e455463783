"""Time of a network with dynamic layers over the same network with static ones, both measured in one run.

    python benchmarks/layers.py --backbone mobilenetv2_100 --batch 1 8 --size 224

Static and dynamic networks take turns, so that a change of the machine's speed meets all of them; the table gives the
median of the ratios and their quartiles.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from dyvision import create_model, list_layers


def main() -> None:
    """Measure and print."""
    options = parse()
    torch.manual_seed(0)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    names = ["static", *(name for name in options.layers if name != "static")]
    models = {name: create_model(options.backbone, layer=name).to(device) for name in names}
    if options.channels_last:
        for model in models.values():
            model.to(memory_format=torch.channels_last)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    table = Table(title=f"{options.backbone}, {options.size} pixels: dynamic / static ({options.rounds} rounds)")
    for column in ("layer", "parameters"):
        table.add_column(column, no_wrap=True)
    columns = [(mode, batch) for mode in ("inference", "training") for batch in options.batch]
    for mode, batch in columns:
        table.add_column(f"{mode}, batch {batch}", justify="right")
    ratios = {(mode, batch): measure(models, mode, batch, options.size, options.rounds) for mode, batch in columns}
    for name, model in models.items():
        cells = [ratios[column][name] for column in columns]
        table.add_row(name, f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M", *cells)
    console = Console(width=110)
    console.print(table)
    console.print(f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}, float32")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="mobilenetv2_050", help="network")
    parser.add_argument("--layers", nargs="+", default=list_layers(), choices=list_layers(), help="layers to compare")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8], help="batch sizes")
    parser.add_argument("--size", type=int, default=128, help="height and width of the images")
    parser.add_argument("--rounds", type=int, default=15, help="measurements per cell")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for torch's default")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--channels_last", action="store_true", help="use torch.channels_last")
    return parser.parse_args()


def measure(models: dict[str, nn.Module], mode: str, batch: int, size: int, rounds: int) -> dict[str, str]:
    """Measure every model in turn; return ``median (quartile-quartile)`` of its time over the static one's."""
    device = next(models["static"].parameters()).device
    images = torch.randn(batch, 3, size, size, device=device)
    steps = {name: step(model.train(mode == "training"), images) for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for count in range(rounds + 2):
        for name, run in steps.items():
            begin = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if count >= 2:  # the first two warm up
                seconds[name].append(time.perf_counter() - begin)
    cells = {"static": f"{1000 * statistics.median(seconds['static']):.1f} ms"}
    for name in models.keys() - {"static"}:
        ratios = [dynamic / static for dynamic, static in zip(seconds[name], seconds["static"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        cells[name] = f"{middle:.2f} ({low:.2f}-{high:.2f})"
    return cells


def step(model: nn.Module, images: torch.Tensor) -> Callable[[], None]:
    """One forward pass, and a backward pass in training mode."""

    def run() -> None:
        with torch.set_grad_enabled(model.training):
            output = model(images)
        if model.training:
            output.square().mean().backward()

    return run


if __name__ == "__main__":
    main()
