"""``dyvision collapse``: a dynamic checkpoint as an ordinary static one, with what that changes."""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from dyvision.cli._trust import add_trust_option, trainer_arguments
from dyvision.cli.errors import naming
from dyvision.saving import check_target, write_tensors, write_text
from dyvision.text import plain


def add_collapse(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "collapse",
        help="make an ordinary static network of a trained dynamic one",
        description="Gives each dynamic layer its average coefficients over training images for good, and shows what "
        "that changes in the metric, in multiply-adds and in latency.",
        epilog="Options of the data and the trainer (--data.root DIR, --trainer.accelerator cpu) are taken as by "
        "dyvision validate.",
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="checkpoint of dyvision fit; also last, best")
    parser.add_argument("--output", type=Path, metavar="FILE", help="checkpoint to write: the same task, layer static")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="write the weights alone, named as timm does (.safetensors)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    parser.add_argument(
        "--images", type=int, default=256, metavar="N", help="training images that coefficients are averaged over"
    )
    parser.add_argument(
        "--batchnorm",
        choices=("auto", "keep", "reestimate"),
        default="auto",
        help="statistics of norms: estimated anew if the metric of other training images gains, kept, or anew",
    )
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="measurements of the latency, at least 3")
    add_trust_option(parser)
    parser.set_defaults(run=_collapse, sections=("data", "trainer"))


def _collapse(options: argparse.Namespace) -> None:
    for name, least in (("images", 1), ("rounds", 3)):
        if getattr(options, name) < least:
            raise ValueError(f"--{name} must be at least {least}, got {getattr(options, name)}")
    _check_targets(options)
    if options.weights is not None and options.weights.suffix != ".safetensors":
        raise ValueError(
            f"--weights {options.weights}: expected a .safetensors file, which every tool reads without running code"
        )
    with TemporaryDirectory(prefix="dyvision-") as scratch:
        _run(options, scratch)


def _check_targets(options: argparse.Namespace, *read: Path | None) -> None:
    for name in ("output", "weights", "json"):
        if getattr(options, name) is not None:
            check_target(getattr(options, name), f"--{name}", *read)


def _run(options: argparse.Namespace, scratch: str) -> None:
    from dyvision.cli._collapsing import collapse_task, save_as_start
    from dyvision.cli._messages import silence_advice
    from dyvision.cli.trainer import TaskCLI, read_request
    from dyvision.tables import make_console
    from dyvision.tasks.collapsing import plain_weights

    silence_advice()
    typed = [f"--ckpt_path={options.checkpoint}", "--trainer.logger=false", "--trainer.devices=1", *options.sections]
    typed += ["--trainer.enable_model_summary=false", f"--trainer.default_root_dir={scratch}"]
    typed += trainer_arguments(options.trust)
    request = read_request(typed, "collapse")
    _check_targets(options, request.checkpoint_path)
    run = TaskCLI("collapse", request)
    path = request.checkpoint_path
    task = type(run.model).load_from_checkpoint(path, map_location="cpu", trust=options.trust)
    with naming(path):
        result, static = collapse_task(task, run.datamodule, run.trainer, options)
    if options.output is not None:
        save_as_start(static, run, request, options.output)
    if options.weights is not None:
        write_tensors(options.weights, plain_weights(static))
    if options.json is not None:
        files = {
            name: None if getattr(options, name) is None else str(getattr(options, name))
            for name in ("output", "weights")
        }
        write_text(options.json, json.dumps({"checkpoint": str(path), **asdict(result), **files}, indent=1) + "\n")
    console = make_console()
    console.print(result.table())
    for remark in result.remarks():
        console.print(plain(remark), soft_wrap=True, highlight=False)
    for name, what in (("output", "checkpoint"), ("weights", "weights")):
        if getattr(options, name) is not None:
            console.print(plain(f"{what}: {getattr(options, name)}"), soft_wrap=True, highlight=False)
    if options.output is None and options.weights is None:
        console.print(
            "nothing was written: --output FILE.ckpt writes the checkpoint, --weights FILE.safetensors the weights"
        )
    elif options.output is not None:
        console.print(
            plain(f"go on: dyvision export {shlex.quote(str(options.output))}"), soft_wrap=True, highlight=False
        )
