"""What the documents promise: commands parse, Python runs, examples in docstrings hold.

If these failed, a reader would type what does not work. The tables are in ``test_doc_tables.py``, the page of all
options in ``test_reference.py``.
"""

from __future__ import annotations

import contextlib
import doctest
import functools
import importlib
import importlib.util
import os
import pkgutil
import re
import runpy
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import dyvision
from dyvision.backbones import list_backbones
from dyvision.cli.common_options import asks_for_common_options
from dyvision.cli.configs import find_config
from dyvision.cli.parser import parse_command
from dyvision.cli.request import checkpoint_sections, read_request
from dyvision.cli.task_parser import TaskParser
from dyvision.cli.typed import TypedOptions
from dyvision.cli.unknown_options import check_keys
from dyvision.layers import list_layers
from tests.documents import (
    PLACEHOLDERS,
    ROOT,
    Block,
    Command,
    blocks,
    commands,
    expand,
    fenced,
    reference,
    write_files,
    write_official_weights,
)
from tests.plugin_sandbox import plugin_sandbox

COMMANDS = commands()
TRAINING = ("fit", "validate", "test", "predict")
#: what Python blocks assume: a module and images of the reader's
PRELUDE = (
    "import torch, torchvision\nany_module = torchvision.models.resnet18()\n"
    "calibration_images = [torch.randn(2, 3, 64, 64)]\n"
)
#: options that take names of a registry
NAMED = {"layer": list_layers, "backbone": list_backbones, "model": list_backbones, "networks": list_backbones}
#: programs that are not ours, and how their help is asked for
TOOLS = {name: (sys.executable, "-m", name) for name in ("pip", "ruff", "mypy")}
#: programs that a developer installs as the line or the extra before says
INSTALLED_LATER = {"mkdocs": "docs", "pre-commit": "pip install pre-commit"}
MODULES_WITH_EXAMPLES = sorted(
    found.name
    for found in pkgutil.walk_packages(dyvision.__path__, "dyvision.")
    # a compiled library is none that has a text
    if (source := importlib.util.find_spec(found.name).origin or "").endswith(".py")
    and ">>> " in Path(source).read_text(encoding="utf-8")
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks gain nothing by a second thread, and on a busy machine it costs them minutes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What the pages register is nobody else's."""
    with plugin_sandbox():
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the documents assume."""
    folder = tmp_path_factory.mktemp("home")
    write_files(folder)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with official weights under the names that the examples use."""
    folder = tmp_path_factory.mktemp("weights")
    write_official_weights(folder)
    return folder


def test_a_line_stands_for_these_commands() -> None:
    assert expand("dyvision a|b [--layer NAME] [--n N ...] 'x|[y]'  # why") == [
        *(("dyvision", word, "--layer", "dcd", "--n", "1", "x|[y]") for word in "ab"),
        *(("dyvision", word, "x|[y]") for word in "ab"),
    ]
    assert expand('V=1 pip install ".[dev]" && tool run ... --names ...') == [
        ("pip", "install", ".[dev]"),
        ("tool", "run"),
    ]


def test_a_block_that_cannot_run_says_why() -> None:
    text = "* Item\n\n  <!-- only compiled: needs a GPU -->\n  ```python\n  a = 1\n  ```\n\n```python\nb\n```\n"
    first, second = fenced(ROOT / "README.md", text)
    assert (first.where, first.text, first.reason) == ("README.md:5", "a = 1\n", "needs a GPU")
    assert (second.language, second.reason) == ("python", None)


def test_a_block_may_need_a_package() -> None:
    (block,) = fenced(ROOT / "README.md", "<!-- needs some.package -->\n```python\na\n```\n")
    assert (block.package, block.reason) == ("some.package", None)


def test_there_are_commands_of_every_kind() -> None:
    ours = {command.words[1] for command in COMMANDS if command.words[0] == "dyvision"}
    assert ours >= {*TRAINING, "quickstart", "list", "config", "data", "profile", "reproduce", "benchmark", "report"}


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_command_parses(command: Command, home, monkeypatch) -> None:
    monkeypatch.chdir(home)
    unknown = [word for word in command.words if re.fullmatch(r"[A-Z_]{2,}(,[A-Z_]+)*|[A-Z]", word)]
    assert not unknown, f"what does {unknown} stand for? It is none of {sorted(PLACEHOLDERS)} of tests/documents.py"
    program, *words = command.words
    if program == "dyvision" and words[0] in TRAINING:
        parse_training(words[0], words[1:])
    elif program == "dyvision":
        parse_other(words, command.named)
    elif program in ("python", "python3"):
        parse_python(words, monkeypatch)
    elif program in TOOLS:
        check_tool(program, words)
    elif program in INSTALLED_LATER:
        said = INSTALLED_LATER[program]
        assert said in extras() or said in (ROOT / command.where.split(":")[0]).read_text(encoding="utf-8")
    elif program == ".":
        assert words == [".venv/bin/activate"]  # made by `python3 -m venv .venv` in the same line
    else:
        assert os.access(ROOT / program, os.X_OK), program


def parse_training(command: str, words: list[str]) -> None:
    """As ``dyvision fit`` does, without building anything."""
    if asks_for_common_options(TypedOptions.read(words)):
        return
    if any(word.endswith(".onnx") for word in words):
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    request = read_request(words, command)
    options = task_options(command, request.task, request.data_format)
    known = options.known_options()
    check_keys(request, known, free=[])
    data_of_checkpoint, model_of_checkpoint = checkpoint_sections(request, known)
    contents = [data_of_checkpoint, *(content for _, content in request.layers), model_of_checkpoint]
    configs = [f"--config={yaml.safe_dump(content)}" for content in contents]
    with finished():
        parsed = options.parser.parse_args([*configs, *request.typed.arguments()])
        check_names(vars(parsed.model))


@functools.cache
def task_options(command: str, task: str, data_format: str | None) -> TaskParser:
    return TaskParser(command, task, data_format=data_format)


def parse_other(words: list[str], named: bool) -> None:
    """A sentence may name a command or a group of commands; anything else is typed as it stands."""
    parser = reference().build_parser()
    commands_below = [f"{name} " for name, *_ in reference().leaves(parser)]
    if named and any(name.startswith(f"dyvision {' '.join(words)} ") for name in commands_below):
        return
    with finished():
        parsed = vars(parse_command(words))
        check_names(parsed)
        for config in (*parsed.get("names", ()), *parsed.get("files", ())) if words[0] == "config" else ():
            find_config(config)


def check_names(options: Mapping[str, Any]) -> None:
    """What parsers take as text: layers and networks are looked up when they are built."""
    for option, known in NAMED.items():
        given = options.get(option) or ()
        names = {given} if isinstance(given, str) else set(given)
        names = {name for name in names if not name.endswith(".ckpt")}  # profile takes a file, too
        assert names <= {*known()}, f"{option}: {names}"


@contextlib.contextmanager
def finished() -> Iterator[None]:
    """A parser that prints its help or version ends the program, without an error."""
    try:
        yield
    except SystemExit as end:
        assert not end.code


def parse_python(words: list[str], monkeypatch) -> None:
    """``-m MODULE`` or a script of ours, whose parser is asked, or Python itself."""
    module = words[1] if words[0] == "-m" else words[0].removesuffix(".py").replace("/", ".")
    if module.startswith(("benchmarks.", "docs.")):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file() or module == "benchmarks.fuzz"
        run_until_parsed(module, words[2:] if words[0] == "-m" else words[1:], monkeypatch)
    elif words[0] == "-m":
        assert_options_known((sys.executable, "-m", module, "--help"), words[2:])
    else:
        assert_options_known((sys.executable, "--help"), words)


class Parsed(Exception):
    pass


def run_until_parsed(module: str, words: list[str], monkeypatch) -> None:
    """Run a script up to the point where it has parsed its command line; one without a parser takes no words."""
    import argparse

    parse = argparse.ArgumentParser.parse_args

    def stop(parser, *arguments):
        parse(parser, *arguments)
        raise Parsed

    if "parse_args" not in Path(importlib.util.find_spec(main_of(module)).origin).read_text(encoding="utf-8"):
        assert [word for word in words if word.startswith("-")] == []
        return
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # a script's own folder
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", [module, *words])
    with pytest.raises(Parsed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runpy.run_module(module, run_name="__main__", alter_sys=False)


def main_of(module: str) -> str:
    return f"{module}.__main__" if importlib.util.find_spec(module).submodule_search_locations else module


def check_tool(program: str, words: list[str]) -> None:
    """Every option is in the program's help, every extra of ours in ``pyproject.toml``."""
    inside = next((word for word in words if not word.startswith("-")), None) if program != "mypy" else None
    assert_options_known((*TOOLS[program], *([inside] if inside else []), "--help"), words)
    for named in re.findall(r"(?:^\.|^dyvision)\[([\w,-]+)\]$", "\n".join(words), re.MULTILINE):
        assert set(named.split(",")) <= extras(), named


@functools.cache
def help_of(command: tuple[str, ...]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def assert_options_known(command: tuple[str, ...], words: list[str]) -> None:
    known = re.findall(r"(?<![\w-])--?\w[\w-]*", help_of(command))
    assert [word for word in words if word.startswith("-") and word.partition("=")[0] not in known] == []


@functools.cache
def extras() -> set[str]:
    return set(metadata("dyvision").get_all("Provides-Extra") or ())


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.where)
def test_python_block_runs(block: Block, weights, monkeypatch) -> None:
    code = compile(block.text, block.where, "exec")
    if block.reason:
        return
    if block.package:
        pytest.importorskip(block.package)
    monkeypatch.chdir(weights)
    namespace: dict[str, object] = {}
    exec(PRELUDE, namespace)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code, namespace)


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.where)
def test_yaml_block_is_a_config(block: Block, tmp_path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(block.text, encoding="utf-8")
    parse_training("fit", ["--config=segmentation/quickstart.yaml", f"--config={path}"])


def test_there_are_blocks_and_examples() -> None:
    assert len(blocks("python")) >= 6 and blocks("yaml") and len(MODULES_WITH_EXAMPLES) >= 25


@pytest.mark.parametrize("name", MODULES_WITH_EXAMPLES)
def test_examples_of_docstrings_hold(name: str, weights, monkeypatch) -> None:
    monkeypatch.chdir(weights)
    module = importlib.import_module(name)
    text = Path(module.__file__).read_text(encoding="utf-8")
    assert "+SKIP" not in text, "an example that is not run is a guess"
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        result = doctest.testmod(module)
    assert result.failed == 0, f"{result.failed} of {result.attempted} lines, printed above"
    assert result.attempted >= text.count(">>> "), "examples stand where doctest does not look"
