"""If these fail, classification trains on wrong labels, or a user cannot tell what is wrong with a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dyvision.data import DataError, ImageFolderDataModule


def module(root: Path, **options: Any) -> ImageFolderDataModule:
    return ImageFolderDataModule(root, **{"batch_size": 2, "num_workers": 0, "image_size": 16, **options})


def test_labels_follow_the_folders(folder: Path) -> None:
    data = module(folder, train_transform=[{"Resize": {"height": 8, "width": 8}}], mean=(0, 0, 0), std=(1, 1, 1))
    data.setup("fit")
    assert (data.num_classes, data.class_names, data.class_ids) == (2, ["cat", "dog"], [0, 1])
    assert len(data.class_colors) == 2
    dataset = data.datasets["train"]
    seen = [
        (Path(s["path"]).parent.name, s["label"], round(float(s["image"].mean()) * 255))
        for s in map(dataset.__getitem__, range(6))
    ]
    assert seen == [("cat", 0, 0), ("cat", 0, 40), ("cat", 0, 80), ("dog", 1, 0), ("dog", 1, 40), ("dog", 1, 80)]


def test_the_batch_is_what_the_task_expects(folder: Path) -> None:
    data = module(folder)
    data.setup("fit")
    for loader, size in ((data.train_dataloader(), 2), (data.val_dataloader(), 2)):
        batch = next(iter(loader))
        assert batch["image"].shape == (size, 3, 16, 16)
        assert batch["image"].dtype == torch.float32
        assert batch["label"].dtype == torch.int64
        assert batch["valid"].tolist() == [True, True]
        assert all(isinstance(path, str) and Path(path).is_file() for path in batch["path"])
        assert set(batch) == {"image", "label", "path", "valid"}


def test_evaluation_sees_every_image_once_in_order(sample_data: Path) -> None:
    data = module(sample_data / "imagenet", batch_size=5)
    data.setup("validate")
    batches = list(data.val_dataloader())
    paths = [path for batch in batches for path in batch["path"]]
    assert paths == sorted(str(path) for path in (sample_data / "imagenet" / "val").rglob("*.*g"))
    assert len(batches[-1]["path"]) == (len(paths) - 1) % 5 + 1


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.png", "a.webp", "a.bmp", "deeper/still/a.jpeg"])
def test_any_image_file_at_any_depth(folder: Path, save: Any, name: str) -> None:
    save(folder / "train" / "cat" / name)
    save(folder / "train" / "cat" / "._a.png")
    (folder / "train" / "cat" / "notes.txt").write_text("no image")
    data = module(folder)
    data.setup("fit")
    assert len(data.datasets["train"]) == 7


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1", "CMYK", "I;16"])
def test_every_colour_mode_becomes_rgb(folder: Path, mode: str) -> None:
    from PIL import Image

    if mode == "I;16":
        Image.fromarray(np.full((20, 30), 128 * 257, np.uint16)).save(folder / "val" / "cat" / "x.png")
    else:
        suffix = "jpg" if mode == "CMYK" else "png"
        Image.new("RGB", (30, 20), (128, 128, 128)).convert(mode).save(folder / "val" / "cat" / f"x.{suffix}")
    data = module(folder, mean=(0, 0, 0), std=(1, 1, 1))
    data.setup("validate")
    image = data.datasets["val"][1]["image"]
    assert image.shape == (3, 16, 16)
    if mode != "1":
        assert float(image.mean()) == pytest.approx(128 / 255, abs=0.02)


def test_validation_alone_takes_the_classes_of_training(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder / "val" / "cat")
    data = module(folder)
    with pytest.warns(UserWarning, match="1 classes have no image here: cat"):
        data.setup("validate")
    assert data.datasets["val"][0]["label"] == 1
    shutil.rmtree(folder / "train")
    data = module(folder)
    data.setup("validate")
    assert data.class_names == ["dog"]


def test_a_validation_class_without_training(folder: Path, save: Any) -> None:
    save(folder / "val" / "dgo" / "1.png")
    with pytest.raises(DataError, match=r"val: class folders that the training split does not have: dgo. .*'dog'"):
        module(folder).setup("fit")


def test_a_missing_root_tells_the_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere': it does not exist; expected <root>/train/<class>/\*.jpg"):
        module(tmp_path / "nowhere").setup("fit")
    with pytest.raises(DataError, match="it is empty; expected"):
        module(tmp_path).setup("fit")
    (tmp_path / "training").mkdir()
    with pytest.raises(DataError, match=r"no folder 'train'.*Did you mean 'training'"):
        module(tmp_path).setup("fit")


def test_images_without_class_folders(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "train" / "1.png")
    with pytest.raises(DataError, match=r"train: .*found: 1.png"):
        module(tmp_path).setup("fit")


def test_empty_class_folders(tmp_path: Path) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="no image in any class folder"):
        module(tmp_path).setup("fit")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_in_one_line(folder: Path, save: Any, workers: int) -> None:
    broken = folder / "val" / "cat" / "0.png"
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    broken.write_bytes(save(broken, noise).read_bytes()[:500])
    data = module(folder, num_workers=workers)
    data.setup("validate")
    with pytest.raises(DataError, match=r"cat/0.png: the image cannot be decoded") as error:
        list(data.val_dataloader())
    assert "\n" not in str(error.value)


def test_images_of_different_sizes_need_a_crop(folder: Path, save: Any) -> None:
    save(folder / "val" / "cat" / "other.png")
    data = module(folder, eval_transform=["HorizontalFlip"], batch_size=3)
    data.setup("validate")
    with pytest.raises(DataError, match=r"different sizes .*\(20, 30\) .*\(24, 32\).*end the pipeline with a Resize"):
        list(data.val_dataloader())


def test_prediction_takes_a_folder_or_a_file(folder: Path, save: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("pictures")
    file = save(other / "a" / "b.webp")
    for target in (other, file):
        data = module("nowhere", predict_root=target)
        data.setup("predict")
        batch = next(iter(data.predict_dataloader()))
        assert set(batch) == {"image", "path", "valid", "original_size", "image_id"}
        assert batch["path"] == [str(file)]
        assert batch["original_size"] == [(24, 32)]
        assert data.num_classes is None
    data = module(folder)
    data.setup("predict")
    assert len(data.datasets["predict"]) == 2
    assert data.class_names == ["cat", "dog"]
    with pytest.raises(DataError, match=r"predict_root=.* holds no image"):
        module(folder, predict_root=other / "none").setup("predict")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"eval_batch_size": 0}, "eval_batch_size=0"),
        ({"seed": -1}, "seed=-1"),
        ({"image_size": 0}, "image_size=0"),
        ({"crop_ratio": 1.5}, "crop_ratio=1.5"),
        ({"std": (1, 0, 1)}, "std"),
        ({"train_transform": ["Flipp"]}, r"train_transform\[0\]"),
        ({"eval_transform": ["Flipp"]}, r"eval_transform\[0\]"),
    ],
)
def test_wrong_arguments_fail_before_any_file_is_read(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(Path("nowhere"), **options)


def test_hyperparameters_are_plain(folder: Path) -> None:
    import albumentations as A

    made = [
        A.HorizontalFlip(p=0.25),
        {"OneOf": {"transforms": [A.Blur(blur_limit=5)], "p": 1}},
        A.SomeOf([A.Blur()], n=1),
    ]
    data = module(folder, predict_root=folder, train_transform=made)
    assert data.hparams["root"] == str(folder)
    flip = {"class_path": "albumentations.augmentations.geometric.flip.HorizontalFlip", "init_args": {"p": 0.25}}
    assert data.hparams["train_transform"][0] == flip
    torch.save(dict(data.hparams), folder / "hparams.pt")
    assert torch.load(folder / "hparams.pt", weights_only=True) == dict(data.hparams)
    plain = (str, int, float, bool, list, tuple, dict, type(None))
    assert all(isinstance(value, plain) for value in data.hparams.values())
    again = ImageFolderDataModule(**data.hparams)
    assert again.hparams == data.hparams


def test_an_empty_folder_in_validation_is_no_class(folder: Path) -> None:
    (folder / "val" / "bird").mkdir()
    data = module(folder)
    with pytest.warns(UserWarning, match=r"empty folders that are no class .*bird"):
        data.setup("fit")
    assert data.num_classes == 2


def test_grey_images(folder: Path) -> None:
    grey = module(folder, in_chans=1, mean=(0.0,), std=(1.0,))
    grey.setup("validate")
    color = module(folder, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    color.setup("validate")
    assert grey.datasets["val"][1]["image"].shape == (1, 16, 16)
    assert torch.equal(grey.datasets["val"][1]["image"][0], color.datasets["val"][1]["image"][1])
    default = module(folder, in_chans=1)
    default.setup("validate")
    assert default.datasets["val"][0]["image"][0, 0, 0] == pytest.approx(-0.458971 / 0.225609, abs=1e-4)
    with pytest.raises(ValueError, match=r"mean=\[0.0\]: expected 3 numbers"):
        module(folder, mean=(0.0,), std=(1.0,), in_chans=3)


def test_channels_come_from_the_model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    import lightning as L

    from dyvision.tasks import ClassificationTask

    task = ClassificationTask(backbone="mobilenetv2_035", in_chans=1)
    data = module(folder)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, max_steps=1,
        enable_model_summary=False, default_root_dir=tmp_path_factory.mktemp("run"),
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    assert data.datasets["train"][0]["image"].shape == (1, 16, 16)
    assert dict(task.hparams)["in_chans"] == 1
    other = module(folder, in_chans=3)
    with pytest.raises(ValueError, match="the model takes images of 1 channels"):
        trainer.fit(ClassificationTask(backbone="mobilenetv2_035", in_chans=1), datamodule=other)
