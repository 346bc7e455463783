"""Time of exported networks over a reference network in the same runtime, all measured in turn in one run.

    python -m benchmarks.exported mobilenetv2_100 --layer dyconv condconv odconv dcd --batch 1 8 --threads 1 2
    python -m benchmarks.exported mobilenetv2_100 dy_mobilenetv2 fix_mobilenetv2 --files dynamic fixed
    python -m benchmarks.exported resnet18 --layer dyconv --runtimes onnx openvino

The first network is the reference; ``--layer`` adds its dynamic versions. Every network is exported by
``dyvision.export``, for any batch or (``--files fixed``) one file per batch, and compared with PyTorch.
Where other programs run beside it, ``--cpu-time`` (one thread) leaves out what they take; the ratio of the shortest
times is the one that they disturb least. Needs ``pip install "dyvision[export,openvino]"``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import dyvision
from dyvision.analysis.benchmark import compare, describe_machine
from dyvision.analysis.benchmark.cases import SETTINGS
from dyvision.export import OnnxFile, OpenvinoFile, export_onnx, export_openvino

#: how a network is written for a runtime, and what its files are called
WRITERS: dict[str, tuple[Callable[..., OnnxFile | OpenvinoFile], str]] = {
    "onnx": (export_onnx, ".onnx"),
    "openvino": (export_openvino, ".xml"),
}


def main() -> None:
    """Export, check, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", metavar="NETWORK")
    parser.add_argument("--layer", nargs="+", default=[], metavar="NAME", help="dynamic versions of the first network")
    parser.add_argument("--policy", help="which convolutions become dynamic; by default those of the method's paper")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    kinds = ("dynamic", "fixed")
    parser.add_argument(
        "--files", nargs="+", choices=kinds, default=["dynamic"], help="for any batch, or one per batch"
    )
    parser.add_argument("--cpu-time", action="store_true", help="seconds of the processor, not of the clock")
    parser.add_argument("--input-size", type=int, default=224)
    parser.add_argument("--runtimes", nargs="+", choices=tuple(WRITERS), default=["onnx"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    if options.cpu_time and options.threads != [1]:
        parser.error("--cpu-time adds up what all threads take: use it with --threads 1")
    print(describe_machine(torch.device("cpu"))["device"])
    torch.manual_seed(0)
    builders: dict[str, Callable[[], nn.Module]] = {
        name: partial(dyvision.create_model, name) for name in options.networks
    }
    reference = options.networks[0]
    for layer in options.layer:
        arguments = {**SETTINGS.get(layer, {}), **({"policy": options.policy} if options.policy else {})}
        builders[f"{reference}, {layer}"] = partial(dyvision.create_model, reference, layer, **arguments)
    for runtime in options.runtimes:
        for batch in [b for kind in options.files for b in ([None] if kind == "dynamic" else options.batch)]:
            with tempfile.TemporaryDirectory() as folder:
                files = write(builders, runtime, Path(folder), batch, options.input_size)
                for measured in [batch] if batch else options.batch:
                    for threads in options.threads:
                        Console().print(table(files, measured, "fixed" if batch else "dynamic", threads, options))


def write(
    builders: dict[str, Callable[[], nn.Module]], runtime: str, folder: Path, batch: int | None, size: int
) -> dict[str, OnnxFile | OpenvinoFile]:
    """Export and check all networks; ``batch`` None for any."""
    export, suffix = WRITERS[runtime]
    return {
        name: export(build(), folder / f"{index}{suffix}", image_size=size, batch=batch or "dynamic")
        for index, (name, build) in enumerate(builders.items())
    }


def table(
    files: dict[str, OnnxFile | OpenvinoFile], batch: int, kind: str, threads: int, options: argparse.Namespace
) -> Table:
    """Measure one batch size, all files in turn."""
    reference = next(iter(files))
    images = torch.randn(batch, 3, options.input_size, options.input_size)
    runs = {name: partial(file.runner(threads), images) for name, file in files.items()}
    found = compare(runs, options.rounds, timer=_cpu_time if options.cpu_time else None)
    shortest = {name: 1e3 * min(found.seconds[name]) for name in files}
    program = files[reference].program
    rows = Table(title=f"{program}, {kind} batch of {batch}, {options.input_size} pixels, {threads} thread(s)")
    for column in ("network", "ms", "over first", "shortest", "over first", "nodes", "export s", "error"):
        rows.add_column(column)
    for name, file in files.items():
        median, ratio = f"{found.milliseconds(name):.1f}", str(found.ratio(name, reference))
        least = f"{shortest[name]:.1f}", f"{shortest[name] / shortest[reference]:.2f}"
        rows.add_row(name, median, ratio, *least, str(file.nodes), f"{file.seconds:.0f}", f"{file.error:.1e}")
    return rows


def _cpu_time(run: Callable[[], object], calls: int) -> float:
    start = time.process_time()
    for _ in range(calls):
        run()
    return time.process_time() - start


if __name__ == "__main__":
    main()
