"""If these fail, the dry run says something else than what a conversion does, or wrong words end in a traceback."""

from __future__ import annotations

import json

import pytest
import torch

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


def _run(*words: str) -> None:
    run_command(["dynamize", *words, "--layer", "dyconv", "--dry-run", "--input-size", "64"])


def test_a_checkpoint_says_its_network_itself(tmp_path, capsys) -> None:
    from dyvision.tasks import SegmentationTask

    task = SegmentationTask("mobilenetv2_035", head="fcn", num_classes=3, in_chans=1)
    content = {"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams), "task": "segmentation"}
    torch.save({**content, "pytorch-lightning_version": "2.6.0", "epoch": 0, "global_step": 1}, tmp_path / "last.ckpt")
    _run(str(tmp_path / "last.ckpt"))
    shown = capsys.readouterr().out
    assert "backbone mobilenetv2_035" in shown and "body.blocks.1.0.conv_pw" in shown
    with pytest.raises(ValueError, match="leave --network out"):
        _run(str(tmp_path / "last.ckpt"), "--network", "mobilenetv2_035")


def test_weights_need_the_name_of_their_network(tmp_path, capsys) -> None:
    state = {f"module.{name}": value for name, value in create_model("mobilenetv2_035").state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="add --network NAME"):
        _run(str(tmp_path / "weights.pth"))
    with pytest.raises(ValueError, match=r"--network mobilenetv2_050: .*weights.pth does not fit"):
        _run(str(tmp_path / "weights.pth"), "--network", "mobilenetv2_050")
    _run(str(tmp_path / "weights.pth"), "--network", "mobilenetv2_035")
    assert "mobilenetv2_035 with the weights of" in capsys.readouterr().out


def test_programs_and_objects_are_refused_by_name(tmp_path) -> None:
    conv = torch.nn.Conv2d(3, 3, 1)
    torch.jit.trace(conv, torch.zeros(1, 3, 4, 4)).save(tmp_path / "traced.pt")
    torch.export.save(torch.export.export(conv, (torch.zeros(1, 3, 4, 4),)), tmp_path / "program.pt2")
    torch.save(conv, tmp_path / "object.pth")
    for name, reason in [
        ("traced.pt", "TorchScript program"),
        ("program.pt2", "program of torch.export"),
        ("object.pth", "could run code, so it is refused"),
        ("missing.ckpt", "no such file"),
    ]:
        with pytest.raises((ValueError, OSError), match=f"{name}.*{reason}") as caught:
            _run(str(tmp_path / name))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="is no file"):
        _run("mobilenetv2_035", "--network", "resnet18")
