"""If these fail, ``dyvision profile`` counts another network than the one it names."""

from __future__ import annotations

import json

import pytest

from dyvision import create_model
from dyvision.analysis import profile
from dyvision.cli import main
from dyvision.tasks import DetectionTask, SegmentationTask

SMALL = ["--input-size=64", "--no-latency"]


def test_several_layers_are_a_row_each(tmp_path, capsys) -> None:
    file = tmp_path / "numbers.json"
    layers = ["--layer", "static", "--layer", "dyconv", "--set", "num_kernels=2"]
    assert main(["profile", "mobilenetv2_035", *layers, *SMALL, f"--json={file}"]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "conv_stem" not in printed and "dyconv" in printed
    static, dynamic = json.loads(file.read_text(encoding="utf-8"))["networks"]
    expected = profile(create_model("mobilenetv2_035", "dyconv", num_kernels=2), (1, 3, 64, 64), latency=False)
    assert (dynamic["layer"], dynamic["params"], dynamic["macs"]) == ("dyconv", expected.params, expected.macs)
    assert static["layer"] == "static" and 0 < static["macs"] < dynamic["macs"]
    assert f"{expected.params:,}" in printed and f"{dynamic['macs'] / static['macs']:.2f}" in printed


def test_one_layer_is_written_as_ever(capsys) -> None:
    assert main(["profile", "mobilenetv2_035", "--layer=dcd", *SMALL, "--json=-"]) == 0, capsys.readouterr().err
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["layer"]) == ("mobilenetv2_035", "dcd") and found["layers"]


@pytest.mark.parametrize(
    ("name", "cls", "layer"), [("segmentation", SegmentationTask, "dcd"), ("detection", DetectionTask, "static")]
)
def test_a_checkpoint_is_its_whole_network(name, cls, layer, trained, tmp_path, capsys) -> None:
    checkpoint, file = trained(name, layer), tmp_path / "numbers.json"
    assert main(["profile", str(checkpoint), *SMALL, f"--json={file}"]) == 0, capsys.readouterr().err
    found = json.loads(file.read_text(encoding="utf-8"))
    network = cls.load_from_checkpoint(checkpoint).network
    assert found["params"] == sum(parameter.numel() for parameter in network.parameters())
    assert found["layer"] == layer and found["macs"] > 0 and "mobilenetv2_035" in found["model"]
    head = "head" if name == "segmentation" else "roi_heads"
    assert any(head in row["name"] and row["macs"] for row in found["layers"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mobilenetv2_035", "--layer=dyconf"], "dyconv"),
        (["mobilenetv2_035", "--layer=dyconv", "--set=kernels=2"], "num_kernels"),
        (["mobilenetv2_035", "--set=num_kernels=2"], "--layer"),
        (["missing.ckpt"], "missing.ckpt"),
        (["missing.ckpt", "--layer=dcd"], "has its own layers"),
        (["mobilenetv2_035", "--layer=dcd", "--layer=static", "--picture=x.png"], "--picture"),
    ],
)
def test_wrong_words_are_one_line(words, message, capsys) -> None:
    assert main(["profile", *words, *SMALL]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
