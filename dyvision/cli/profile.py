"""``dyvision profile``: parameters, multiply-adds, memory and latency of a network, or of several beside each other."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from dyvision.cli._image_size import image_size, size_to_count
from dyvision.cli._layer_arguments import add_layer_arguments, layer_arguments
from dyvision.cli._trust import add_trust_option
from dyvision.saving import check_target, write_text
from dyvision.text import one_line, plain

if TYPE_CHECKING:
    from torch import nn

    from dyvision.analysis import Profile


def add_profile(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "profile",
        help="count parameters, multiply-adds, activation memory and latency",
        description="What a network costs: per layer as a table, everything as JSON, per stage as a picture. With "
        "several layers one table with a row for each.",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="network (dyvision list backbones), or a checkpoint: a file, last, best"
    )
    parser.add_argument(
        "--layer",
        action="append",
        default=[],
        help="dynamic layer (dyvision list layers; may be given several times; default: static)",
    )
    add_layer_arguments(parser)
    add_trust_option(parser)
    parser.add_argument(
        "--input-size",
        "--image-size",
        type=image_size,
        metavar="N",
        help="side of the image, or HEIGHTxWIDTH (default: of a checkpoint as in evaluation, else 224)",
    )
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


def _profile(options: argparse.Namespace) -> None:
    for option, path in (("--json", options.json), ("--picture", options.picture)):
        if path is not None and path != Path("-"):
            check_target(path, option, options.model)
    import json

    from dyvision.analysis import profile
    from dyvision.analysis.side_by_side import side_by_side
    from dyvision.cli._devices import find_device
    from dyvision.tables import make_console

    device = find_device(options.device)
    if options.batch < 1:
        raise ValueError(f"--batch must be at least 1, got {options.batch}")
    several = len(options.layer) > 1
    if several and options.picture is not None:
        raise ValueError("--picture draws one network: give one --layer with it")
    with redirect_stdout(sys.stderr) if options.json == Path("-") else nullcontext():
        rows, size, origin = _networks(options)
    profiles: dict[str, Profile] = {}
    for _, layer, channels, network in rows:
        shape = (options.batch, channels, *size)
        with _named(options.model):
            profiles[layer] = profile(
                network.to(device), shape, as_executed=options.as_executed, latency=not options.no_latency
            )
    name = rows[0][0]
    contents = [
        {"model": name, "layer": layer, "input_size_from": origin, **result.to_dict()}
        for layer, result in profiles.items()
    ]
    text = json.dumps({"model": name, "networks": contents} if several else contents[0], indent=1)
    layer, result = next(iter(profiles.items()))
    title = name if layer == "static" else f"{name}, {layer}"
    if options.json == Path("-"):
        print(text)
    else:
        console = make_console()
        table = side_by_side(profiles, name) if several else result.table()
        table.caption = f"For images of {size[0]}x{size[1]} ({origin}). {table.caption}"
        console.print(table)
        if not several:
            console.print(plain(f"{title}: {result}"), highlight=False)
        if options.json is not None:
            write_text(options.json, f"{text}\n")
    if options.picture is not None:
        result.save_picture(options.picture, title=title)


def _networks(
    options: argparse.Namespace,
) -> tuple[list[tuple[str, str, int, nn.Module]], tuple[int, int], str]:
    """The name, the layer, the channels of the images and the network of each row; the images' size, and its origin."""
    from dyvision.file_kinds import is_file_name

    if is_file_name(options.model) or options.model in ("last", "best"):
        return _of_checkpoint(options)
    from dyvision.backbones import create_model

    layers = list(dict.fromkeys(options.layer)) or ["static"]
    if options.set and layers == ["static"]:
        raise ValueError("--set gives arguments of a dynamic layer: give --layer with it")
    made = [(layer, {} if layer == "static" else layer_arguments(layer, options.set)) for layer in layers]
    rows = [
        (options.model, layer, 3, create_model(options.model, layer=layer, layer_kwargs=arguments))
        for layer, arguments in made
    ]
    return rows, *size_to_count(options.input_size)


def _of_checkpoint(
    options: argparse.Namespace,
) -> tuple[list[tuple[str, str, int, nn.Module]], tuple[int, int], str]:
    if options.layer or options.set:
        raise ValueError(f"{options.model}: a checkpoint has its own layers: leave --layer and --set out")
    from dyvision.cli._source import find_checkpoint, read_sized

    task, size, origin = read_sized(find_checkpoint(options.model, "profile"), options.trust, options.input_size)
    hparams = task.hparams
    return [(f"{hparams.backbone}, {task.task}", hparams.layer, hparams.in_chans, task.built_network)], size, origin


@contextmanager
def _named(model: str) -> Iterator[None]:
    """Say which network it is that cannot take images of this size."""
    try:
        yield
    except RuntimeError as error:
        raise ValueError(f"{model}: cannot be profiled: {one_line(error)[:200]}; try another --input-size") from error
