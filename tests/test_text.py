"""How errors of others and misspelt names stand in messages."""

from __future__ import annotations

import pytest

from dyvision.data.errors import did_you_mean as data_hint
from dyvision.tasks.components import closest
from dyvision.text import did_you_mean, first_line, one_line, question, some, suggestion

NAMES = ["condconv", "eca", "odconv"]


@pytest.mark.parametrize(
    ("error", "first", "one"),
    [
        (ValueError("a tab\n  in line 3\n"), "a tab", "a tab in line 3"),
        (OSError(2, "No such file"), "[Errno 2] No such file", "[Errno 2] No such file"),
        (AssertionError(), "AssertionError", "AssertionError"),
        (RuntimeError(" \n "), "RuntimeError", "RuntimeError"),
    ],
)
def test_an_error_in_another_message(error, first, one):
    assert first_line(error) == first
    assert one_line(error) == one


def test_a_first_line_is_shortened():
    assert first_line(ValueError("0123456789\nnext"), 5) == "01234"


def test_a_misspelt_name_is_asked_for_in_the_same_words_everywhere():
    asked = question(["odconv", "condconv"])
    assert asked == "did you mean 'odconv' or 'condconv'?"
    assert did_you_mean("odcon", NAMES) == suggestion(["odconv", "condconv"]) == f" ({asked})"
    assert closest("odcon", NAMES) == asked
    assert data_hint("odcon", NAMES) == f" D{asked[1:]}"


def test_nothing_close():
    assert did_you_mean("x" * 20, NAMES) == suggestion([]) == ""
    assert closest("x" * 20, NAMES) == "choose from condconv, eca, odconv"
    assert data_hint("x" * 20, NAMES) == " There is: condconv, eca, odconv."


def test_a_few_of_many():
    assert some([]) == "" and some(["a"]) == "a" and some("abcde") == "a, b, c, d, e"
    assert some("abcdef") == "a, b, c, d, e and 1 more"
    assert some((f"n{i}" for i in range(9)), 2) == "n0, n1 and 7 more"
