"""``dyvision export``: a checkpoint as a file that other programs run, checked and timed."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from dyvision.cli._image_size import image_size
from dyvision.cli._trust import add_trust_option
from dyvision.cli.errors import naming
from dyvision.saving import check_target, write_text
from dyvision.text import plain

if TYPE_CHECKING:
    from dyvision.cli._source import Source

#: images to calibrate 8 bits with
_CALIBRATION = 64


def add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "export",
        help="write a checkpoint as a file for ONNX Runtime, PyTorch or OpenVINO",
        description="Writes the network of a checkpoint as a file that says what it is, compares it with PyTorch, and "
        "measures how long it takes. 'dyvision predict --model FILE.onnx' and 'validate' run it.",
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="checkpoint of dyvision fit; also last, best")
    parser.add_argument("--format", choices=("onnx", "torch", "openvino"), default="onnx", help="kind of file")
    parser.add_argument(
        "--batch", type=_batch, default="dynamic", metavar="N", help="images that it takes at once; dynamic: any number"
    )
    parser.add_argument(
        "--image-size",
        type=_size,
        metavar="HxW",
        help="height and width of its images, one number for squares; dynamic: any (default: as in evaluation)",
    )
    parser.add_argument(
        "--fuse", action=argparse.BooleanOptionalAction, default=True, help="fold BatchNorms and branches first"
    )
    parser.add_argument("--preprocess", action="store_true", help="take bytes (uint8), normalise in the file")
    parser.add_argument(
        "--postprocess",
        action="store_true",
        help="give probabilities or a label map instead of logits (detection always gives boxes)",
    )
    parser.add_argument(
        "--quantize", choices=("int8",), help="compute in 8 bits; calibrated with the data set of the checkpoint"
    )
    parser.add_argument("--data.root", dest="root", metavar="ROOT", help="data set, if not where training found it")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the file (default: beside the checkpoint)")
    add_trust_option(parser)
    parser.add_argument("--no-latency", action="store_true", help="do not measure time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what is printed there as well")
    parser.set_defaults(run=_export)


def _batch(text: str) -> int | Literal["dynamic"]:
    if text == "dynamic":
        return "dynamic"
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"a positive integer or dynamic, not {text!r}")
    return int(text)


def _size(text: str) -> tuple[int, int] | Literal["dynamic"]:
    return "dynamic" if text == "dynamic" else image_size(text, ", HEIGHTxWIDTH or dynamic")


def _export(options: argparse.Namespace) -> None:
    if options.json is not None:
        check_target(options.json, "--json")
    from dyvision.cli._source import find_checkpoint, read_source
    from dyvision.tables import make_console
    from dyvision.tasks.exporting import FORMATS

    console = make_console()
    suffix = FORMATS[options.format][1]
    if options.quantize and options.format != "onnx":
        raise ValueError(f"--quantize {options.quantize}: only of --format onnx, not {options.format}")
    if options.output is not None:
        check_target(options.output, "--output")
        if options.output.suffix != suffix:
            raise ValueError(f"--output {options.output}: files of --format {options.format} end in {suffix}")
    other = "; in Python dyvision.export.export_onnx takes any network"
    source = read_source(find_checkpoint(options.checkpoint, "export"), options.trust, options.root, other)
    output = options.output or source.path.with_suffix(f".int8{suffix}" if options.quantize else suffix)
    for option, target in (("--output", output), ("--json", options.json)):
        if target is not None:
            check_target(target, option, source.path)
    size, origin = source.export_size(options.image_size)
    arguments: dict[str, Any] = {
        "format": options.format,
        "image_size": size,
        "batch": options.batch,
        "dynamic_size": options.image_size == "dynamic",
        "preprocess": options.preprocess,
        "postprocess": options.postprocess,
        "fuse": options.fuse,
        "mean": source.statistics[0],
        "std": source.statistics[1],
        "data": source.data_options,
    }
    told: dict[str, Any] = {"checkpoint": str(source.path), "format": options.format, "image_size": list(size)}
    if options.quantize:
        told |= _quantized(console, source, output, arguments)
    else:
        told |= _exported(console, source, output, arguments, origin, not options.no_latency)
    if options.json is not None:
        write_text(options.json, f"{json.dumps(told, indent=1)}\n")


def _exported(
    console: Any, source: Source, output: Path, arguments: dict[str, Any], origin: str, timed: bool
) -> dict[str, Any]:
    """Write the file, and say what it is and how long it takes."""
    from dyvision.cli._progress import working
    from dyvision.tasks.exporting import export_task
    from dyvision.tasks.exporting.latency import latency_table, measure_export

    with naming(source.path), working(console, f"exporting {output.name} and comparing it with PyTorch"):
        file = export_task(source.task, output, **arguments)
    height, width = arguments["image_size"]
    said = f"task {source.task.task}, images of {height}x{width} ({origin}), {file.bytes / 2**20:.1f} MB"
    for line in (file, said):
        console.print(plain(line), soft_wrap=True, highlight=False)
    told = file.to_dict()
    if timed:
        with working(console, "measuring how long it takes"):
            rows, images = measure_export(source.task, file, **arguments)
        console.print(latency_table(rows, images))
        told["latency"] = [row._asdict() for row in rows]
    _say_next(console, output, arguments["format"])
    return told


def _quantized(console: Any, source: Source, output: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """Write the file with 8 bits, and say what that does to the metrics."""
    if source.data is None:
        raise ValueError(
            f"{source.path}: has no data module of dyvision to calibrate with; in Python dyvision.export.quantize_onnx "
            "takes any images"
        )
    from dataclasses import asdict

    from dyvision.cli._messages import silence_advice
    from dyvision.cli._progress import working
    from dyvision.export import quantize_onnx
    from dyvision.tasks.exporting import export_task
    from dyvision.tasks.exporting.int8 import calibration_images, evaluate, metrics_table

    silence_advice()
    source.data.setup("validate")  # a data set that is not there shows before the work
    with TemporaryDirectory(prefix="dyvision-") as folder:
        path = Path(folder, output.name)
        with naming(source.path), working(console, "exporting and comparing with PyTorch"):
            export_task(source.task, path, **arguments)
        with working(console, "quantising"):
            images = calibration_images(path, source.data, _CALIBRATION, source.trust)
            file = quantize_onnx(path, output, images.split(1), max_images=_CALIBRATION)
        console.print(plain(file), soft_wrap=True, highlight=False)
        with working(console, "evaluating both"):
            before, after = (evaluate(one, source.data, source.trust) for one in (path, output))
    console.print(metrics_table(before, after))
    _say_next(console, output, "onnx")
    return {**asdict(file), "path": str(output), "metrics": {"float": before, "int8": after}}


def _say_next(console: Any, output: Path, format: str) -> None:
    """Say what runs the file."""
    runs = {
        "onnx": f"dyvision predict --model {shlex.quote(str(output))} PHOTOS",
        "torch": f"torch.export.load({str(output)!r}).module()(images), in Python",
        "openvino": f"openvino.Core().compile_model({str(output)!r})(images), in Python",
    }
    console.print(plain(f"run it: {runs[format]}"), soft_wrap=True, highlight=False)
