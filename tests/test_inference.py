"""If these fail, three lines of Python say something else of an image than ``dyvision predict``."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dyvision
from dyvision.cli import main
from dyvision.data import DataError
from dyvision.inference import Classification, Detections, Segmentation
from tests.cli.small_runs import arguments, version

TASKS = ("classification", "segmentation", "detection")


@pytest.fixture(scope="module")
def checkpoints(sample_data, tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for task in TASKS:
            short = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=1")
            assert main(arguments(sample_data, *short, task=task)) == 0
    return {task: version(place, task=task) / "checkpoints" / "last.ckpt" for task in TASKS}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    """Of different sizes and modes."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number, (height, width) in enumerate([(48, 64), (70, 40), (48, 64)]):
        image = Image.fromarray(random.integers(0, 255, (height, width, 3), dtype=np.uint8))
        (image.convert("L") if number == 2 else image).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


def predicted(checkpoint: Path, photos: list[Path], output: Path) -> Path:
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--data.num_workers=0"]
    where = [f"--data.predict_root={photos[0].parent}", f"--output={output}", "--prediction.draw=false"]
    assert main(["predict", f"--ckpt_path={checkpoint}", *where, *quiet]) == 0
    return output


def test_classification(checkpoints, photos, tmp_path) -> None:
    task = dyvision.load(checkpoints["classification"], device="cpu")
    found = task.predict(photos)
    written = list(csv.reader((predicted(checkpoints["classification"], photos, tmp_path) / "predictions.csv").open()))
    for result, row in zip(found, written[1:], strict=True):
        assert isinstance(result, Classification) and result.path == row[0]
        top = [item for name, value in result.top(5) for item in (name, f"{value:.6f}")]
        assert top == row[1:]
        assert (result.name, f"{result.probability:.6f}") == (top[0], top[1])
        assert str(result).startswith(f"{result.path}: {result.name} ") and "\n" not in str(result)


def test_segmentation(checkpoints, photos, tmp_path) -> None:
    task = dyvision.load(checkpoints["segmentation"])
    output = predicted(checkpoints["segmentation"], photos, tmp_path)
    for path, result in zip(photos, task.predict(photos), strict=True):
        assert isinstance(result, Segmentation)
        np.testing.assert_array_equal(result.ids, np.asarray(Image.open(output / "labels" / path.name)))
        assert result.label_map.shape == Image.open(path).size[::-1]
        assert sum(result.shares.values()) == pytest.approx(1)
        assert result.draw().size[1] > Image.open(path).size[1]  # with a legend


def test_detection(checkpoints, photos, tmp_path) -> None:
    task = dyvision.load(checkpoints["detection"], device="cpu")
    output = predicted(checkpoints["detection"], photos, tmp_path)
    written = json.loads((output / "detections_bbox.json").read_text())
    found = task.predict(photos)
    assert sum(map(len, found)) == len(written)
    for number, result in enumerate(found, 1):
        assert isinstance(result, Detections)
        own = [entry for entry in written if entry["image_id"] == number]
        assert result.category_ids == [entry["category_id"] for entry in own]
        torch.testing.assert_close(result.scores.tolist(), [entry["score"] for entry in own])
        corners = torch.tensor([entry["bbox"] for entry in own]).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        torch.testing.assert_close(result.boxes, corners, rtol=1e-4, atol=1e-3)
        assert len(result.above(2)) == 0 and "no object" in str(result.above(2))
    assert found[0].draw().size == (64, 48)


def test_one_image_of_any_kind_is_one_result(checkpoints, photos) -> None:
    task = dyvision.load(str(checkpoints["classification"]), device="cpu")
    pixels = np.asarray(Image.open(photos[0]))
    expected = task.predict(photos[0])
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    for image in (str(photos[0]), Image.open(photos[0]), pixels, tensor, tensor / 255):
        torch.testing.assert_close(task.predict(image).probabilities, expected.probabilities)
    assert task.predict(pixels).path == "image 0" and np.array_equal(task.predict(pixels).image, pixels)
    grey = np.asarray(Image.open(photos[2]))
    from_file = task.predict(photos[2]).probabilities
    for image in (grey, grey[:, :, None], torch.from_numpy(grey.copy())[None], Image.open(photos[2])):
        torch.testing.assert_close(task.predict(image).probabilities, from_file)


def test_lists_folders_batches_and_modes(checkpoints, photos) -> None:
    task = dyvision.load(checkpoints["classification"], device="cpu").train()
    one_by_one = [task.predict(path).probabilities for path in photos]
    assert task.training  # as it was
    for images in (photos, photos[0].parent, [np.asarray(Image.open(path)) for path in photos]):
        for size in (1, 2, None):
            results = task.predict(images, batch_size=size)
            for result, alone in zip(results, one_by_one, strict=True):
                torch.testing.assert_close(result.probabilities, alone)
                assert not result.probabilities.requires_grad
    stack = np.stack([np.asarray(Image.open(photos[0]))] * 2)
    assert len(task.predict(stack)) == 2 and task.predict([]) == []


def test_what_is_no_image_is_named(checkpoints, photos, tmp_path) -> None:
    task = dyvision.load(checkpoints["classification"], device="cpu")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(DataError, match=r"broken.png: .*cannot be decoded"):
        task.predict([photos[0], tmp_path / "broken.png"])
    with pytest.raises(DataError, match=r"absent.png: the image does not exist"):
        task.predict(tmp_path / "absent.png")
    for wrong, message in [
        (np.zeros((4, 4, 3)), "an array of float64"),
        (np.zeros((4, 4, 5), np.uint8), "an array of uint8"),
        (torch.full((3, 4, 4), 2.0), "outside 0..1"),
        (torch.zeros(7), "a tensor"),
        (5, "a int"),
        (np.zeros((0, 4, 3), np.uint8), "an array"),
    ]:
        with pytest.raises((ValueError, DataError), match=message) as caught:
            task.predict([wrong])
        assert "image 0" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True])
def test_a_wrong_batch_size_is_no_empty_result(batch_size, checkpoints, photos) -> None:
    with pytest.raises(ValueError, match=r"batch_size=.*: expected an integer of at least 1 or null"):
        dyvision.load(checkpoints["classification"], device="cpu").predict(photos, batch_size=batch_size)


def test_bytes_are_no_list_of_images(checkpoints) -> None:
    with pytest.raises(ValueError, match="image 0: a bytes; expected a path"):
        dyvision.load(checkpoints["classification"], device="cpu").predict(b"abc")


def test_files_that_are_no_task(checkpoints, tmp_path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}, "hyper_parameters": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other.ckpt: of another project"):
        dyvision.load(tmp_path / "other.ckpt")
    with pytest.raises(FileNotFoundError, match=r"absent.ckpt"):
        dyvision.load(tmp_path / "absent.ckpt")
    content = torch.load(checkpoints["classification"], weights_only=True)
    del content["datamodule_hyper_parameters"]
    torch.save(content, tmp_path / "own.ckpt")
    with pytest.raises(ValueError, match=r"own.ckpt: trained without a data module .*data="):
        dyvision.load(tmp_path / "own.ckpt")
    module = dyvision.data.ImageFolderDataModule(tmp_path, image_size=32)
    assert dyvision.load(tmp_path / "own.ckpt", data=module, device="cpu").predict(np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ValueError, match="is for classification, and this task is for detection"):
        dyvision.load(checkpoints["detection"], data=module, device="cpu")
    with pytest.raises(RuntimeError, match=r"dyvision.load"):
        dyvision.tasks.ClassificationTask.load_from_checkpoint(checkpoints["classification"]).predict("a.png")


def test_the_data_set_need_not_be_there(checkpoints, photos, tmp_path) -> None:
    for kind in TASKS:
        content = torch.load(checkpoints[kind], weights_only=True)
        content["datamodule_hyper_parameters"]["root"] = "/no/such/folder"
        torch.save(content, tmp_path / "moved.ckpt")
        assert dyvision.load(tmp_path / "moved.ckpt", device="cpu").predict(photos[1]).path == str(photos[1])


def test_an_exported_file_predicts_with_its_own_transforms(tmp_path, photos) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from tests.onnx_files import metadata, write_network

    statistics = {"mean": [0.0] * 3, "std": [1.0] * 3}
    own = {name: str(value) for name, value in statistics.items()}
    said = metadata("classification", data={"image_size": 32, **statistics}, **own)
    task = dyvision.load(write_network(tmp_path / "last.onnx", said, ("batch", 3, 32, 32)), device="cpu")
    red, grey = task.predict([np.full((40, 40, 3), (255, 0, 0), np.uint8), np.full((40, 40), 128, np.uint8)])
    assert red.name == "a" and red.probability == pytest.approx(torch.softmax(torch.tensor([1.0, 0, 0]), 0)[0].item())
    assert grey.probability == pytest.approx(1 / 3)
    assert isinstance(task.predict(photos)[1], Classification)


def test_a_file_that_does_not_say_what_images_go_through(tmp_path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from tests.onnx_files import metadata, write_network

    said = {**metadata("classification", mean="[0.9, 0.9, 0.1]"), "data": "{}"}
    grey = np.full((32, 32, 3), (150, 120, 100), np.uint8)
    with pytest.warns(UserWarning, match=r"a\.onnx: does not say crop_ratio of the images"):
        task = dyvision.load(write_network(tmp_path / "a.onnx", said, ("batch", 3, 32, 32)), device="cpu")
    assert task.predict(grey).name == "c" and task.predictor.data.image_size == 32
    for lacking, shape in (("mean", ("batch", 3, 32, 32)), ("image_size", ("batch", 3, "height", "width"))):
        path = write_network(tmp_path / "b.onnx", {**said, "mean": "" if lacking == "mean" else said["mean"]}, shape)
        with pytest.raises(ValueError, match=rf"b\.onnx: does not say {lacking} of the images .*data="):
            dyvision.load(path)


def test_a_data_format_of_ones_own_is_asked_for_by_name(checkpoints, tmp_path) -> None:
    content = torch.load(checkpoints["classification"], weights_only=True)
    content["plugins"] = [{"kind": "data format", "name": "pages", "module": "my_pages"}]
    torch.save(content, tmp_path / "own.ckpt")
    with pytest.raises(ValueError, match=r"own\.ckpt: names the data format 'pages'.*import my_pages"):
        dyvision.load(tmp_path / "own.ckpt")
