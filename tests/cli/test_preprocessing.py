"""If these fail, a pretrained network sees images in another normalisation than it was trained with."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dyvision.backbones import create_model, default_preprocessing
from dyvision.cli import main
from dyvision.data import ImageFolderDataModule
from dyvision.tasks import ClassificationTask, DetectionTask
from tests.cli.small_runs import arguments, load, version

IMAGENET = [0.485, 0.456, 0.406]
SHORT = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--model.backbone=test_resnet")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """timm has a mean of 0.5, a crop of 0.95 and bilinear for this network."""
    path = tmp_path_factory.mktemp("weights") / "static.pth"
    torch.save(create_model("test_resnet", num_classes=5).state_dict(), path)
    return path


def data_of(folder: Path, number: int = 0, task: str = "classification") -> dict:
    return load(version(folder, number, task) / "checkpoints" / "last.ckpt")["datamodule_hyper_parameters"]


def test_images_as_the_weights_expect_them(weights, sample_data, place, capfd) -> None:
    logging.getLogger("dyvision").setLevel(logging.NOTSET)  # as whoever captured messages before may leave it
    assert main(arguments(sample_data, *SHORT, f"--model.pretrained={weights}", "--data.crop_ratio=0.8")) == 0
    kept = data_of(place)
    assert kept["mean"] == kept["std"] == [0.5] * 3  # as numbers
    assert kept["crop_ratio"] == 0.8 and kept["interpolation"] == "bilinear"  # what is typed wins
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("images as")]
    assert told == [
        "images as pretrained test_resnet expects them: mean 0.5 0.5 0.5, std 0.5 0.5 0.5, interpolation bilinear; "
        "as given: crop_ratio 0.8"
    ]
    # the config of the run says "as the weights expect" (null); the checkpoint knows what that was
    run = version(place)
    evaluated = ["validate", f"--config={run / 'config.yaml'}", f"--ckpt_path={run / 'checkpoints' / 'last.ckpt'}"]
    from dyvision.cli.trainer import run_trainer

    assert run_trainer("validate", [*evaluated[1:], "--sample_data=null"]).datamodule.mean == (0.5, 0.5, 0.5)
    # and so does whoever starts from that checkpoint, or evaluates it in Python
    task = ClassificationTask.load_from_checkpoint(run / "checkpoints" / "last.ckpt")
    assert task.preprocessing["crop_ratio"] == 0.8 and task.preprocessing["mean"] == [0.5] * 3
    found = default_preprocessing("mobilenetv2_035", run / "checkpoints" / "last.ckpt")
    assert found["mean"] == [0.5] * 3 and found["crop_ratio"] == 0.8


def test_from_scratch_nothing_changes(sample_data, place, capfd) -> None:
    assert main(arguments(sample_data, *SHORT)) == 0
    kept = data_of(place)
    assert kept["mean"] == IMAGENET and kept["interpolation"] is None
    assert "images as" not in capfd.readouterr().err


def test_segmentation_and_detection(weights, sample_data, place) -> None:
    options = (*SHORT, f"--model.pretrained={weights}")
    assert main(arguments(sample_data, *options, "--model.head=fcn", task="segmentation")) == 0
    assert data_of(place, task="segmentation")["mean"] == [0.5] * 3
    task = DetectionTask("test_resnet", num_classes=2, pretrained=str(weights), head="fcos", fpn_channels=16)
    assert task.hparams.image_mean == task.hparams.image_std == [0.5] * 3
    assert DetectionTask("test_resnet", num_classes=2, head="fcos", fpn_channels=16).hparams.image_mean is None


def test_interpolation_is_that_of_the_default_pipelines(sample_data) -> None:
    root = sample_data / "imagenet"
    images = {
        name: ImageFolderDataModule(root, image_size=24, num_workers=0, interpolation=name)
        for name in (None, "bicubic", "nearest")
    }
    first = {}
    for name, module in images.items():
        module.setup("validate")
        first[name] = module.datasets["val"][0]["image"]
    assert not torch.equal(first[None], first["bicubic"]) and not torch.equal(first["nearest"], first["bicubic"])
    with pytest.raises(ValueError, match=r"interpolation='bicubik': expected one of nearest.*bicubic"):
        ImageFolderDataModule(root, interpolation="bicubik")


def test_what_the_weights_do_not_say_is_not_told_as_theirs(caplog) -> None:
    caplog.set_level(logging.INFO, "dyvision.data")
    offered = {"mean": IMAGENET, "std": [0.5] * 3, "crop_ratio": 1.0, "source": "a.ckpt"}  # no interpolation
    for given, told in (
        ({"mean": IMAGENET, "std": [0.5] * 3, "crop_ratio": 1.0}, []),
        (
            {"mean": IMAGENET, "std": [0.5] * 3},
            ["images as a.ckpt expects them: crop_ratio 1.0; as given: mean 0.485 0.456 0.406, std 0.5 0.5 0.5"],
        ),
    ):
        data = ImageFolderDataModule("data", **given)
        data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(preprocessing=offered))
        for _ in range(2):  # every stage sets it up again
            data.take_preprocessing()
        assert [record.getMessage() for record in caplog.records] == told
        assert data.hparams["crop_ratio"] == 1.0 and data.hparams["interpolation"] is None
        caplog.clear()
