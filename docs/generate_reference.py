"""Writes ``docs/reference.md``, every option of every command, from the parsers: ``python docs/generate_reference.py``.

Nothing of the page is typed by hand but the sentences below; ``tests/test_reference.py`` says when it is out of date.
"""

from __future__ import annotations

import argparse
import inspect
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from dyvision import data, tasks
from dyvision.cli.common_options import TRAINER_COMMANDS
from dyvision.cli.parser import build_parser
from dyvision.cli.task_parser import task_parser
from dyvision.cli.task_table import TASKS
from dyvision.signatures import constructor_signature, constructor_types
from dyvision.tasks.callbacks import LastCheckpoint, PredictionWriter

PAGE = Path(__file__).with_name("reference.md")
COMMANDS = tuple(TRAINER_COMMANDS)
#: sections whose options are Lightning's: the names, which differ from version to version, stand between two marks
LIGHTNING = {
    "trainer": (
        "Trainer",
        "Those of Lightning's [Trainer](https://lightning.ai/docs/pytorch/stable/common/trainer.html#trainer-class-api).",
    ),
    "checkpoint": (
        "The best checkpoint",
        "Those of Lightning's [ModelCheckpoint](https://lightning.ai/docs/pytorch/stable/api/"
        "lightning.pytorch.callbacks.ModelCheckpoint.html); set here unless they are given:",
    ),
}
BEGIN, END = "<!-- begin: options of Lightning {} -->", "<!-- end: options of Lightning -->"
#: options that jsonargparse and Lightning add, which word their help differently from version to version
_WORDED = {
    "config": "A packaged config (`dyvision list configs`) or a file; several times, later ones win.",
    "help": "Print the options of the command; with `--task` those of the task.",
    "print_config": "Print the configuration that would be run, and end.",
    "seed_everything": "Seed of weights, order and augmentation; `false` for none.",
}
_INTRODUCTION = """\
# Reference

Every option of every command, generated from the parsers by `python docs/generate_reference.py`. What they are for,
with examples, is in [Command line](command-line.md) and [Data](data.md).
"""
_TRAINING = """\
## dyvision fit, validate, test, predict

Options are typed as `--model.lr 0.01` or `--model.lr=0.01`, and stand in a config as `model: {lr: 0.01}`. Values are
YAML: `true`, `null` (Python's None), `'[1, 2]'`, `'{name: sgd}'`. One config serves all four commands.
"""


@dataclass(frozen=True)
class Option:
    """An option as it is printed.

    Attributes:
        name: ``--batch N ...``.
        default: As it would be typed; empty if there is none.
        text: What it is for.
        kind: What its value may be.
    """

    name: str
    default: str
    text: str
    kind: str = ""


def page() -> str:
    """The whole page."""
    parts = [_INTRODUCTION, *_training()]
    for name, parser, text in leaves(build_parser()):
        if name.split()[1] not in COMMANDS:
            parts.append(_command(name, parser, text))
    return "\n".join(parts)


def options_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The options and positional arguments of a parser that people type, by name; those of sub-commands are not its."""
    found = {}
    for action in parser._actions:  # argparse and jsonargparse have no public list
        name = action.option_strings[-1].removesuffix("+") if action.option_strings else action.dest
        hidden = action.help == argparse.SUPPRESS or name.endswith(".help")
        section = name.startswith("--") and name[2:] in ("model", "data", "trainer", "prediction", "checkpoint", "last")
        if not hidden and not section and not isinstance(action, argparse._SubParsersAction):
            found[name.removeprefix("--")] = action
    return found


def leaves(
    parser: argparse.ArgumentParser, name: str = "dyvision", text: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """Every command without sub-commands: its name, its parser, and what the list of commands says of it."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield name, parser, text
    for action in below:
        texts = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for word, child in action.choices.items():
            yield from leaves(child, f"{name} {word}", texts.get(word, ""))


def _command(name: str, parser: argparse.ArgumentParser, text: str) -> str:
    options = [_typed(action) for word, action in options_of(parser).items() if word != "help"]
    text = parser.description or f"{text[:1].upper()}{text[1:]}.".replace("..", ".")
    text = _markdown(f"{text} {parser.epilog or ''}")
    return f"## {name}\n\n{text}\n\n{_table(options)}"


def _typed(action: argparse.Action) -> Option:
    """An option of a parser of ``argparse``. Where its help speaks of the default, that is the word on it."""
    value = f"{{{','.join(action.choices)}}}" if action.choices else action.metavar or action.dest.upper()
    value = "" if action.nargs == 0 else f"{value} ..." if action.nargs in ("+", "*") else str(value)
    names = ", ".join(action.option_strings)
    plain = not action.option_strings or action.nargs == 0 or action.default in (None, [], "")
    default = "" if plain or "default" in (action.help or "") else _default(action)
    return Option(f"{names} {value}".strip(), default, _markdown(action.help))


def _default(action: argparse.Action) -> str:
    """As it would be typed: the words of a list, ``HEIGHTxWIDTH`` of a pair."""
    if isinstance(action.default, (list, tuple)):
        return f"`{('x' if isinstance(action.default, tuple) else ' ').join(map(str, action.default))}`"
    return _value(action.default)


def _training() -> Iterator[str]:
    found = {(command, task): options_of(task_parser(command, task)) for command in COMMANDS for task in TASKS}
    sections: dict[str, dict[str, dict[tuple[str, str], argparse.Action]]] = {}
    for key, its_options in found.items():
        for name, action in its_options.items():
            section = name.partition(".")[0] if "." in name else ""
            sections.setdefault(section, {}).setdefault(name, {})[key] = action
    shared = [_shared(name, actions) for name, actions in sections.pop("").items()]
    yield f"{_TRAINING}\n{_table(shared)}"
    for section, heading in (("model", "Model options"), ("data", "Data options")):
        yield from _of_tasks(heading, sections.pop(section), {task: _class(section, task) for task in TASKS})
    for section, heading, cls in (
        ("last", "The end of the run: last.ckpt", LastCheckpoint),
        ("prediction", "Predictions", PredictionWriter),
    ):
        kinds = _kinds(cls)
        rows = [_shared(name, actions, kinds) for name, actions in sections.pop(section).items()]
        yield f"### {heading}\n\n{_table(rows)}"
    for section, (heading, text) in LIGHTNING.items():
        yield f"### {heading}\n\n{text}\n\n{_lightning(section, sections.pop(section))}"
    for section, options in sections.items():
        yield f"### {section}\n\n{_table([_shared(name, actions) for name, actions in options.items()])}"


def _class(section: str, task: str) -> type:
    return getattr(tasks, TASKS[task].model) if section == "model" else getattr(data, TASKS[task].data)


def _kinds(cls: type) -> dict[str, str]:
    """What the values of a class' arguments may be, by name."""
    return {name: _kind(annotation) for name, annotation in constructor_types(cls).items()}


def _kind(annotation: Any) -> str:
    """A type as it reads in YAML, the same in every version of Python."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_kind(one) for one in inner))
    if origin is typing.Literal:
        return " or ".join(map(str, inner))
    if origin in (list, tuple):
        return f"[{', '.join('...' if one is ... else _kind(one) for one in inner)}]"
    if origin is dict:
        return f"{{{_kind(inner[0])}: {_kind(inner[1])}}}"
    names: dict[Any, str] = {type(None): "null", Path: "path", Any: "any"}
    return names.get(annotation) or str(getattr(annotation, "__name__", annotation))


def _of_tasks(
    heading: str, options: Mapping[str, Mapping[tuple[str, str], argparse.Action]], classes: Mapping[str, type]
) -> Iterator[str]:
    """What all tasks have, then what each has alone or words differently."""
    texts = {name: {_markdown(action.help) for action in actions.values()} for name, actions in options.items()}
    having = {name: {task for _, task in actions} for name, actions in options.items()}
    common = [name for name in options if len(texts[name]) == 1 and having[name] == set(TASKS)]
    kinds = {name: kind for cls in classes.values() for name, kind in _kinds(cls).items()}
    required = {name: _required(classes.values(), name) for name in options}
    shared = [_shared(name, options[name], kinds, required[name]) for name in common]
    yield f"### {heading} of every task\n\n{_table(shared)}"
    for task, cls in classes.items():
        own = {
            name: {key: action for key, action in actions.items() if key[1] == task}
            for name, actions in options.items()
            if name not in common and task in having[name]
        }
        rows = [_shared(name, actions, _kinds(cls), required[name]) for name, actions in own.items()]
        yield f"### {heading} of {task}\n\n`{cls.__name__}`, beside those of every task:\n\n{_table(rows)}"


def _required(classes: Iterable[type], name: str) -> bool:
    word = name.rpartition(".")[2]
    found = [constructor_signature(cls).parameters.get(word) for cls in classes]
    return any(one is not None and one.default is inspect.Parameter.empty for one in found)


def _shared(
    name: str,
    actions: Mapping[tuple[str, str], argparse.Action],
    kinds: Mapping[str, str] | None = None,
    required: bool = False,
) -> Option:
    """An option of the commands that run the trainer, with the default of each task where they differ."""
    first = next(iter(actions.values()))
    defaults = {task: _value(action.default) for (_, task), action in actions.items()}
    usual = max(defaults.values(), key=list(defaults.values()).count)
    others = [f"{task}: {value}" for task, value in defaults.items() if value != usual]
    text = _WORDED.get(name, _markdown(first.help))
    commands = sorted({command for command, _ in actions}, key=COMMANDS.index)
    if len(commands) < len(COMMANDS):
        text = f"{text} ({', '.join(commands)} only)"
    names = ", ".join(option for option in first.option_strings if not option.endswith("+"))
    flag = name in ("help", "print_config")
    default = "required" if required else "" if flag or name in ("config", "task") else ", ".join([usual, *others])
    return Option(names, default, text, (kinds or {}).get(name.rpartition(".")[2], ""))


def _lightning(section: str, options: Mapping[str, Mapping[tuple[str, str], argparse.Action]]) -> str:
    names = ", ".join(f"`--{name}`" for name in options)
    listed = f"{BEGIN.format(version('lightning'))}\n\n{names}\n\n{END}\n"
    if section == "trainer":
        return listed
    ours = [_shared(f"{section}.{name}", options[f"{section}.{name}"]) for name in ("monitor", "mode", "save_last")]
    return f"{_table([Option(one.name, one.default, '') for one in ours])}\n{listed}"


def _table(options: Iterable[Option]) -> str:
    """A Markdown table; columns without content are left out."""
    rows = [[f"`{one.name}`", one.kind and f"`{one.kind}`", one.default, one.text] for one in options]
    if not rows:
        return "No options.\n"
    titles = ["option", "type", "default", ""]
    kept = [number for number in range(4) if any(row[number] for row in rows)]
    lines = [[titles[number] for number in kept], ["---"] * len(kept)]
    lines += [[row[number] for number in kept] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _value(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return f"`{text}`"


def _markdown(text: str | None) -> str:
    """Help or a docstring as one line of Markdown; angle brackets are no tags."""
    line = " ".join((text or "").split())
    line = re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", line)
    line = re.sub(r"``(.+?)``", r"`\1`", line)
    return re.sub(r"<(?=\w)(?=[^`]*(?:`[^`]*`[^`]*)*$)", r"\\<", line)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
