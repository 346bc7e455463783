"""Names in the sentences of the documents: files, options, modules. If these failed, a name would be nobody's."""

from __future__ import annotations

import functools
import importlib
import re
from pathlib import Path

import pytest

from tests.documents import DOCUMENTS, ROOT, prose, reference

TASKS = ("classification", "segmentation", "detection")
#: files that are the reader's or a run's, by their beginning or their whole name
WRITTEN = (
    *("config.yaml", "metrics.csv", "confusion_val", "predictions.csv", "detections_", "images.json", "failed.csv"),
    *("annotations/", "config_v", "config.json", "report/", "routing.json"),
)
SUFFIXES = "py|csv|json|ya?ml|md|toml|cff"


@functools.cache
def files() -> list[str]:
    tops = ("dyvision", "tasks", "data", "configs", "tests", "benchmarks", "docs", ".github")
    inside = (path for top in tops for path in (ROOT / top).rglob("*") if path.is_file())
    return [path.relative_to(ROOT).as_posix() for path in (*inside, *(one for one in ROOT.iterdir() if one.is_file()))]


@functools.cache
def options() -> set[str]:
    """The options of all commands, without dashes in front."""
    script = reference()
    found = {name for task in TASKS for name in script.options_of(script.task_parser("fit", task))}
    for _, parser, _ in script.leaves(script.build_parser()):
        found |= {option.lstrip("-") for action in parser._actions for option in action.option_strings}
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_exist(document: Path) -> None:
    named = re.findall(rf"`([\w./*-]+\.(?:{SUFFIXES}))`", prose(document))
    patterns = [name.replace(".", r"\.").replace("*", ".*").replace("NAME", r"\w+") for name in named]
    missing = [
        name
        for name, pattern in zip(named, patterns, strict=True)
        if not name.startswith(WRITTEN) and not any(re.search(rf"(^|/){pattern}$", file) for file in files())
    ]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]+)?\)", prose(document))
    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_names_of_python_exist(document: Path) -> None:
    for name in re.findall(r"`(dyvision(?:\.\w+)+)", prose(document)):
        parts = name.split(".")
        found = importlib.import_module("dyvision")
        for number, part in enumerate(parts[1:], 2):
            try:
                found = getattr(found, part)
            except AttributeError:
                found = importlib.import_module(".".join(parts[:number]))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_options_exist(document: Path) -> None:
    """Those named alone; options behind a command are parsed with it."""
    typed = re.findall(r"`--([\w.-]*\w)", prose(document))
    in_configs = re.findall(r"`((?:data|model|trainer|prediction|checkpoint)\.[a-z_]+)(?=[:`])", prose(document))
    sections = {name.partition(".")[0] for name in options() if "." in name}
    assert [name for name in (*typed, *in_configs) if name not in options() | sections] == []


def test_rooms_below_are_all_named() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    paragraph = re.search(r"Below all of them: (.+?)\(`dyvision/NAME\.py`\)", text, re.DOTALL)
    assert paragraph is not None
    modules = {path.stem for path in (ROOT / "dyvision").glob("*.py") if not path.stem.startswith("_")}
    assert set(re.findall(r"`(\w+)`", paragraph[1])) == modules
