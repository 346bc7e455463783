"""Every table of every command in a terminal of 80 columns. If these fail, somebody reads half a number."""

from __future__ import annotations

import io
import itertools
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from torch import nn

from dyvision.analysis.benchmark.rows import Row, make_summary, make_table
from dyvision.analysis.correlation import Correlation
from dyvision.analysis.profile import profile
from dyvision.analysis.reproduce import Comparison, make_report, read_published
from dyvision.analysis.routing import LayerRouting
from dyvision.analysis.routing_report import make_table as make_routing_table
from dyvision.cli._three_tasks import Result, _print_results
from dyvision.data.check import Report
from dyvision.data.check_report import print_report
from dyvision.data.findings import Findings
from dyvision.data.statistics import SplitStatistics
from dyvision.tables import FittingTable
from dyvision.tasks.callbacks.table import ResultsTable

NETWORKS = ("mobilenetv2_100", "dy_mobilenetv2, static mobilenetv2_100", "efficientnet_cc_b0_8e")
LONG = "a class of a data set of plants, named in Latin and in full: Chamaecyparis lawsoniana"


def lines_of(*things: object, width: int = 80) -> list[str]:
    """What a terminal of that width shows; no line is longer."""
    out = io.StringIO()
    console = Console(file=out, width=width)
    for thing in things:
        console.print(thing)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return lines


def cells_of(lines: list[str]) -> list[list[str]]:
    """The cells of each line of a table's body."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]


def check_columns(table: FittingTable, width: int) -> list[str]:
    """Every cell is there whole, or the note below names its column; names of rows are always there.

    Returns:
        The columns that are left out.
    """
    lines = lines_of(table, width=width)
    below = " ".join(" ".join(lines).split()).partition(f"left out at {width} columns: ")[2].partition("; a wider")[0]
    left_out = below.split(", ") if below else []
    body = cells_of(lines)
    shown = ["".join(re.sub(r"\s", "", row[k]) for row in body) for k in range(len(body[0]))]
    for index, column in enumerate(table._columns):
        texts = [re.sub(r"\s", "", Console().render_str(str(row[0][index])).plain) for row in table._rows if row]
        if column.name in left_out:
            assert column.importance > 0
        else:
            assert any(all(text in one for text in texts) for one in shown), column.name
    # a column of one letter a line is not to be read
    widths = {len(cell) - 2 for line in lines if line.startswith("│") for cell in line.strip("│").split("│")}
    assert min(widths) >= 3
    return left_out


def rows_of(
    what: str, batches: tuple[int, ...], references: tuple[str, ...] = ("static",), **more: object
) -> list[Row]:
    found = []
    values = itertools.count(1)
    for group, name, reference, batch in itertools.product(
        NETWORKS, ("condconv K=8", "kernelwarehouse"), references, batches
    ):
        ratio = 1 + next(values) / 7
        row = Row(what, group, name, reference, batch, 224, ratio, 0.9 * ratio, 12.3 * ratio, 1234.5, 15)
        found.append(replace(row, **more))
    return found


@pytest.mark.parametrize("width", [80, 60, 200])
@pytest.mark.parametrize(
    ("what", "rows"),
    [
        ("models", rows_of("models", (1, 8, 32))),
        ("training", rows_of("training", (16,), memory_mib=12345.6, memory_ratio=12.34)),
        (
            "operators",
            rows_of("operators", (1, 8, 32), ("static", "timm"))
            + rows_of("operators", (1, 8, 32), ("best formulation",), best="mix_outputs"),
        ),
    ],
)
def test_benchmark(what, rows, width) -> None:
    rows = [replace(row, note="12x mobilenetv2_100, 3x resnet18") if what == "operators" else row for row in rows]
    left_out = check_columns(make_table(rows, f"{what}, 224 pixels, 15 rounds"), width)
    check_columns(make_summary(rows), width)
    if width >= 80:
        # what explains a ratio may go, the ratios of all batches and of memory stay
        assert not any(re.fullmatch(r"batch \d+|memory batch \d+", name) for name in left_out)
    if width == 200:
        assert not left_out


def test_reproduce_at_80_columns_shows_published_beside_ours() -> None:
    rows = read_published()
    found = [Comparison(row, 123_456_789, 12_345_678_901, 12_345_678_901) for row in rows]
    for table in (None, *{row.table for row in rows}):
        report = make_report([one for one in found if table in (None, one.published.table)])
        left_out = check_columns(report[0], 80)
        assert not {"params", "our params", "MACs", "our MACs", "note"} & set(left_out)
        lines_of(*report)
    report = make_report(found)
    assert not check_columns(report[0], 180)
    assert not {"params", "our params", "note"} & set(check_columns(report[0], 60))


@pytest.mark.parametrize("width", [80, 60])
def test_profile(width) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages_with_a_long_name = nn.Sequential(nn.Conv2d(3, 2048, 1), nn.Conv2d(2048, 2048, 3))

        def forward(self, x):
            return self.stages_with_a_long_name(x)

    left_out = check_columns(profile(Network(), (1, 3, 16, 16), runs=1).table(), width)
    assert not {"parameters", "MACs (M)"} & set(left_out)
    assert width == 60 or not {"branch (M)", "mixing (M)", "ms"} & set(left_out)


@pytest.mark.parametrize("width", [80, 60])
def test_report_routing(width) -> None:
    alike = Correlation(torch.eye(4), torch.zeros(20))
    results = [
        LayerRouting(
            f"backbone.blocks.{block}.0.conv_pointwise_linear",
            "DynamicGroupConv2d",
            "attention over the K kernels",
            torch.rand(6, 4),
            torch.tensor([0, 0, 1, 1, 2, 2]),
            alike,
            alike,
            "static network",
            6,
        )
        for block in range(3)
    ]
    assert set(check_columns(make_routing_table(results), width)) <= {"kind", "coefficients"}


def test_quickstart() -> None:
    results = [
        Result(task, "mIoU", 0.123, 0.456, 12_345_600_000, 23_456_700_000, 1234.5, Path(f"quickstart/{task}.png"))
        for task in ("classification", "segmentation", "detection")
    ]
    out = io.StringIO()
    _print_results(Console(file=out, width=80), results, "mobilenetv4_conv_small_relu6", "kernelwarehouse", 3456)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    body = cells_of(lines)
    for result, row in zip(results, body, strict=True):
        assert {result.task, "mIoU", "0.123", "0.456"} <= set(row)
        assert "12345.6 M" in row or "MACs static" in out.getvalue().partition("left out")[2]


@pytest.mark.parametrize("width", [80, 50])
def test_results_of_an_evaluation(width) -> None:
    per_class = {name: {"accuracy": 0.1234, "images": 123456} for name in (LONG, "汽车", "[/b]")}
    module = SimpleNamespace(task="classification", metrics={"val": SimpleNamespace(per_class=per_class)})
    trainer = SimpleNamespace(is_global_zero=True, callback_metrics={"val/top1": 0.5, f"val/IoU/{LONG}": 0.25})
    out = io.StringIO()
    ResultsTable(Console(file=out, width=width))._print(trainer, module, "val")
    text = out.getvalue()
    lines = text.splitlines()
    assert max(map(len, lines)) <= width and "left out" not in text
    assert {"0.5000", "0.1234", "123456", "0.2500"} <= {cell for row in cells_of(lines) for cell in row}
    names = "".join(row[0] for row in cells_of(lines)).replace(" ", "")
    assert LONG.replace(" ", "") in names and "汽车" in names and "[/b]" in names


def split_of(name: str, classes: list[str]) -> SplitStatistics:
    split = SplitStatistics(name, classes)
    split.images = 123_456
    split.objects.update({index: 1_234_567 * index for index in range(len(classes))})
    return split


@pytest.mark.parametrize("width", [80, 60])
def test_data_check(width, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    classes = [LONG, "car", "bus"]
    findings = Findings(collect=True)
    findings.refused_because(
        "/data/flowers/annotations/instances_train2017.json", "boxes with a negative width", "ends here"
    )
    findings.warned("/data/flowers/train2017/000000000001.jpg", f"no object of {LONG}", "trained as it is", count=12)
    splits = [split_of(name, classes) for name in ("train2017", "val2017", "test2017")]
    print_report(Report(findings, splits, {}, "detection"), Path("/data/flowers"))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    body = cells_of(lines)
    counts = {cell for row in body if len(row) == 4 for cell in row}
    assert {"1234567", "2469134"} <= counts
    text = re.sub(r"\s", "", "".join(row[k] for k in range(4) for row in body if len(row) == 4))
    for part in ("annotations/instances_train2017.json", "boxes with a negative width", "refused", "warned 12x", LONG):
        assert part.replace(" ", "") in text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_names_that_the_terminal_cannot_write(encoding) -> None:
    table = make_table([replace(row, group="Verkehrsschild für 汽车") for row in rows_of("models", (1,))], "models")
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    Console(file=file, width=80).print(table)
    file.flush()
    lines = raw.getvalue().decode(encoding).splitlines()
    rows = [line for line in lines if line.startswith(("|", "+"))]
    assert len({len(line) for line in rows}) == 1 <= len(rows)
    assert max(map(len, lines)) <= 80
    assert "\\u6c7d\\u8f66" in "".join(line.split("|")[1].strip() for line in rows if line.startswith("|"))
