"""``dyvision benchmark`` on tiny networks: what it prints and writes, and what errors say. No time is asserted."""

from __future__ import annotations

import csv
import json

import pytest
import torch

from dyvision.cli import main
from dyvision.ops import native

TINY = ["--networks", "test_resnet", "--rounds=3", "--budget=1"]


@pytest.fixture
def measure(tmp_path, capsys):
    """Run the command; give its rows and what it printed."""

    def run(*arguments: str) -> tuple[list[dict], dict, str]:
        path = tmp_path / "rows.json"
        assert main(["benchmark", *arguments, f"--json={path}"]) == 0, capsys.readouterr().err
        content = json.loads(path.read_text())
        return content["rows"], content["machine"], capsys.readouterr().out

    return run


def test_models_as_table_csv_json_and_chart(measure, tmp_path) -> None:
    table, chart = tmp_path / "new" / "rows.csv", tmp_path / "new" / "chart.png"
    rows, machine, printed = measure(
        "models", *TINY, "--layers", "dcd", "odconv", "--input-size=32", "--batch", "1", "2", "--threads=1",
        f"--csv={table}", f"--plot={chart}",
    )  # fmt: skip
    assert [(row["name"], row["batch"]) for row in rows] == [
        ("dcd", 1), ("odconv K=4", 1), ("dcd", 2), ("odconv K=4", 2)
    ]  # fmt: skip
    for row in rows:
        assert row["what"] == "models" and row["group"] == "test_resnet" and row["reference"] == "static"
        assert 0 < row["low"] <= row["ratio"] <= row["high"] and row["reference_ms"] > 0
        assert row["rounds"] == 3 and row["input_size"] == 32 and row["memory_mib"] is None
    with table.open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows] == written
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert machine["threads"] == "1 thread" and machine["mode"] == "eager"
    first = printed.splitlines()[0]
    assert all(text in first for text in (machine["device"], f"torch {torch.__version__}", "float32", "contiguous"))
    assert f"{rows[0]['ratio']:.2f} [{rows[0]['low']:.2f}-{rows[0]['high']:.2f}]" in printed


def test_fused_networks_are_measured_beside_each_other(measure) -> None:
    rows, machine, _ = measure("models", *TINY, "--layers", "dyconv", "--input-size=32", "--batch=1", "--fuse")
    native_static = ["native static"] if native.available() else []  # ratios are to what PyTorch computes
    assert machine["mode"] == "fused, eager" and [row["name"] for row in rows] == ["dyconv K=4", *native_static]
    assert {row["reference"] for row in rows} == {"static"}


def test_training_measures_memory(measure) -> None:
    before = torch.get_num_threads()
    rows, machine, printed = measure(
        "training", *TINY, "--layers", "odconv", "--input-size=32", "--batch=4", "--dtype=bfloat16", "--channels-last"
    )
    (row,) = rows
    # four times the kernels, their gradients, and a mixture of each for every image
    assert row["memory_ratio"] > 2 and row["memory_mib"] > 1
    assert f"{row['memory_ratio']:.2f} ({row['memory_mib']:.0f} MiB)" in printed
    assert "memory: parameters, buffers" in printed
    assert (machine["dtype"], machine["memory_format"]) == ("bfloat16 by autocast", "channels_last")
    assert torch.get_num_threads() == before


def test_operators_with_every_formulation(measure, tmp_path) -> None:
    chart = tmp_path / "chart.svg"
    rows, _, printed = measure("operators", *TINY, "--input-size=32", "--batch=2", "--formulations", f"--plot={chart}")
    shapes = {row["group"]: row["note"] for row in rows if row["note"]}
    assert shapes["3>16 3x3 on 32x32 stride 2"] == "1x test_resnet"
    assert sum(int(note.partition("x")[0]) for note in shapes.values()) == 15  # all convolutions of the network
    for shape in shapes:
        own = {(row["name"], row["reference"]): row for row in rows if row["group"] == shape}
        assert {("mixture", "static"), ("dynamic", "static"), ("loop", "static")} <= set(own)
        assert (("timm", "static") in own) == (("mixture", "timm") in own) == ("1x1 on" in shape)
        best = own["mixture", "best formulation"]["best"]
        assert (best, "static") in own
    assert "geometric mean over the shapes" in printed and "best formulation" in printed
    assert b"<svg" in chart.read_bytes()


def test_geometric_means() -> None:
    from dyvision.analysis.benchmark.rows import Row, geometric_means

    rows = [
        Row("operators", group, "mixture", "static", batch, 224, ratio, ratio, ratio, 1.0, 3)
        for group, batch, ratio in (("a", 1, 2.0), ("b", 1, 8.0), ("a", 8, 3.0))
    ]
    assert geometric_means(rows) == {("mixture", "static"): {1: pytest.approx(4), 8: pytest.approx(3)}}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["models", "--rounds=2"], "--rounds must be at least 3, got 2"),
        (["models", "--batch", "4", "0"], "--batch must be at least 1, got 0"),
        (["training", "--batch", "1"], "--batch must be at least 2, got 1"),
        (["models", "--threads=0"], "--threads must be at least 1, got 0"),
        (["models", "--input-size=0"], "--input-size must be at least 1, got 0"),
        (["models", "--budget=0"], "--budget must be more than 0 seconds"),
        (["models", "--layers", "odcon"], "did you mean 'odconv'"),
        (["training", "--networks", "resnet81"], "unknown backbone 'resnet81' (did you mean 'resnet18'"),
        (["operators", "--networks", "resnet81"], "did you mean 'resnet18'"),
        (["operators", "--layers", "dcd"], "--layers applies to models and training"),
        (["models", "--set=bank=tucker"], "--set gives arguments of the layers of models and training: name these by"),
        (["operators", "--set=bank=tucker"], "--set gives arguments of the layers of models and training"),
        (["models", "--layers", "dcd", "--set=bank=tucker"], "DCDConv2d has no argument 'bank'"),
        (["training", "--fuse"], "--fuse applies to models, in evaluation mode, not to training"),
        (["models", "--formulations"], "--formulations applies to operators, not to models"),
        (["models", "--plot=chart.xyz"], "--plot chart.xyz: the suffix must be one of"),
        (["models", "--device=cuda:99"], "--device cuda:99 is not available here; there is cpu"),
        (["models", "--device=meta"], "--device must be cpu or cuda, not meta"),
    ],
)
def test_errors_are_one_line(arguments, text, capsys) -> None:
    assert main(["benchmark", *arguments]) == 2
    error = capsys.readouterr().err
    assert text in error and len(error.splitlines()) == 1
