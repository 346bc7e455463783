"""``dyvision quickstart``: learn three tasks on generated scenes."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_quickstart(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "quickstart",
        help="learn three tasks on generated scenes in a few minutes",
        description="Draw sample data, train one dynamic backbone in three tasks, and show a table and pictures.",
    )
    parser.add_argument("--layer", default="dcd", help="dynamic layer of the backbone (dyvision list layers)")
    parser.add_argument("--backbone", default="mobilenetv4_conv_small_relu6", help="backbone (dyvision list backbones)")
    parser.add_argument("--output", type=Path, default=Path("quickstart"), help="folder for data, runs and pictures")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights, the order and the augmentation")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from dyvision.cli._three_tasks import run_quickstart

    run_quickstart(layer=options.layer, backbone=options.backbone, output=options.output, seed=options.seed)
