"""``dyvision dynamize --dry-run``: what becomes of a network, before a run is built on it."""

from __future__ import annotations

import argparse
from pathlib import Path

from dyvision.cli._image_size import image_size
from dyvision.cli._layer_arguments import add_layer_arguments, layer_arguments
from dyvision.saving import check_target, write_text
from dyvision.text import plain


def add_dynamize(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "dynamize",
        help="show which convolutions of a network a layer would replace",
        description="Which convolutions become dynamic, with parameters and multiply-adds before and after.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="network (dyvision list backbones, or any name of timm), or a file: a checkpoint (last, best), or weights",
    )
    parser.add_argument("--network", metavar="NAME", help="whose weights the file has, unless it is a checkpoint")
    parser.add_argument("--layer", required=True, help="dynamic layer (dyvision list layers)")
    parser.add_argument("--dry-run", action="store_true", required=True, help="print the report; nothing is kept")
    parser.add_argument(
        "--policy",
        action="append",
        metavar="POLICY",
        help="which convolutions: a policy, or a wildcard over names (may be given several times)",
    )
    add_layer_arguments(parser)
    parser.add_argument(
        "--input-size",
        "--image-size",
        type=image_size,
        metavar="N",
        help="side of the image that is counted for, or HEIGHTxWIDTH (default: of a checkpoint as in evaluation, else "
        "224)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there as well")
    parser.set_defaults(run=_dynamize)


def _dynamize(options: argparse.Namespace) -> None:
    if options.json is not None:
        check_target(options.json, "--json")
    import json
    from dataclasses import asdict

    import torch

    from dyvision.cli._network_files import open_network
    from dyvision.convert import ConversionReport, dynamize
    from dyvision.tables import make_console

    arguments = layer_arguments(options.layer, options.set)
    # one that is given alone may be the name of a policy
    policy = options.policy[0] if options.policy and len(options.policy) == 1 else options.policy
    report: ConversionReport
    network, described, size, origin = open_network(options.model, options.network, options.input_size)
    channels = next((m.in_channels for m in network.modules() if isinstance(m, torch.nn.Conv2d)), 3)
    _, report = dynamize(
        network,
        options.layer,
        policy,
        preserve_outputs=False,
        return_report=True,
        example_input=torch.zeros(1, channels, *size),
        **arguments,
    )
    console = make_console()
    if described != options.model:
        console.print(plain(described), soft_wrap=True, highlight=False)
    table = report.table()
    table.caption = f"MACs: for an image of {size[0]}x{size[1]} ({origin})."
    console.print(table)
    for remark in report.remarks():
        console.print(plain(remark), soft_wrap=True, highlight=False)
    if options.json is not None:
        write_text(options.json, json.dumps({"model": options.model, **asdict(report)}, indent=1) + "\n")
