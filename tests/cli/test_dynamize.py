"""If these fail, the dry run says something else than what a conversion does, or wrong words end in a traceback."""

from __future__ import annotations

import json

import pytest

from dyvision.backbones import create_model
from dyvision.cli.parser import run_command
from dyvision.convert import dynamize
from dyvision.layers import DynamicConv2d

BASE = ["dynamize", "mobilenetv2_035", "--dry-run", "--input-size", "64"]


def test_it_shows_what_dynamize_does(tmp_path, capsys) -> None:
    file = tmp_path / "report.json"
    run_command([*BASE, "--layer", "dyconv", "--policy", "pointwise", "--set", "num_kernels=2", "--json", str(file)])
    model = dynamize(create_model("mobilenetv2_035"), "dyconv", "pointwise", num_kernels=2)
    names = [name for name, module in model.named_modules() if isinstance(module, DynamicConv2d)]
    found = json.loads(file.read_text(encoding="utf-8"))
    assert [row["name"] for row in found["rows"]] == names
    assert found["params_after"] == sum(p.numel() for p in model.parameters())
    assert found["macs_after"] > found["macs_before"] > 0
    shown = capsys.readouterr().out
    assert "whole network" in shown and all(name in shown for name in names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layer", "dyconf"], "dyconv"),
        (["--layer", "dyconv", "--set", "num_kernel=2"], "num_kernels"),
        (["--layer", "dyconv", "--set", "return_report=0"], "return_report"),
        (["--layer", "dyconv", "--set", "num_kernels=zero"], "num_kernels"),
        (["--layer", "dyconv", "--set", "num_kernels"], "NAME=VALUE"),
        (["--layer", "dyconv", "--policy", "layer9.*"], "layer9"),
        (["--layer", "dyconv", "--input-size", "0"], "--input-size"),
    ],
)
def test_wrong_words_are_one_line(words, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        run_command([*BASE, *words])
    assert "\n" not in str(caught.value)
