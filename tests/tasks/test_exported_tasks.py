"""If these fail, a file computes other metrics than its checkpoint, or a stranger's file does more than compute."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml

import dyvision
from dyvision.data import ImageFolderDataModule, register_data_format
from dyvision.layers import get_layer, register_layer
from dyvision.plugins import import_plugin
from dyvision.tasks import ClassificationTask
from dyvision.tasks.exporting import ExportedTask, export_task, load_exported
from dyvision.tasks.exporting.export import describe, exportable
from tests.onnx_files import metadata, write_constant, write_detector, write_network
from tests.plugin_sandbox import plugin_sandbox

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

MEAN, STD = torch.tensor([0.5, 0.25, 0.5])[:, None, None], torch.tensor([0.5, 0.5, 0.25])[:, None, None]


@pytest.mark.parametrize("batch", ["batch", 1, 3])
def test_a_classifier_of_logits(batch, tmp_path) -> None:
    task = load_exported(write_network(tmp_path / "a.onnx", metadata("classification"), (batch, 3, 8, 8)))
    images = torch.randn(4, 3, 8, 8)
    assert isinstance(task, ClassificationTask) and task.hparams.class_names == ["a", "b", "c"]
    torch.testing.assert_close(task(images), images.mean((2, 3)))


def test_bytes_are_what_the_data_module_read(tmp_path) -> None:
    """The file divides by 255 and returns softmax of the means: what the task computes from logits has to be that."""
    path = write_network(tmp_path / "a.onnx", metadata("classification"), output="probabilities", takes_bytes=True)
    pixels = torch.randint(0, 256, (2, 3, 9, 7))
    batch = {"image": (pixels / 255 - MEAN) / STD, "path": ["x", "y"]}
    found = load_exported(path).predict_step(batch, 0)
    torch.testing.assert_close(found["probabilities"], (pixels / 255).mean((2, 3)).softmax(1))


@pytest.mark.parametrize("output", ["segmentation", "label_map"])
def test_a_segmenter(output, tmp_path, make_data, make_trainer) -> None:
    said = metadata("segmentation", model={"class_names": ["class_0", "class_1", "class_2"]})
    task = load_exported(write_network(tmp_path / "a.onnx", said, output=output))
    images = torch.randn(2, 3, 8, 9)
    found = task.predict_step({"image": images, "path": ["x", "y"]}, 0)["label_maps"]
    assert torch.equal(torch.stack(found).long(), images.argmax(1))
    (metrics,) = make_trainer().validate(task, datamodule=make_data("segmentation"), verbose=False)
    assert ("val/loss" in metrics) == (output == "segmentation")  # of label maps there is none


def test_other_classes_than_the_data_has_are_refused(tmp_path, make_data, make_trainer) -> None:
    path = write_network(tmp_path / "a.onnx", metadata("classification"))
    with pytest.raises(ValueError, match=r"a\.onnx: it was trained on other classes than those of SyntheticData"):
        make_trainer().validate(load_exported(path), datamodule=make_data("classification"), verbose=False)


def test_a_detector_pads_images_as_a_batch_does(tmp_path) -> None:
    task = load_exported(write_detector(tmp_path / "a.onnx", metadata("detection"), (20, 30)))
    whole, small = task([torch.rand(3, 20, 30), torch.rand(3, 12, 16)])
    assert whole["boxes"].tolist() == [[4, 5, 30, 20]] and whole["labels"].tolist() == [2]
    assert small["boxes"].tolist() == [[4, 5, 16, 12]]  # nothing is outside of its image
    with pytest.raises(
        ValueError, match=r"takes images of at most 20x30 pixels .*got 21x30: give --data.image_size 20"
    ):
        task([torch.rand(3, 21, 30)])


def test_a_detector_that_resizes_takes_images_of_its_size_only(tmp_path) -> None:
    said = metadata("detection", model={"min_size": 40})
    task = load_exported(write_detector(tmp_path / "a.onnx", said, (20, 30)))
    with pytest.raises(ValueError, match=r"takes images of 20x30 pixels .*got 12x16: export it with another"):
        task([torch.rand(3, 12, 16)])


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({}, "not an exported task of dyvision .its metadata names no task"),
        ({"task": "parsing\x1b[31m"}, r"its task is 'parsing\\x1b\[31m'"),
        (metadata("detection"), "its outputs are logits, expected those of detection"),
        ({**metadata("classification"), "model": "[1, 2]"}, "model of its metadata is no mapping"),
        ({**metadata("classification"), "model": "{a: &x [*x]}"}, "model of its metadata"),
        ({**metadata("classification"), "model": "[" * 500}, "model of its metadata.*levels deep"),
        ({**metadata("classification"), "std": "[0.5, 0, 0.5]"}, "std"),
        ({**metadata("classification"), "mean": "grey"}, "mean"),
    ],
)
def test_a_file_of_something_else_is_one_line(said, message, tmp_path) -> None:
    path = write_network(tmp_path / "a.onnx", said)
    with pytest.raises(ValueError, match=message) as caught:
        ExportedTask.read(path)
    assert "a.onnx" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"optimizer": {"class_path": "subprocess.Popen", "init_args": {"args": "ls"}}}, "names 'subprocess.Popen'"),
        ({"backbone": "local-dir:/etc"}, "names 'local-dir:/etc'"),
        ({"num_classes": 900_000}, "far larger than its"),
        ({"num_classes": None}, "lacks num_classes"),
        ({"backbone": "no_such"}, "no_such"),
    ],
)
def test_a_strangers_file_runs_no_code_and_asks_for_no_memory(model, message, tmp_path) -> None:
    said = metadata("classification", model={"class_names": None, **model})
    with pytest.raises(ValueError, match=message):
        load_exported(write_network(tmp_path / "a.onnx", said))


@pytest.mark.parametrize("label", [0, 4])
def test_labels_outside_the_classes_are_one_line(label, tmp_path) -> None:
    task = load_exported(write_detector(tmp_path / "a.onnx", metadata("detection"), (20, 30), label))
    with pytest.raises(ValueError, match=r"a\.onnx: gives labels outside 1\.\.3"):
        task([torch.rand(3, 20, 30)])


@pytest.mark.parametrize(
    ("task", "name", "value", "message"),
    [
        ("classification", "logits", np.float32([1, np.nan, 2]), "gives logits that are not finite"),
        ("classification", "probabilities", np.float32([0, np.inf, 0]), "gives probabilities that are not finite"),
        ("classification", "logits", np.float32(1), r"gives logits of shape \[2\] for .*expected \[B, 3\]"),
        ("classification", "logits", np.zeros((3, 4, 4), np.float32), r"logits of shape .*expected \[B, 3\]"),
        ("segmentation", "logits", np.zeros(3, np.float32), r"logits of shape \[2, 3\] .*expected \[B, 3, H, W\]"),
        ("segmentation", "label_map", np.full((8, 8), -1), "gives classes -1 to -1 for num_classes=3"),
        ("segmentation", "label_map", np.full((8, 8), 3), "gives classes 3 to 3 for num_classes=3"),
        ("segmentation", "label_map", np.full((8, 8), np.nan, np.float32), "gives label_map that are not finite"),
        ("segmentation", "label_map", np.zeros((4, 8), np.int64), r"label map of shape .*expected \[2, 8, 8\]"),
    ],
)
def test_outputs_that_are_none_of_the_task_are_one_line(task, name, value, message, tmp_path) -> None:
    loaded = load_exported(write_constant(tmp_path / "a.onnx", metadata(task), name, value))
    with pytest.raises(ValueError, match=rf"a\.onnx: .*{message}") as caught:
        loaded(torch.randn(2, 3, 8, 8))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"boxes": np.zeros((1, 2, 5), np.float32)}, r"gives boxes of shape \[1, 2, 5\]"),
        ({"boxes": np.full((1, 2, 4), np.nan, np.float32)}, "gives boxes that are not finite"),
        ({"scores": np.float32([[np.nan, 0]])}, "gives scores that are not finite"),
        ({"scores": np.float32([[7, 0]])}, r"gives scores outside 0\.\.1"),
        ({"labels": np.float32([[1.5, 1]])}, "gives labels of shape .* type float32, expected .* of integers"),
        ({"count": np.int64([3])}, "counts 3 to 3 objects an image and has room for 2"),
        ({"count": np.int64([-1])}, "counts -1 to -1 objects"),
        ({"count": np.float32([np.nan])}, "gives count of shape"),
    ],
)
def test_detections_that_are_none_are_one_line(changed, message, tmp_path) -> None:
    task = load_exported(write_detector(tmp_path / "a.onnx", metadata("detection"), (20, 30), **changed))
    with pytest.raises(ValueError, match=rf"a\.onnx: {message}"):
        task([torch.rand(3, 20, 30)])


def test_no_folder_of_the_trainer_is_in_a_file(tmp_path) -> None:
    task = ClassificationTask("test_efficientnet", num_classes=3)
    places = {"root": "/home/me/pets", "predict_root": "/home/me", "words": "/etc/w.txt"}
    data = {**places, "split_file": "/home/me/pets/lists/{split}.txt", "image_size": 32}
    said = describe(task, exportable(task, 32, fuse=False), False, data)
    assert "/home" not in str(said) and "/etc" not in str(said)
    assert yaml.safe_load(said["data"]) == {"words": "w.txt", "split_file": "lists/{split}.txt", "image_size": 32}
    # of earlier versions, or of a stranger
    old = ExportedTask.read(write_network(tmp_path / "a.onnx", metadata("classification", data={"root": "/srv"})))
    assert "root" not in old.data


def test_two_means_are_no_file(tmp_path) -> None:
    task = ClassificationTask("test_efficientnet", num_classes=3)
    with pytest.raises(ValueError, match=r"mean=\[0, 0, 0\]: the data has mean=\[0.5, 0.5, 0.5\]"):
        export_task(task, tmp_path / "a.onnx", image_size=32, mean=[0, 0, 0], data={"mean": [0.5] * 3})


def test_a_data_module_takes_the_statistics_of_the_file(tmp_path) -> None:
    path = write_network(tmp_path / "a.onnx", metadata("classification"), (1, 3, 8, 8))
    data = ImageFolderDataModule(tmp_path, image_size=8)
    assert dyvision.load(path, data=data).predict(np.zeros((8, 8, 3), np.uint8)).name in "abc"
    assert data.hparams["mean"] == [0.5, 0.25, 0.5] and data.hparams["std"] == [0.5, 0.5, 0.25]
    other = ImageFolderDataModule(tmp_path, image_size=8, mean=(0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match=r"a\.onnx takes images normalised with mean 0\.5 0\.25 0\.5"):
        dyvision.load(path, data=other)


def test_a_detector_of_any_size_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"a\.onnx: takes images of any size, and detection needs a fixed one"):
        ExportedTask.read(write_detector(tmp_path / "a.onnx", metadata("detection"), ("height", "width")))


@pytest.mark.parametrize("model", [{"num_classes": 2.5}, {"layer": ["dcd"]}, {"backbone_kwargs": 7}, {"lr": "fast"}])
def test_wrong_hyperparameters_name_the_file(model, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"a\.onnx: ") as caught:
        load_exported(write_network(tmp_path / "a.onnx", metadata("classification", model=model)))
    assert "\n" not in str(caught.value)


@pytest.fixture
def forgotten():
    with plugin_sandbox():
        yield


def test_a_file_says_which_plugins_registered_what_it_names(tmp_path, forgotten) -> None:
    @register_layer("own_exported")
    class Own(get_layer("se")):
        pass

    @register_data_format("pages_exported")
    class Pages(ImageFolderDataModule):
        pass

    task = ClassificationTask(backbone="test_efficientnet", layer="own_exported", num_classes=3)
    made = exportable(task, 32)
    said = describe(task, made, False, Pages(tmp_path, image_size=32))
    names = {record["kind"]: record["name"] for record in said["plugins"]}
    assert names == {"layer": "own_exported", "data format": "pages_exported"}
    assert "plugins" not in describe(ClassificationTask(backbone="test_efficientnet", num_classes=3), made, False, {})

    gone = [{**record, "name": f"{record['name']}_gone"} for record in said["plugins"]]
    path = write_network(
        tmp_path / "a.onnx",
        metadata("classification", model={"layer": "own_exported_gone"}, plugins=json.dumps(gone)),
    )
    for load in (load_exported, dyvision.load):
        with pytest.raises(ValueError, match=r"a\.onnx: names the .*_exported_gone', which nothing here registers"):
            load(path)
    path = write_network(
        tmp_path / "b.onnx",
        metadata(
            "classification",
            model={"layer": "own_exported"},
            data={"image_size": 32},
            plugins=json.dumps(said["plugins"]),
        ),
    )
    assert isinstance(dyvision.load(path, device="cpu").predictor.data, Pages)


def test_a_file_does_not_say_where_a_plugin_lay(tmp_path, forgotten) -> None:
    path = tmp_path / "far_own.py"
    path.write_text(
        "from dyvision.layers import get_layer, register_layer\n"
        "@register_layer('far')\nclass Far(get_layer('se')):\n    pass\n"
    )
    import_plugin(str(path))
    task = ClassificationTask(backbone="test_efficientnet", layer="far", num_classes=3)
    (record,) = describe(task, exportable(task, 32), False, {})["plugins"]
    assert record == {"kind": "layer", "name": "far", "module": "far_own", "import": "far_own.py"}
