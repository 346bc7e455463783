"""If these fail, a row of a publication is missing, differs without a reason, or is called equal when it is not."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from dyvision.analysis.reproduce import Comparison, read_published, reproduce
from dyvision.cli import main

ROWS = read_published()
TABLES = {"condconv", "dcd", "dyconv", "dynet", "kernelwarehouse", "odconv", "weightnet"}


def test_every_table_has_rows_and_no_row_stands_twice():
    counts = Counter(row.table for row in ROWS)
    assert set(counts) >= TABLES and min(counts.values()) >= 2
    assert [row for table in counts for row in read_published(table)] == ROWS
    assert len({(row.table, row.method, row.network, row.setting, row.source) for row in ROWS}) == len(ROWS)
    assert all(row.params_m or row.macs_m for row in ROWS)


@pytest.mark.parametrize(
    ("params", "macs", "agrees"),
    [
        (3_500_000, 300_000_000, True),
        (3_534_000, 305_000_000, True),
        (3_560_000, 300_000_000, False),
        (3_500_000, 310_000_000, False),
    ],
)
def test_tolerance_is_one_percent_of_parameters_and_two_of_multiply_adds(params, macs, agrees):
    row = replace(ROWS[0], params_m="3.500", macs_m="300.0")
    assert Comparison(row, params, macs, macs).agrees is agrees


def test_all_published_digits_are_enough():
    row = replace(ROWS[0], params_m="0.2", macs_m="")
    assert Comparison(row, 160_000, 10**9, 10**9).agrees
    assert Comparison(row, 160_000, 10**9, 10**9).macs_difference is None
    assert not Comparison(row, 140_000, 10**9, 10**9).agrees


def test_a_published_row_is_reproduced():
    row = next(row for row in ROWS if (row.table, row.network, row.macs_m) == ("dcd", "MobileNetV2 1", "326.0"))
    (found,) = reproduce([row])
    # the published figure is what runs, too: each layer takes the cheaper of its forms
    assert found.agrees and abs(found.executed / found.macs - 1) < 0.01


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_row_agrees_or_says_why():
    silent = [found.published for found in reproduce(ROWS) if not found.agrees and not found.published.reason]
    assert not silent


def test_command(tmp_path, capsys, monkeypatch):
    chosen = [row for row in ROWS if row.table == "weightnet"][:1]
    monkeypatch.setattr("dyvision.analysis.reproduce.read_published", lambda table: chosen)
    assert main(["reproduce", "--table=weightnet", f"--json={tmp_path / 'a' / 'rows.json'}"]) == 0
    text = capsys.readouterr().out
    assert chosen[0].network.split()[0] in text and "1 rows: " in text
    (entry,) = json.loads((tmp_path / "a" / "rows.json").read_text())
    assert entry["table"] == "weightnet" and entry["our_params"] > 1e5


def test_unknown_table(capsys):
    assert main(["reproduce", "--table=dcdd"]) == 2
    assert "no published table 'dcdd'; choose from condconv, dcd" in capsys.readouterr().err
