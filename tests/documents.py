"""The documents as the tests read them: fenced blocks, commands as they are typed, tables, files that they assume."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import ModuleType

import torch

from dyvision.cli.common_options import TRAINER_COMMANDS, print_common_options

ROOT = Path(__file__).parents[1]
#: the page of the reference is generated; ``tests/test_reference.py`` compares it
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name != "reference.md"),
]
#: modules of packages that the how-to pages explain
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*/*.py"))
RECIPES = sorted((ROOT / "configs").rglob("*.yaml"))

#: what a word in capitals stands for in a command, alone or behind an option, and so for two other words
PLACEHOLDERS = {
    "B": "1",
    "CKPT": "last.ckpt",
    "DIR": "folder",
    "FOLDER": "folder",
    "WORD": "word",
    "FILE": "file",
    "KIND": "masks",
    "MODEL": "mobilenetv2_035",
    "N": "1",
    "--layer NAME": "dcd",
    "--table NAME": "dynet",
    "NAME": "segmentation/quickstart.yaml",
    "NAME,NAME": "torch.nn.Linear,torch.nn.Conv2d",
    "NAME_OR_FILE": "segmentation/quickstart.yaml",
    "NETWORK": "mobilenetv2_035",
    "PATH": "folder",
    "RUN": "folder",
    "--any.option": "--model.lr",
    "value": "0.1",
}
_FENCE = re.compile(
    r"^(?: *<!-- (?:only compiled: (?P<reason>.+?)|needs (?P<package>[\w.]+)) -->\n)?"
    r"(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
_WORD = r"(?:'[^']*'|\"[^\"]*\"|[^\s'\"\[\]])+"
_OPTIONAL = re.compile(rf"\[((?:--?{_WORD}|{_WORD})(?: {_WORD})*)\](?=\s|$)")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        where: ``docs/data.md:39``.
        language: Behind the fence.
        text: Without indentation.
        reason: Why it is compiled only, from the comment above the fence: ``<!-- only compiled: REASON -->``.
        package: What it runs with, where that is installed: ``<!-- needs PACKAGE -->``.
    """

    where: str
    language: str
    text: str
    reason: str | None
    package: str | None = None


@dataclass(frozen=True)
class Command:
    """One command line, placeholders replaced.

    Attributes:
        where: ``docs/data.md:39``.
        words: As a shell hands them on, without variables in front.
        named: Whether it stands in a sentence, which may name a command without the arguments it needs.
    """

    where: str
    words: tuple[str, ...]
    named: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {shlex.join(self.words)}"


def place(path: Path, text: str, position: int) -> str:
    return f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, position) + 1}"


def blocks(*languages: str) -> list[Block]:
    """The fenced blocks of all documents in one of these languages."""
    return [
        block
        for path in DOCUMENTS
        for block in fenced(path, path.read_text(encoding="utf-8"))
        if block.language in languages
    ]


def fenced(path: Path, text: str) -> Iterator[Block]:
    """The fenced blocks of a text."""
    for match in _FENCE.finditer(text):
        inner = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        yield Block(place(path, text, match.start("text")), match["language"], inner, match["reason"], match["package"])


def commands() -> list[Command]:
    """Every command that is shown to somebody, in documents, headers of recipes, help texts and benchmarks."""
    lines = (*_lines(), *_lines_of_help(), *_lines_of_benchmarks())
    return [Command(where, words, named) for where, line, named in lines for words in expand(line)]


def _lines() -> Iterator[tuple[str, str, bool]]:
    for block in blocks("sh", "text", "bash", "console", ""):
        path, _, first = block.where.partition(":")
        for number, line in enumerate(block.text.splitlines(), int(first)):
            yield f"{path}:{number}", line, False
    for path in DOCUMENTS:
        text = prose(path)
        for match in re.finditer(r"`((?:[A-Z_]+=\S+ )*(?:dyvision|python|pip|mkdocs|mypy)\s[^`]+)`", text):
            yield place(path, text, match.start()), " ".join(match[1].split()), True
        for match in re.finditer(r"`(benchmarks/\w+\.py\s[^`]+)`", text):
            yield place(path, text, match.start()), f"python {' '.join(match[1].split())}", True
    for path in RECIPES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if match := re.match(r"#.*?(?<![/`\w])(dyvision \w+ .*)", line):
                yield f"{path.relative_to(ROOT)}:{number}", match[1].rstrip(".,;:)"), False


def _lines_of_help() -> Iterator[tuple[str, str, bool]]:
    texts = {"dyvision --help": reference().build_parser().epilog}
    for command in TRAINER_COMMANDS:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            print_common_options(command)
        texts[f"dyvision {command} --help"] = printed.getvalue().partition("examples:")[2]
    for where, text in texts.items():
        for line in re.findall(r"^  (dyvision .+)$", text, re.MULTILINE):
            yield where, line, False


def _lines_of_benchmarks() -> Iterator[tuple[str, str, bool]]:
    for path in sorted((ROOT / "benchmarks").rglob("*.py")):
        text = path.read_text(encoding="utf-8").partition('"""\n\nfrom')[0]
        for match in re.finditer(r"^    (python .+)$", text, re.MULTILINE):
            yield place(path, text, match.start()), match[1], False


def expand(line: str) -> list[tuple[str, ...]]:
    """The commands that one line stands for.

    ``[--option VALUE]`` is taken and left out, ``a|b`` is each of them, ``...`` repeats what stands before it and is
    left out (with the option before it, where it is the value), ``# text`` is a comment, and a word of
    ``PLACEHOLDERS`` an example of it.
    """
    found = []
    for part in re.split(r"\s*&&\s*|;\s+", re.sub(r"(^|\s+)#.*", "", line)):
        for kept in (True, False):
            plain = _OPTIONAL.sub(r"\1" if kept else "", part)
            words = shlex.split(re.sub(r"^([A-Z_]+=\S+ )+", "", plain))
            words = [
                word for word, following in zip(words, [*words[1:], ""], strict=True) if not _repeats(word, following)
            ]
            choices = [word.split("|") if re.fullmatch(r"[\w-]+(\|[\w-]+)+", word) else [word] for word in words]
            found += [_replaced(chosen) for chosen in product(*choices)]
    return [words for words in dict.fromkeys(found) if words]


def _replaced(words: Sequence[str]) -> tuple[str, ...]:
    pairs = zip(["", *words], words, strict=False)
    return tuple(PLACEHOLDERS.get(f"{before} {word}", PLACEHOLDERS.get(word, word)) for before, word in pairs)


def _repeats(word: str, following: str) -> bool:
    return word == "..." or (word.startswith("--") and following == "...")


def prose(path: Path) -> str:
    """A document without its fenced blocks, whose lines are empty."""
    return _FENCE.sub(lambda match: "\n" * match[0].count("\n"), path.read_text(encoding="utf-8"))


def tables(path: Path) -> list[list[list[str]]]:
    """The tables of a document: rows of cells, the header first, without the line of dashes."""
    found: list[list[list[str]]] = []
    inside = False
    for line in prose(path).splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        if not inside:
            found.append([])
        inside = True
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        if not all(set(cell) <= set("-: ") for cell in cells) or not any(cells):
            found[-1].append(cells)
    return found


@functools.cache
def reference() -> ModuleType:
    """The script that writes ``docs/reference.md``, as a module."""
    spec = importlib.util.spec_from_file_location("generate_reference", ROOT / "docs" / "generate_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def write_files(folder: Path) -> None:
    """What the documents assume to lie in the current folder: small checkpoints of each task, an export, photos."""
    from benchmarks.fuzz.checkpoints import made
    from dyvision.version import VERSION

    for task, content in made().items():
        content = {
            **content,
            "dyvision_version": VERSION,
            "datamodule_hyper_parameters": {"root": "data"},
            "callbacks": {"ModelCheckpoint": {"best_model_path": "best.ckpt"}},
        }
        names = ["last.ckpt", "theirs.ckpt", "other.ckpt", "path/to/classifier.ckpt"] * (task == "classification")
        for run in (f"runs/{task}/version_{number}/checkpoints" for number in (0, 3)):
            names += [f"{run}/last.ckpt", f"{run}/best.ckpt"]
        torch.save(content, folder / f"{task}.ckpt")
        for path in (folder / name for name in names):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.hardlink_to(folder / f"{task}.ckpt")
    (folder / "photos").mkdir()
    if importlib.util.find_spec("onnx"):
        from tests.onnx_files import metadata, write_network

        write_network(folder / "last.onnx", metadata("classification"))
    for path in EXAMPLES:
        (folder / path.name).write_bytes(path.read_bytes())


def write_official_weights(folder: Path) -> None:
    """Official weights that the examples load, with official names and shapes, as their files have them."""
    from tests.checkpoints.official import MobileNetV2, ResNet

    widths = (16, 8, 8, 16, 24, 32, 56, 112, 1280)  # MobileNetV2 at 0.35
    networks = {
        "dcd_mobilenetv2_035.pth": MobileNetV2("dcd", widths, classes=1000),
        "odconv4x_resnet18.pth.tar": ResNet("odconv", (64, 128, 256, 512), (2, 2, 2, 2), classes=1000, kernel_num=4),
    }
    for name, network in networks.items():
        with torch.device("meta"):  # the formulas ask for names and shapes; nothing is computed
            network(torch.zeros(2, 3, 64, 64, dtype=torch.float64))
        state = {key: torch.zeros(value.shape, dtype=torch.float16) for key, value in network.state.items()}
        torch.save({"state_dict": state} if name.endswith(".tar") else state, folder / name)
