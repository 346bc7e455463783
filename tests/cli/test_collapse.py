"""If these fail, a collapsed checkpoint is not the task that was collapsed, or its figures are of something else."""

from __future__ import annotations

import json
import logging
import os
import signal
import time

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from dyvision.cli import main
from dyvision.cli._sections import take_sections
from dyvision.layers import DynamicConv2d
from dyvision.tasks import ClassificationTask, DetectionTask, SegmentationTask
from tests.export.test_full_disk import files_of_at_most

QUICK = ["--images=4", "--rounds=3", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
CLASSES = {"classification": ClassificationTask, "segmentation": SegmentationTask, "detection": DetectionTask}


@pytest.mark.parametrize(
    ("task", "layer"), [("classification", "condconv"), ("segmentation", "dcd"), ("detection", "dyconv")]
)
def test_a_checkpoint_of_the_same_task(task, layer, trained, tmp_path, capsys, monkeypatch, caplog) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "dyvision")
    source, file, numbers = trained(task, layer), tmp_path / "static.ckpt", tmp_path / "numbers.json"
    command = [
        "collapse",
        "--data.num_workers",
        "0",
        str(source),
        "--output",
        str(file),
        "--json",
        str(numbers),
        *QUICK,
    ]
    assert main([*command, "--trainer.limit_val_batches=2"]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert f"dynamic, {layer}" in printed and "BatchNorm statistics" in printed
    assert printed.splitlines()[-1] == f"go on: dyvision export {file}"
    steps = [record.getMessage() for record in caplog.records if record.getMessage().endswith(" ...")]
    assert (
        steps[:2]
        == [
            "evaluating the dynamic network on the validation split ...",
            "averaging coefficients over 4 training images ...",
        ]
        and steps[-1] == "measuring how long both take ..."
    )
    before, static = (CLASSES[task].load_from_checkpoint(path) for path in (source, file))
    assert not any(isinstance(module, DynamicConv2d) for module in static.modules())
    assert (static.hparams.layer, static.hparams.layer_kwargs, static.hparams.policy) == ("static", None, None)
    same = ("backbone", "head", "class_names", "num_classes", "lr")
    assert all(static.hparams.get(name) == before.hparams.get(name) for name in same)

    found = json.loads(numbers.read_text(encoding="utf-8"))
    assert found["collapsed"]["parameters"] == sum(p.numel() for p in static.network.parameters())
    assert found["dynamic"]["macs"] > found["collapsed"]["macs"] > 0
    assert found["calibration_images"] == 4 and 1 <= found["comparison_images"] <= 4
    assert {path.name for path in tmp_path.iterdir()} == {"static.ckpt", "numbers.json"}
    # what the table says is what validate says of the file
    json_file = tmp_path / "validate.json"
    options = ["--trainer.accelerator=cpu", "--trainer.limit_val_batches=2", "--trainer.enable_progress_bar=false"]
    assert main(["validate", f"--ckpt_path={file}", f"--json={json_file}", *options]) == 0, capsys.readouterr().err
    validated = json.loads(json_file.read_text(encoding="utf-8"))["metrics"]
    metric = found["metric"].partition("/")[2]
    assert validated[metric] == pytest.approx(found["collapsed"]["metrics"][found["metric"]], abs=1e-6)
    # and fit starts from its weights
    more = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false"]
    assert main(["fit", f"--ckpt_path={file}", *more, "--model.lr=0", "--trainer.accelerator=cpu"]) == 0
    assert "goes on after" in capsys.readouterr().out


def test_the_function_is_that_of_the_averages_and_timm_takes_the_weights(trained, tmp_path, capsys) -> None:
    source, weights = trained("classification", "dyconv"), tmp_path / "weights.safetensors"
    file = tmp_path / "static.ckpt"
    command = ["collapse", str(source), f"--weights={weights}", f"--output={file}", "--batchnorm=keep", *QUICK]
    assert main([*command, "--trainer.limit_val_batches=1"]) == 0, capsys.readouterr().err
    assert "kept, not compared" in capsys.readouterr().out
    task = ClassificationTask.load_from_checkpoint(file)
    model = timm.create_model("mobilenetv2_035", num_classes=task.hparams.num_classes)
    model.load_state_dict(load_file(weights))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), task.eval()(x), rtol=1e-4, atol=1e-5)
    dynamic = ClassificationTask.load_from_checkpoint(source).eval()
    norms = [m for m in dynamic.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == len([m for m in task.modules() if isinstance(m, nn.BatchNorm2d)])


def test_norms_are_estimated_anew_on_request(trained, tmp_path, capsys) -> None:
    source = trained("classification", "dyconv")
    states = {}
    for choice in ("keep", "reestimate"):
        file = tmp_path / f"{choice}.ckpt"
        command = ["collapse", str(source), f"--output={file}", f"--batchnorm={choice}", *QUICK]
        assert main([*command, "--trainer.limit_val_batches=1"]) == 0, capsys.readouterr().err
        states[choice] = ClassificationTask.load_from_checkpoint(file).state_dict()
    keep, anew = states["keep"], states["reestimate"]
    changed = {name.rpartition(".")[2] for name in keep if not torch.equal(keep[name], anew[name])}
    assert {"running_mean", "running_var"} <= changed <= {"running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.parametrize(
    ("layer", "message"),
    [("static", "no dynamic layers"), ("drconv", "cannot become ordinary convolutions"), ("sk", "no checkpoint with")],
)
def test_what_is_no_static_network_is_one_line(layer, message, trained, tmp_path, capsys) -> None:
    file = tmp_path / "static.ckpt"
    file.write_text("before")
    assert main(["collapse", str(trained("classification", layer)), f"--output={file}", *QUICK]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "last.ckpt" in error and "\n" not in error
    assert file.read_text() == "before"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no.ckpt"], "no.ckpt"),
        (["x.ckpt", "--images=0"], "--images must be at least 1"),
        (["x.ckpt", "--rounds=2"], "--rounds must be at least 3"),
        (["x.ckpt", "--weights=w.pt"], "safetensors"),
        (["x.ckpt", "--output=/"], "--output /: a folder"),
        (["x.ckpt", "--imags=1"], "--imags"),
    ],
)
def test_wrong_words_are_one_line(words, message, capsys) -> None:
    assert main(["collapse", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


def test_options_of_the_data_stand_anywhere() -> None:
    words = ["--data.root", "DIR", "x.ckpt", "--json", "f", "--trainer.accelerator=cpu", "--data.flag", "--images", "2"]
    own, taken = take_sections(words, ("data", "trainer"))
    assert own == ["x.ckpt", "--json", "f", "--images", "2"]
    assert taken == ["--data.root=DIR", "--trainer.accelerator=cpu", "--data.flag"]


@pytest.mark.parametrize("option", ["--output", "--json"])
def test_the_checkpoint_is_never_replaced(option, trained, tmp_path, capsys) -> None:
    source = tmp_path / "link.ckpt"
    source.symlink_to(trained("classification", "dyconv"))
    before = source.read_bytes()
    assert main(["collapse", str(source), f"{option}={source.resolve()}", *QUICK]) == 2
    assert f"{option} {source.resolve()}: the file that is read, which would be lost" in capsys.readouterr().err
    assert source.read_bytes() == before


@pytest.fixture
def interruptible():
    """Lightning ignores Ctrl-C from the first one on: before, in another test of this process, and afterwards."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("where", ["evaluating", "averaging", "measuring"])
def test_an_interrupt_is_one_line_and_leaves_the_earlier_file(where, trained, tmp_path, capsys, monkeypatch) -> None:
    source, file = trained("classification", "dyconv"), tmp_path / "static.ckpt"
    file.write_text("before")

    def interrupt(*_, **__):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)  # the signal comes within it

    target = {
        "evaluating": "dyvision.tasks.ClassificationTask.validation_step",
        "averaging": "dyvision.cli._collapsing.calibration_datasets",
        "measuring": "dyvision.cli._collapsing._time",
    }[where]
    monkeypatch.setattr(target, interrupt)
    command = ["collapse", str(source), f"--output={file}", "--weights", str(tmp_path / "w.safetensors"), *QUICK]
    assert main([*command, "--trainer.limit_val_batches=1"]) == 130
    assert [line for line in capsys.readouterr().err.splitlines() if not line.endswith(" ...")] == [
        "dyvision: interrupted"
    ]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"static.ckpt": "before"}


@pytest.mark.parametrize("name", ["static.ckpt", "weights.safetensors"])
def test_a_full_disk_is_one_line_and_leaves_the_earlier_file(name, trained, tmp_path, capsys, monkeypatch) -> None:
    pytest.importorskip("resource")
    monkeypatch.setenv("TMPDIR", str(tmp_path.parent))
    source, file = trained("classification", "dyconv"), tmp_path / name
    file.write_text("before")
    option = "--output" if name.endswith(".ckpt") else "--weights"
    with files_of_at_most(20_000):
        status = main(["collapse", str(source), f"{option}={file}", *QUICK, "--trainer.limit_val_batches=1"])
    assert status == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.endswith(" ...")]
    assert line.startswith("dyvision: error: ") and name in line and "File too large" in line
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "before"}


def test_weights_that_overflow_name_their_file_once(trained, tmp_path, capsys) -> None:
    content = torch.load(trained("detection", "dyconv"), weights_only=True)
    for name, value in content["state_dict"].items():
        if name.endswith("running_var"):
            value.fill_(1e-30)
        elif value.ndim == 4:
            value.mul_(1e15)
    source = tmp_path / "weights.ckpt"
    torch.save(content, source)
    assert main(["collapse", str(source), *QUICK, "--trainer.limit_val_batches=1"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dyvision: error")]
    assert "the network's outputs are not finite for " in line and line.count(str(source)) == 1
