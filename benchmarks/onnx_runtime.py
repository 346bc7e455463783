"""Time of networks in ONNX Runtime over a reference network, all measured in turn in one run.

    python benchmarks/onnx_runtime.py mobilenetv2_100 dy_mobilenetv2 fix_mobilenetv2 [--layer dyconv] [--batch 1]

The first network is the reference; ``--layer`` adds its dynamic versions. Every network is fused (``dyvision.fuse``),
exported for the batch size and compared with PyTorch's output. Needs ``pip install onnx onnxscript onnxruntime``, which
dyvision itself does not use.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import dyvision
from dyvision.analysis.benchmark import compare
from dyvision.analysis.benchmark.cases import SETTINGS

#: largest difference from PyTorch's output, over the largest output
TOLERANCE = 1e-3


def main() -> None:
    """Export, check, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", metavar="NETWORK")
    parser.add_argument("--layer", nargs="+", default=[], metavar="NAME", help="dynamic versions of the first network")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--input-size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=31)
    options = parser.parse_args()
    torch.manual_seed(0)
    images = torch.randn(options.batch, 3, options.input_size, options.input_size)
    builders: dict[str, Callable[[], nn.Module]] = {
        name: partial(dyvision.create_model, name) for name in options.networks
    }
    reference = options.networks[0]
    for layer in options.layer:
        arguments = SETTINGS.get(layer, {})
        builders[f"{reference}, {layer}"] = partial(dyvision.create_model, reference, layer, **arguments)
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            name: make_run(dyvision.fuse(build().eval()), images, Path(folder) / f"{index}.onnx", options.threads)
            for index, (name, build) in enumerate(builders.items())
        }
        found = compare(runs, options.rounds)
    table = Table(title=f"ONNX Runtime, batch {options.batch}, {options.input_size} pixels, {options.threads} threads")
    for column in ("network", "ms", f"over {reference}"):
        table.add_column(column)
    for name in runs:
        table.add_row(name, f"{found.milliseconds(name):.1f}", str(found.ratio(name, reference)))
    Console().print(table)


def make_run(model: nn.Module, images: Tensor, path: Path, threads: int) -> Callable[[], object]:
    """Export a network and return a call of its session.

    Raises:
        ValueError: If the session computes something else.
    """
    import onnxruntime

    torch.onnx.export(model, (images,), path, dynamo=True, verbose=False)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images.numpy()}
    with torch.inference_mode():
        expected = model(images)
    difference = (torch.from_numpy(session.run(None, feed)[0]) - expected).abs().max() / expected.abs().max()
    if not difference < TOLERANCE:
        raise ValueError(f"{path.name}: the output differs by {difference:.1e} of its largest number")
    return lambda: session.run(None, feed)


if __name__ == "__main__":
    main()
