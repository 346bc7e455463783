"""If these fail, ``dyvision profile`` counts another network than the one it names."""

from __future__ import annotations

import json

import pytest
import torch

from dyvision import create_model
from dyvision.analysis import profile
from dyvision.cli import main
from dyvision.tasks import DetectionTask, SegmentationTask
from tests.cli.small_runs import arguments

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


def test_a_factorised_bank_by_its_options(capsys) -> None:
    options = ["--layer=dyconv", "--set=bank=tucker", "--set=rank=0.25", *SMALL, "--json=-"]
    assert main(["profile", "mobilenetv2_035", *options]) == 0, capsys.readouterr().err
    found = json.loads(capsys.readouterr().out)
    model = create_model("mobilenetv2_035", "dyconv", bank="tucker", rank=0.25)
    assert found["params"] == sum(parameter.numel() for parameter in model.parameters())
    assert found["macs"] == profile(model, (1, 3, 64, 64), latency=False).macs
    assert main(["profile", "mobilenetv2_035", "--layer=dyconv", "--set=bank=tucker", "--set=rank=2.5", *SMALL]) == 2
    assert "DyConv2d: rank must be a share of the channels" in capsys.readouterr().err


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


#: arguments of the training -> the size that evaluation brings images to
SIZES = {
    "classification": (["--data.image_size=48"], [48, 48]),
    "segmentation": (["--data.crop_size=[48,64]"], [48, 64]),
    "detection": (["--data.image_size=96"], [96, 96]),
}


@pytest.mark.parametrize("task", SIZES)
def test_a_checkpoint_is_counted_for_its_own_images(task, trained, tmp_path, capsys) -> None:
    options, size = SIZES[task]
    checkpoint, file = trained(task, "static", *options), tmp_path / "numbers.json"
    assert main(["profile", str(checkpoint), "--no-latency", f"--json={file}"]) == 0, capsys.readouterr().err
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["input_size"] == [1, 3, *size]
    assert f"For images of {size[0]}x{size[1]} (" in capsys.readouterr().out
    assert main(["profile", str(checkpoint), "--no-latency", "--image-size=32x96", f"--json={file}"]) == 0
    assert json.loads(file.read_text(encoding="utf-8"))["input_size"] == [1, 3, 32, 96]
    assert "For images of 32x96 (--input-size)" in capsys.readouterr().out
    assert main(["dynamize", str(checkpoint), "--layer=dyconv", "--dry-run", f"--json={file}"]) == 0
    assert json.loads(file.read_text(encoding="utf-8"))["input_size"] == [1, 3, *size]
    assert f"image of {size[0]}x{size[1]} (" in capsys.readouterr().out


def test_a_checkpoint_whose_data_is_not_known_is_counted_all_the_same(trained, tmp_path, capsys) -> None:
    content = torch.load(trained("classification", "static"), weights_only=True)
    content["datamodule_hyper_parameters"]["eval_transform"] = [{"os.system": {}}]
    torch.save(content, tmp_path / "stranger.ckpt")
    assert main(["profile", str(tmp_path / "stranger.ckpt"), "--no-latency"]) == 0, capsys.readouterr().err
    printed = " ".join(capsys.readouterr().out.split())
    assert "For images of 224x224 (" in printed and "os.system" in printed and "--input-size for others" in printed


@pytest.mark.parametrize("command", [["profile"], ["dynamize", "--layer=dyconv", "--dry-run"]])
def test_the_newest_run_is_found(command, sample_data, place, capsys) -> None:
    assert main([command[0], "last", *command[1:]]) == 2
    assert "looked for runs in runs/*/version_*" in capsys.readouterr().err
    short = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=1")
    assert main(arguments(sample_data, *short)) == 0
    capsys.readouterr()
    for kind in ("last", "best"):
        assert main([command[0], kind, *command[1:], "--json=numbers.json"]) == 0, capsys.readouterr().err
        assert json.loads((place / "numbers.json").read_text(encoding="utf-8"))["input_size"] == [1, 3, 32, 32]
    if command == ["profile"]:  # what is printed is JSON and nothing else
        capsys.readouterr()
        assert main(["profile", "last", "--json=-", "--no-latency"]) == 0
        assert json.loads(capsys.readouterr().out)["input_size"] == [1, 3, 32, 32]


def test_a_run_folder_leads_to_its_checkpoint(trained, capsys) -> None:
    folder = trained("classification", "static").parents[1]
    assert main(["profile", str(folder)]) == 2
    assert "did you mean" in capsys.readouterr().err


@pytest.mark.parametrize("layers", [["--layer=dcd"], ["--layer=dcd", "--layer=se"]])
def test_the_caption_is_about_what_was_measured(layers, capsys) -> None:
    small = ["profile", "test_efficientnet", "--input-size=32", *layers]
    assert main([*small, "--no-latency"]) == 0
    assert "Latency" not in capsys.readouterr().out
    assert main(small) == 0
    assert "Latency: median" in " ".join(capsys.readouterr().out.split())
