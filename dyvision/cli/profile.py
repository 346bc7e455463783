"""``dyvision profile``: parameters, multiply-adds, memory and latency of a network."""

from __future__ import annotations

import argparse
from pathlib import Path

from dyvision.saving import check_target, write_text
from dyvision.text import plain


def add_profile(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "profile",
        help="count parameters, multiply-adds, activation memory and latency",
        description="What a network costs: per layer as a table, everything as JSON, per stage as a picture.",
    )
    parser.add_argument("model", metavar="MODEL", help="network (dyvision list backbones)")
    parser.add_argument("--layer", default="static", help="dynamic layer (dyvision list layers)")
    parser.add_argument("--input-size", type=_size, default=(224, 224), metavar="N", help="side, or HEIGHTxWIDTH")
    parser.add_argument("--batch", type=int, default=1, help="images per batch")
    parser.add_argument(
        "--as-executed",
        action="store_true",
        help="count the multiply-adds that run, not those of each layer's cheapest exact formulation",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there; - prints it instead")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw multiply-adds per stage (.png, .svg, .pdf)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--no-latency", action="store_true", help="do not measure time")
    parser.set_defaults(run=_profile)


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"a positive integer or HEIGHTxWIDTH, not {text!r}")
    return int(parts[0]), int(parts[-1])


def _profile(options: argparse.Namespace) -> None:
    for option, path in (("--json", options.json), ("--picture", options.picture)):
        if path is not None and path != Path("-"):
            check_target(path, option)
    import json

    from dyvision.analysis import profile
    from dyvision.backbones import create_model
    from dyvision.cli._devices import find_device
    from dyvision.tables import make_console

    device = find_device(options.device)
    if options.batch < 1:
        raise ValueError(f"--batch must be at least 1, got {options.batch}")
    model = create_model(options.model, layer=options.layer).to(device)
    size = (options.batch, 3, *options.input_size)
    result = profile(model, size, as_executed=options.as_executed, latency=not options.no_latency)
    name = options.model if options.layer == "static" else f"{options.model}, {options.layer}"
    text = json.dumps({"model": options.model, "layer": options.layer, **result.to_dict()}, indent=1)
    if options.json == Path("-"):
        print(text)
    else:
        console = make_console()
        console.print(result.table())
        console.print(plain(f"{name}: {result}"), highlight=False)
        if options.json is not None:
            write_text(options.json, f"{text}\n")
    if options.picture is not None:
        result.save_picture(options.picture, title=name)
