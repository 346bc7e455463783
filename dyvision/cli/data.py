"""``dyvision data sample | show | check``: drawing sample data, looking at a data set, checking all of it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dyvision.cli.words import OneLineParser
from dyvision.text import printable

if TYPE_CHECKING:
    from dyvision.data.base import VisionDataModule
    from dyvision.data.check import Report

_FORMATS = ("imagefolder", "cityscapes", "coco")
_FORMAT_OF_TASK = {"classification": "imagefolder", "segmentation": "cityscapes", "detection": "coco"}
_EPILOG = "Every option of the data (--data.NAME VALUE, as in 'dyvision fit --help') may be given, and --config."


class _DataParser(OneLineParser):
    """Hands on ``--data.NAME VALUE`` and ``--data.NAME=VALUE`` unparsed, as ``data_options``."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse all but the options of the data."""
        own: list[str] = []
        handed_on: list[str] = []
        pending = list(args or ())
        while pending:
            argument = pending.pop(0)
            (handed_on if argument.startswith("--data.") else own).append(argument)
            if argument.startswith("--data.") and "=" not in argument and pending and not pending[0].startswith("--"):
                handed_on.append(pending.pop(0))
        namespace, unknown = super().parse_known_args(own, namespace)
        namespace.data_options = handed_on
        return namespace, unknown


def add_data(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the command ``data``."""
    parser = commands.add_parser("data", help="draw sample data, look at a data set, or check all of it")
    actions = parser.add_subparsers(required=True, metavar="ACTION", parser_class=_DataParser)
    sample = actions.add_parser("sample", help="draw a deterministic scene set in ImageNet, Cityscapes and COCO layout")
    sample.add_argument("root", type=Path, metavar="DIR", help="folder to write to")
    sample.add_argument("--seed", type=int, default=0, help="seed of the scenes")
    sample.set_defaults(run=_sample)
    show = actions.add_parser(
        "show",
        help="draw a contact sheet with labels, masks or boxes",
        epilog=f"{_EPILOG} Exit status 1 if a file cannot be read.",
    )
    _add_source(show)
    show.add_argument("--split", default="train", help="train, val or test")
    show.add_argument("--output", type=Path, default=Path("sheet.png"), help="picture to write")
    show.add_argument("--count", type=int, default=16, help="number of images")
    show.add_argument("--augment", action="store_true", help="show what training sees")
    show.set_defaults(run=_show)
    check = actions.add_parser(
        "check",
        help="read every image and label, and list what training would repair, warn about or refuse",
        epilog=f"{_EPILOG} Exit status 1 if training would refuse something.",
    )
    _add_source(check)
    check.add_argument("--split", action="append", help="a split to check, several times; by default all of the data")
    check.add_argument("--json", type=Path, metavar="FILE", help="write findings and statistics there, too")
    processes = "processes that read (default: one per core, at most 8)"
    check.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help=processes)
    check.set_defaults(run=_check)


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", type=Path, metavar="PATH", help="folder of the data set")
    parser.add_argument("--format", choices=_FORMATS, help="found from the layout if left out")
    parser.add_argument("--config", action="append", default=[], metavar="NAME", help="its data section is taken")


def _sample(options: argparse.Namespace) -> None:
    from dyvision.data import write_sample_data
    from dyvision.saving import check_folder

    if options.data_options:
        raise ValueError(f"{options.data_options[0]}: the sample data has no such option; there is --seed")
    check_folder(options.root, "DIR")
    write_sample_data(options.root, seed=options.seed)
    for name in ("imagenet", "cityscapes", "coco"):
        print(options.root / name)


def _show(options: argparse.Namespace) -> None:
    from dyvision.data import show
    from dyvision.data.outputs import refuse_over_data
    from dyvision.saving import check_target

    check_target(options.output, "--output")
    module = _module(options) if options.config or options.data_options else None
    refuse_over_data(options.output, options.root, {} if module is None else module.hparams, "--output")
    broken: list[str] = []
    path = show(
        options.root,
        format=options.format,
        split=options.split,
        output=options.output,
        count=options.count,
        augment=options.augment,
        module=module,
        broken=broken,
    )
    print(path)
    if broken:
        for message in broken:
            print(f"left out: {printable(message)}", file=sys.stderr)
        raise SystemExit(1)


def _check(options: argparse.Namespace) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from dyvision.data.check import check
    from dyvision.data.check_report import print_report
    from dyvision.data.outputs import refuse_over_data
    from dyvision.saving import check_target, write_text

    if options.workers < 0:
        raise ValueError(f"--workers {options.workers}: expected at least 0")
    if options.json is not None:
        check_target(options.json, "--json")
    module = _module(options)
    if options.json is not None:
        refuse_over_data(options.json, options.root, module.hparams, "--json")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, disable=not sys.stdout.isatty()) as bar:
        tasks: dict[str, Any] = {}

        def advance(split: str, done: int, total: int) -> None:
            if split not in tasks:
                tasks[split] = bar.add_task(split, total=total)
            bar.update(tasks[split], completed=done)

        report: Report = check(module, options.split, num_workers=options.workers, progress=advance)
    print_report(report, options.root)
    if options.json is not None:
        write_text(options.json, json.dumps(report.as_dict(), indent=2, ensure_ascii=False) + "\n")
        print(options.json)
    if report.findings.refused:
        raise SystemExit(1)


def _module(options: argparse.Namespace) -> VisionDataModule:
    """The data module that training would have with these options."""
    from dyvision.data import plot

    section, task = _config_section(options.config)
    kind = options.format or _FORMAT_OF_TASK.get(str(task)) or plot.detect_format(options.root)
    given = {option[len("--data.") :].partition("=")[0] for option in options.data_options if option.startswith("--")}
    found = {name: value for name, value in plot.layout_options(options.root, kind).items() if name not in given}
    return _parse(plot.MODULES[kind], {**found, **section, "root": str(options.root)}, options.data_options)


def _config_section(configs: Sequence[str]) -> tuple[dict[str, Any], str | None]:
    from dyvision.cli.configs import load_layers
    from dyvision.cli.imports import take_imports
    from dyvision.cli.typed import TypedOptions

    section: dict[str, Any] = {}
    task = None
    for name in configs:
        layers = load_layers(name)
        take_imports(layers, TypedOptions())
        for _, content in layers:
            section.update(content.get("data") or {})
            task = content.get("task") or task
    if "class_path" in section:
        raise ValueError(
            "--config: its data has a class_path; 'dyvision data' knows the three formats of dyvision only"
        )
    return section, task


def _parse(kind: Any, section: dict[str, Any], options: Sequence[str]) -> VisionDataModule:
    import jsonargparse

    from dyvision.cli.configs import closest

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "data")
    known = {name.removeprefix("data.") for name in vars(parser.get_defaults().as_flat())}
    named = [option[len("--data.") :].partition("=")[0] for option in options if option.startswith("--data.")]
    for name in (*section, *named):
        if name.split(".")[0].removesuffix("+") not in known:
            raise ValueError(f"data has no option {name!r}{closest(name, known)}")
    try:
        parsed = parser.parse_object({"data": section})
        parsed = parser.parse_args(list(options), namespace=parsed)
    except jsonargparse.ArgumentError as error:
        from dyvision.cli._option_errors import explain
        from dyvision.cli.request import Request
        from dyvision.cli.typed import TypedOptions

        request = Request([(Path("--config"), {"data": section})], typed=TypedOptions.read(options))
        line = explain(str(error), request, {"data": kind})
        raise ValueError(f"{line}{_other_format(kind, [*options, *map(str, section.values())])}") from error
    module: VisionDataModule = kind(**parsed.data.as_dict())
    return module


def _other_format(kind: Any, given: Sequence[str]) -> str:
    """What would help where a layout of another format was given."""
    from dyvision.data.coco import COCO_LAYOUTS, COCODataModule
    from dyvision.data.layouts import LAYOUTS

    other, layouts = ("cityscapes", LAYOUTS) if kind is COCODataModule else ("coco", COCO_LAYOUTS)
    own = set(COCO_LAYOUTS if kind is COCODataModule else LAYOUTS)
    names = {option.rpartition("=")[2] for option in given} & (set(layouts) - own)
    what = "label maps" if other == "cityscapes" else "COCO files"
    return "".join(f"; the layout {name} is one of {what}: --format {other}" for name in sorted(names))
