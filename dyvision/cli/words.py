"""A command line is looked over before it is parsed: what is no option, and what was meant by it."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from dyvision.cli.configs import similar
from dyvision.cli.typed import TypedOptions
from dyvision.file_kinds import as_address
from dyvision.text import printable, similar_names, some, suggestion

#: what other tools call an option -> what it is called here
_ALIASES: dict[str, str | tuple[str, ...]] = {
    "_BASE_": "base",
    "_base_": "base",
    "checkpoint": "ckpt_path",
    "data_dir": "data.root",
    "data_path": "data.root",
    "dataset": "data.root",
    "device": "trainer.accelerator",
    "gpus": "trainer.devices",
    "img_size": "data.image_size",
    "imgsz": "data.image_size",
    "learning_rate": "model.lr",
    "log_dir": "trainer.default_root_dir",
    "output_dir": "trainer.default_root_dir",
    "resume": "ckpt_path",
    "resume_from": "ckpt_path",
    "seed": "seed_everything",
    "source": "data.predict_root",
    "wd": "model.weight_decay",
    "weights": ("ckpt_path", "model.backbone_weights"),
    "workers": "data.num_workers",
}
#: sections without a class of the user -> an option in them
_SECTIONS = {
    "trainer": "--trainer.max_epochs=10",
    "checkpoint": "--checkpoint.save_top_k=3; a checkpoint to start from is --ckpt_path=FILE",
    "last": "--last.every_n_train_steps=1000; to go on with a run: --ckpt_path=last",
}
#: how files end that are given as options
_CHECKPOINTS = (".ckpt", ".pt", ".pth", ".safetensors")
_CONFIGS = (".yaml", ".yml")
#: what other tools call a command -> what it is called here
_COMMANDS = {"train": "fit", "eval": "validate", "evaluate": "validate", "val": "validate", "infer": "predict"}


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the closest name, instead of its usage."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong.

        Raises:
            ValueError: Always.
        """
        choice = re.match(r"argument ([^:]+): invalid choice: ['\"](.*)['\"] \(choose from (.*)\)", message)
        if choice:
            names = re.findall(r"[\w-]+", choice[3])
            what = f"unknown command {choice[2]!r}" if choice[1] == "COMMAND" else f"{self.prog}: unknown {choice[2]!r}"
            raise ValueError(f"{what}{_closest_command(choice[2], names)}; there are {', '.join(names)}")
        message = message.replace("COMMAND", "a command; see dyvision --help")
        raise ValueError(message if self.prog == "dyvision" else f"{message}; see {self.prog} --help")


def _closest_command(name: str, commands: Sequence[str]) -> str:
    synonyms = {other: ours for other, ours in _COMMANDS.items() if ours in commands}
    similar = similar_names(name, [*commands, *synonyms], 2)
    return suggestion(list(dict.fromkeys(synonyms.get(match, match) for match in similar)))


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers below a parser, by the name of their command or action."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:  # argparse has no public way to them
        if isinstance(action, argparse._SubParsersAction):
            found |= action.choices
    return found


def refuse_unknown(parser: argparse.ArgumentParser, words: Sequence[str]) -> NoReturn:
    """Say what a command does not know, and the options of it that are closest.

    Raises:
        ValueError: Always.
    """
    known: list[str] = []
    by_choice: dict[str, str] = {}
    for action in parser._actions:  # no public way either
        known += [name[2:] for name in action.option_strings if name.startswith("--") and name != "--help"]
        if action.option_strings:
            by_choice |= {str(choice): f"{action.option_strings[-1]} {choice}" for choice in action.choices or ()}
    close: list[str] = []
    for word in words:
        # without the dashes, which all names have
        option = word[2:].partition("=")[0] if word.startswith("--") else ""
        if option:
            close += [by_choice[option]] if option in by_choice else _dashed(similar_names(option, known, 1))
    parser.error(f"unrecognized arguments: {' '.join(words)}{suggestion(list(dict.fromkeys(close)))}")


def _dashed(names: Sequence[str]) -> list[str]:
    return [f"--{name}" for name in names]


def check_command(arguments: Sequence[str], commands: Sequence[str]) -> None:
    """Check that a command line begins with its command.

    Args:
        arguments: Everything behind ``dyvision``.
        commands: Names of the commands.

    Raises:
        ValueError: If an option comes first although there is a command.
    """
    first = arguments[0] if arguments else ""
    if first.startswith("-") and first not in ("-h", "--help", "--version"):
        later = [argument for argument in arguments if argument in commands]
        hint = f": dyvision {later[0]} {first} ..." if later else f", one of {', '.join(commands)}"
        raise ValueError(f"{first}: the command comes first{hint}")


def check_words(options: TypedOptions) -> None:
    """Check the arguments of a command that runs the trainer: all are options.

    Args:
        options: What was typed behind the command.

    Raises:
        ValueError: For anything else, with the option it was probably meant for.
    """
    for word in options.words:
        raise ValueError(f"{word!r} is no option{_meant(word)}")
    for name, value in options:
        if value is None or value.startswith("{"):
            continue
        if name in ("data", "model"):
            _check_section(name, value)
        if name in _SECTIONS:
            raise ValueError(f"--{name}={value}: --{name} has options below it, such as {_SECTIONS[name]}")


def take_photos(options: TypedOptions) -> None:
    """Take a folder of images, or one image, that stands alone behind ``predict`` for ``--data.predict_root``.

    Raises:
        ValueError: If nothing lies there, or there are several of them.
    """
    if not options.words or "data.predict_root" in options:
        return
    first, *others = options.words
    for word in options.words if others else ():
        if word.endswith((*_CHECKPOINTS, *_CONFIGS, ".onnx")):
            raise ValueError(f"{word!r} is no option{_meant(word)}")
    if others and all(Path(word).exists() for word in options.words):
        raise ValueError(
            f"{some(map(printable, options.words), 3)}: predict takes one image or one folder; give the folder they "
            "lie in"
        )
    if others or first.endswith((*_CHECKPOINTS, *_CONFIGS, ".onnx")):
        return
    if Path(first).exists():
        options.pairs.append(("data.predict_root", first))
        options.words.clear()
    elif as_address(first) is not None:
        raise ValueError(f"{printable(first)}: an address, not a file or folder; download the images first")
    elif "=" not in first and (os.sep in first or Path(first).suffix):
        raise ValueError(
            f"{printable(first)}: no such file or folder; predict takes an image, or a folder of images at any depth"
        )


def suggest(name: str, known: Sequence[str]) -> str:
    """Phrase what a misspelt option may have meant: what other tools call so, or the closest name."""
    plain = name.replace("-", "_")
    meant = _ALIASES.get(plain, ())
    aliases = [one for one in ((meant,) if isinstance(meant, str) else meant) if one in known]
    # of what is called otherwise here, names that only look alike are none
    found = aliases if len(aliases) > 1 else [*aliases, *similar(plain, known)]
    return suggestion(list(dict.fromkeys(found)))


def _meant(argument: str) -> str:
    if argument.endswith(_CHECKPOINTS):
        return f"; a checkpoint is given as --ckpt_path={argument}"
    if argument.endswith(".onnx"):
        return f"; an exported file is given as --model={argument}"
    if argument.endswith(_CONFIGS):
        return f"; a config is given as --config={argument}"
    if argument in ("fit", "validate", "test", "predict"):
        return "; give one command at a time"
    if Path(argument).exists():
        return f"; a data set is given as --data.root={argument}, images to predict as --data.predict_root={argument}"
    if "=" in argument:
        return f"; options begin with two dashes: --{argument}"
    return "; options are written --name=value"


def _check_section(name: str, value: str) -> None:
    if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", value):
        return  # a class path
    inner = "root" if name == "data" else "backbone"
    raise ValueError(f"--{name}={value}: expected the path of a class; did you mean --{name}.{inner}={value}?")
