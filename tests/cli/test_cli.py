"""The command as users call it: fit, validate and predict for each task on tiny generated data, and what errors say."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dyvision.cli import main

SMALL = ["--trainer.accelerator=cpu", "--data.num_workers=0", "--data.batch_size=4", "--model.backbone=mobilenetv2_035"]
FORMATS = {"classification": "imagenet", "segmentation": "cityscapes", "detection": "coco"}


@pytest.mark.parametrize("task", FORMATS)
def test_fit_validate_predict(task, sample_data, tmp_path, capsys) -> None:
    root = sample_data / FORMATS[task]
    images = {"imagenet": root / "val", "cityscapes": root / "leftImg8bit" / "val", "coco": root / "val2017"}[
        FORMATS[task]
    ]
    common = [f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false", *SMALL]
    size = {"segmentation": ["--data.crop_size=[64,64]"], "classification": ["--data.image_size=32"]}.get(task, [])
    fit = ["fit", f"--config={task}/quickstart.yaml", "--sample_data=null", f"--data.root={root}", *size, *common]
    assert main([*fit, "--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1"]) == 0, capsys.readouterr().err
    checkpoint = tmp_path / task / "version_0" / "checkpoints" / "last.ckpt"
    assert checkpoint.is_file()
    assert main(["validate", f"--ckpt_path={checkpoint}", *common]) == 0, capsys.readouterr().err
    output = tmp_path / "predictions"
    predict = ["predict", f"--ckpt_path={checkpoint}", f"--data.predict_root={images}", f"--output={output}", *common]
    assert main(predict) == 0, capsys.readouterr().err
    assert any(path.is_file() for path in output.rglob("*"))


def test_typed_options_beat_the_checkpoint(sample_data, tmp_path, capsys) -> None:
    from dyvision.cli.trainer import TaskCLI, read_request

    root = [f"--data.root={sample_data / 'imagenet'}", f"--trainer.default_root_dir={tmp_path}", "--sample_data=null"]
    fit = [
        "fit",
        "--config=classification/quickstart.yaml",
        *root,
        *SMALL,
        "--data.image_size=32",
        "--model.layer=dyconv",
    ]
    assert main([*fit, "--trainer.max_steps=1", "--trainer.enable_progress_bar=false"]) == 0, capsys.readouterr().err
    checkpoint = f"--ckpt_path={tmp_path / 'classification' / 'version_0' / 'checkpoints' / 'last.ckpt'}"
    config = "--config=classification/quickstart.yaml"
    run = TaskCLI("validate", read_request([config, checkpoint, *root]))
    assert run.model.hparams.layer == "dyconv" and run.model.hparams.backbone == "mobilenetv2_035"
    run = TaskCLI("validate", read_request([config, checkpoint, *root, "--model.lr=0.5"]))
    assert run.model.hparams.lr == 0.5
    assert main(["validate", config, checkpoint, *root, "--model.layer=static"]) == 2
    assert "dyconv" in capsys.readouterr().err
    assert main(["validate", "--config=segmentation/quickstart.yaml", checkpoint, *root]) == 2
    assert "the checkpoint is one of task 'classification'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["fit"], "which task"),
        (["fit", "--modle.lr=3"], "unknown option: --modle.lr (did you mean 'model.lr'?)"),
        (["predict", "--weights", "X"], "unknown option: --weights (did you mean 'ckpt_path' or"),
        (["predict", "--imgsz=64"], "unknown option: --imgsz (did you mean 'data.image_size'"),
        (
            ["validate", "--data.root=x"],
            "validate needs trained weights: give --ckpt_path FILE, last or best, or",
        ),
        (["fit", "--task=segmentaton"], "did you mean 'segmentation'"),
        (["fit", "--config=nowhere.yaml"], "no config 'nowhere.yaml'"),
        (["validate", "--ckpt_path=nowhere.ckpt"], "no such file"),
        (["fit", "--task=segmentation", "--model.layer=dcdd", "--data.root=x"], "did you mean 'dcd'"),
        (
            ["fit", "--task=segmentation", "--model.num_classes=3", "--model.head=deeplabv4", "--data.root=x"],
            "deeplabv3",
        ),
        (
            [
                "fit",
                "--task=classification",
                "--model.backbone=mobilnetv2_100",
                "--model.num_classes=3",
                "--data.root=x",
            ],
            "mobilenetv2_100",
        ),
        (["fit", "--task=detection", "--data.root=nowhere"], "nowhere"),
        (["list", "layers", "xyz*"], "no layers match"),
    ],
)
def test_errors_are_one_line_with_the_fix(arguments, text, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dyvision: error:")]
    assert len(lines) == 1 and text in lines[0]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list", "layers"], ["list", "backbones"], ["list", "configs"], ["list", "heads"]]
)
def test_starts_without_lightning(arguments) -> None:
    code = (
        "import sys\nfrom dyvision.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "assert 'lightning' not in sys.modules, 'lightning was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_data_commands(sample_data, tmp_path) -> None:
    sheet = tmp_path / "sheet.png"
    assert main(["data", "show", str(sample_data / "coco"), "--split=val", f"--output={sheet}", "--count=4"]) == 0
    assert sheet.stat().st_size > 1000
    copy = tmp_path / "mine.yaml"
    assert main(["config", "cp", "segmentation/quickstart.yaml", str(copy)]) == 0
    assert "SegmentationTask" not in copy.read_text() and "head: lraspp" in copy.read_text()
