"""The top-level parser and the commands that do not train: ``list``, ``quickstart`` and the like."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from dyvision.cli.benchmark import add_benchmark
from dyvision.cli.data import add_data
from dyvision.cli.profile import add_profile
from dyvision.cli.report import add_report
from dyvision.cli.reproduce import add_reproduce
from dyvision.cli.words import OneLineParser, check_command
from dyvision.saving import replacing
from dyvision.version import VERSION

_DESCRIPTION = "Dynamic convolutions on any backbone, in classification, segmentation and detection."
#: the commands that run the trainer, which has a parser of its own
TRAINER_COMMANDS = {
    "fit": "train a task",
    "validate": "evaluate a checkpoint on the validation split",
    "test": "evaluate a checkpoint on the test split",
    "predict": "write predictions for a folder of images",
}
_EPILOG = """\
training and evaluation (every option: dyvision fit --help, with --task or --config):
  dyvision fit      --config segmentation/quickstart.yaml --model.layer odconv --trainer.max_epochs 3
  dyvision validate --ckpt_path runs/segmentation/version_0/checkpoints/last.ckpt
  dyvision predict  --ckpt_path last.ckpt --data.predict_root photos/ --output predictions/

--config takes a packaged name (dyvision list configs) or a file, several times; later ones win, typed options over all.
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of every command except those that run the trainer, which have parsers of their own."""
    parser: argparse.ArgumentParser = OneLineParser(
        prog="dyvision", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"dyvision {VERSION}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, text in TRAINER_COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    _add_quickstart(commands)
    _add_list(commands)
    _add_config(commands)
    add_data(commands)
    add_profile(commands)
    add_report(commands)
    add_reproduce(commands)
    add_benchmark(commands)
    return parser


def run_command(arguments: Sequence[str]) -> None:
    """Parse a command line that does not run the trainer, and run it.

    Args:
        arguments: Everything behind ``dyvision``.

    Raises:
        ValueError: If there is no such command or option.
    """
    check_command(arguments, (*TRAINER_COMMANDS, "quickstart", "list", "config", "data", "profile", "report"))
    options = build_parser().parse_args(arguments)
    options.run(options)


def _add_quickstart(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "quickstart",
        help="learn three tasks on generated scenes in a few minutes",
        description="Draw sample data, train one dynamic backbone in three tasks, and show a table and pictures.",
    )
    parser.add_argument("--layer", default="dcd", help="dynamic layer of the backbone (dyvision list layers)")
    parser.add_argument("--backbone", default="mobilenetv4_conv_small_relu6", help="backbone (dyvision list backbones)")
    parser.add_argument("--output", type=Path, default=Path("quickstart"), help="folder for data, runs and pictures")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights, the order and the augmentation")
    parser.set_defaults(run=_quickstart)


def _quickstart(options: argparse.Namespace) -> None:
    from dyvision.cli.quickstart import run_quickstart

    run_quickstart(layer=options.layer, backbone=options.backbone, output=options.output, seed=options.seed)


def _add_list(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("list", help="list layers, backbones, heads, policies or configs")
    kinds = ("layers", "backbones", "heads", "policies", "configs")
    parser.add_argument("what", choices=kinds, metavar="|".join(kinds))
    parser.add_argument("pattern", nargs="?", default="*", help="wildcard, for example '*mobilenetv2*'")
    parser.set_defaults(run=_list)


def _list(options: argparse.Namespace) -> None:
    from dyvision.cli.listing import print_list

    print_list(options.what, options.pattern)


def _add_config(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("config", help="print a packaged config, or copy it to edit")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    cat = actions.add_parser("cat", help="print a packaged config")
    cat.add_argument("name", help="for example segmentation/quickstart.yaml")
    cat.set_defaults(run=_config_cat)
    copy = actions.add_parser("cp", help="copy a packaged config")
    copy.add_argument("name")
    copy.add_argument("destination", type=Path)
    copy.set_defaults(run=_config_cp)


def _config_cat(options: argparse.Namespace) -> None:
    from dyvision.cli.configs import find_config

    print(find_config(options.name).read_text(encoding="utf-8"), end="")


def _config_cp(options: argparse.Namespace) -> None:
    from dyvision.cli.configs import find_config

    source, destination = find_config(options.name), options.destination
    if destination.is_dir():
        destination = destination / source.name
    if destination.exists():
        raise FileExistsError(f"{destination} exists; choose another name or remove it first")
    with replacing(destination) as part:
        shutil.copyfile(source, part)
    print(destination)
