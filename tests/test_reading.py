"""If these failed, a file of a kilobyte could fill the memory, and a name could be obeyed instead of shown."""

from __future__ import annotations

import io
import time
import tracemalloc

import pytest
from rich.console import Console
from rich.table import Table

from dyvision.cli import main
from dyvision.reading import check_plain, parse_yaml, read_json, read_yaml
from dyvision.tasks.callbacks.table import _class_table
from dyvision.text import csv_cell, plain, printable

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level + 1}: &a{level + 1} [{', '.join([f'*a{level}'] * 9)}]\n" for level in range(9)
)
YAML = {
    "laughs": (LAUGHS, "stands for more than 200,000 values"),
    "flow": ("[" * 100_000, "levels deep"),
    "closed": ("[" * 500 + "]" * 500, "levels deep"),
    "block": ("\n".join(" " * level + "a:" for level in range(300)), "levels deep"),
    "sequence": ("- " * 300 + "x", "levels deep"),
    "self": ("&a [*a]", "inside its own anchor"),
    "python": ("!!python/object/apply:os.system ['touch x']", "not valid YAML"),
    "digits": ("9" * 6000, "not valid YAML"),
    "date": ("2001-99-99", "not valid YAML"),
    "bool": ("!!bool x", "not valid YAML"),
    "broken": ("{a: 1", "not valid YAML"),
}


@pytest.mark.parametrize("kind", YAML)
def test_yaml_without_end_is_one_sentence(kind, tmp_path, capsys):
    text, message = YAML[kind]
    path = tmp_path / "a.yaml"
    path.write_text(text)
    started = time.perf_counter()
    with pytest.raises(ValueError, match=rf"a\.yaml: .*{message}"):
        read_yaml(path)
    assert main(["fit", f"--config={path}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0]
    assert time.perf_counter() - started < 20


@pytest.mark.parametrize("kind", ["laughs", "flow", "closed", "self"])
@pytest.mark.parametrize("equals", [True, False])
def test_typed_values_without_end(kind, equals, capsys):
    text, message = YAML[kind]
    if kind == "laughs":
        levels = [f"&a0 [{', '.join('x' * 9)}]"]
        levels += [f"&a{level + 1} [{', '.join([f'*a{level}'] * 9)}]" for level in range(9)]
        text = f"[{', '.join(levels)}]"
    typed = [f"--model.layer_kwargs={text}"] if equals else ["--model.layer_kwargs", text]
    assert main(["fit", "--task=segmentation", "--data.root=x", *typed]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0] and "--model.layer_kwargs" in lines[0]


def test_ordinary_yaml_is_read(tmp_path):
    text = "a: &x {b: [1, 2.5, null, true, 'text']}\nc: *x\n"
    assert parse_yaml(text, "a") == {"a": {"b": [1, 2.5, None, True, "text"]}, "c": {"b": [1, 2.5, None, True, "text"]}}
    assert parse_yaml("", "a") is None
    path = tmp_path / "a.yaml"
    path.write_bytes("ä: 1".encode("latin-1"))
    with pytest.raises(ValueError, match="no UTF-8"):
        read_yaml(path)


@pytest.mark.parametrize(
    "data", [b"[" * 200_000, b'{"a":' * 200_000, b"{", b"\xff\xfe1", b'{"a": ' + b"9" * 6000 + b"}"]
)
def test_json_is_one_sentence(data, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.json: "):
        read_json(path)


def test_plain_values():
    check_plain({"a": [1, 2.0, "x", None, True, {"b": (1,)}]}, "w")
    loop: list = []
    loop.append(loop)
    for value, message in (
        (loop, "levels deep"),
        ({"a": {1}}, "w.a: set, expected"),
        ({(1,): 2}, "a key is tuple"),
        ([0] * 300_000, "stands for more"),
    ):
        with pytest.raises(ValueError, match=message):
            check_plain(value, "w")


NAMES = [
    "[/b]",
    "[bold]x[/bold]",
    "[link=http://x]y[/link]",
    "<b>x</b>",
    "a\x1b[31mb",
    "x\ny",
    "\u202egnp",
    "a\\",
    "ä日本",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_shown_in_tables(name):
    table = Table()
    table.add_column(plain(name))
    table.add_row(plain(name))
    text = io.StringIO()
    for shown in (table, _class_table({name: {"IoU": 0.5}})):
        Console(file=text, width=100, force_terminal=True, color_system=None).print(shown)
    lines = text.getvalue()
    assert lines.count(printable(name)) == 3
    assert "\x1b[31m" not in lines and "\u202e" not in lines


def test_printable_keeps_scripts():
    assert printable("ä \u0646\u200c\u0645 日本 👩\u200d🚀") == "ä \u0646\u200c\u0645 日本 👩\u200d🚀"
    assert printable("a\tb\r\x00\x9b\u2028\ud800") == "a\\tb\\r\\x00\\x9b\\u2028\\ud800"


def test_cells_are_no_formulas():
    for text in ("=1+1", "+x", "-x", "@x", "\t=1", "\r=1", "\uff1d1"):
        assert csv_cell(text) == f"'{text}"
    assert [csv_cell(value) for value in ("cat", "a=b", "", "0.500000", -0.5, None)] == [
        "cat", "a=b", "", "0.500000", -0.5, None,
    ]  # fmt: skip


def test_predictions_hold_no_formulas():
    from dyvision.tasks.callbacks.prediction_results import _csv

    written = _csv([["path", "class"], ["=cmd.jpg", "@sum"], ["a.jpg", "cat"]])
    assert written.splitlines() == ["path,class", "'=cmd.jpg,'@sum", "a.jpg,cat"]


def test_errors_show_control_characters(capsys):
    assert main(["fit", "--config=no\x1b[31mwhere.yaml"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_long_names_are_no_bomb() -> None:
    """A name stands once in a file, and above many values; written out for each it would fill the memory."""
    value = {"k" * 10**6: dict.fromkeys(range(2000), 0)}
    tracemalloc.start()
    check_plain(value, "w")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10**7
    with pytest.raises(ValueError, match=r"^w\.a\.0: set, expected"):
        check_plain({"a": {0: {1}}}, "w")
