"""The page of all options is what the parsers say: if these failed, an option would be documented wrongly or not."""

from __future__ import annotations

import re
from importlib.metadata import version

import pytest

from tests.documents import reference

RENEW = "renew docs/reference.md: python docs/generate_reference.py"
COMMANDS = ("fit", "validate", "test", "predict")
TASKS = ("classification", "segmentation", "detection")


@pytest.fixture(scope="module")
def committed() -> str:
    return reference().PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def generated() -> str:
    return reference().page()


def without_lightning(page: str) -> str:
    """The page but for the names that depend on Lightning's version."""
    begin, end = reference().BEGIN.partition("{}")[0], reference().END
    return re.sub(rf"{re.escape(begin)}.*?{re.escape(end)}", "", page, flags=re.DOTALL)


def test_the_page_is_what_the_parsers_generate(committed, generated) -> None:
    assert without_lightning(committed) == without_lightning(generated), RENEW


def test_options_of_lightning_are_those_of_the_version_that_the_page_names(committed, generated) -> None:
    named = set(re.findall(r"Lightning (\S+) -->", committed))
    assert len(named) == 1
    if named == {version("lightning")}:
        assert committed == generated, RENEW


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_the_training_commands_is_on_the_page(command, task, committed) -> None:
    script = reference()
    options = script.options_of(script.task_parser(command, task))
    assert {"model.backbone", "data.root", "last.every_minutes", "trainer.max_epochs"} <= set(options)
    older = set(re.findall(r"Lightning (\S+) -->", committed)) != {version("lightning")}
    names = [name for name in options if not (older and name.startswith(("trainer.", "checkpoint.")))]
    assert [name for name in names if not re.search(rf"`(?:-\w, )?--{re.escape(name)}`", committed)] == [], RENEW


def test_every_option_of_the_other_commands_is_on_the_page(committed) -> None:
    sections = dict(re.findall(r"^## (dyvision .+)\n((?:(?!## ).*\n)*)", committed, re.MULTILINE))
    missing, count = [], 0
    for name, parser, _ in reference().leaves(reference().build_parser()):
        words = name.split()
        if words[1] in COMMANDS:
            continue
        for action in parser._actions:
            if action.help != "==SUPPRESS==" and action.dest != "help":
                count += 1
                names = action.option_strings or [str(action.metavar or action.dest.upper()), *(action.choices or ())]
                missing += [f"{name} {names[0]}"] * (not any(one in sections.get(name, "") for one in names))
    assert missing == [], RENEW
    assert count >= 42


def test_a_changed_default_shows(generated, monkeypatch) -> None:
    """What is compared with the page is read from the parsers, not from the page."""
    script = reference()
    parser = script.build_parser()
    quickstart = next(found for name, found, _ in script.leaves(parser) if name == "dyvision quickstart")
    quickstart.set_defaults(layer="odconv")
    quickstart.add_argument("--new", help="an option that nobody wrote down")
    monkeypatch.setattr(script, "build_parser", lambda: parser)
    changed = script.page()
    assert "`--new NEW`" in changed and "`--layer LAYER` | `odconv`" in changed
    assert "`--new NEW`" not in generated
