"""``dyvision report routing`` on checkpoints as training writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dyvision.cli import main

SMALL = ["--trainer.accelerator=cpu", "--data.num_workers=0", "--data.batch_size=4", "--model.backbone=mobilenetv2_035"]


@pytest.fixture(scope="module")
def train(sample_data, tmp_path_factory):
    """One step on the sample data; gives the checkpoint."""

    def run(task: str, layer: str) -> Path:
        folder = tmp_path_factory.mktemp("run")
        root, size = {
            "classification": ("imagenet", ["--data.image_size=32"]),
            "segmentation": ("cityscapes", ["--data.crop_size=[64,64]"]),
            "detection": ("coco", []),
        }[task]
        fit = ["fit", f"--config={task}/quickstart.yaml", "--sample_data=null", f"--data.root={sample_data / root}"]
        fit += [*size, *SMALL, f"--model.layer={layer}", f"--trainer.default_root_dir={folder}"]
        fit += ["--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false"]
        assert main(fit) == 0
        return folder / task / "version_0" / "checkpoints" / "last.ckpt"

    return run


def test_classification_against_a_static_network(train, tmp_path, capsys) -> None:
    dynamic, static = train("classification", "dyconv"), train("classification", "static")
    command = ["report", "routing", str(dynamic), f"--static={static}", f"--output={tmp_path}", "--images=9"]
    assert main([*command, "--layers", "*blocks.3.*", "*blocks.4.*"]) == 0, capsys.readouterr().err
    numbers = json.loads((tmp_path / "routing.json").read_text())
    assert len(numbers["classes"]) > 1 and numbers["layers"]
    for layer in numbers["layers"]:
        assert layer["images"] == 9 and layer["static_source"] == "static network"
        assert ".3." in layer["layer"] or ".4." in layer["layer"]
        assert 0 <= layer["mean_abs_correlation_dynamic"] <= 1
        assert len(layer["class_means"]) == len(numbers["classes"])
    for name in ("correlation.png", "coefficients.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    # without the modules that all layers are in
    printed = capsys.readouterr().out
    assert all(layer["layer"].partition("blocks.")[2] in printed for layer in numbers["layers"])

    assert main(["report", "routing", str(static), f"--output={tmp_path / 'no'}"]) == 2
    assert "no layer here has coefficients to report" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_tasks_without_classes_per_image(task, train, tmp_path, capsys) -> None:
    checkpoint = train(task, "dcd")
    command = ["report", "routing", str(checkpoint), f"--output={tmp_path}", "--images=3", "--layers", "*blocks.2.*"]
    assert main(command) == 0, capsys.readouterr().err
    numbers = json.loads((tmp_path / "routing.json").read_text())
    assert all(layer["class_means"] is None and layer["images"] == 3 for layer in numbers["layers"])
    assert (tmp_path / "coefficients.png").is_file()


def test_wrong_requests(tmp_path, capsys) -> None:
    assert main(["report", "routing", str(tmp_path / "no.ckpt")]) == 2
    assert "no.ckpt" in capsys.readouterr().err
    assert main(["report", "routing", "x.ckpt", "--images=0"]) == 2
    assert "--images must be at least 1" in capsys.readouterr().err
