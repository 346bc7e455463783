"""If these fail, a checkpoint and its exported file disagree, or an export that cannot be is no single line."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dyvision.cli import main
from dyvision.cli._source import read_source
from dyvision.tasks import ClassificationTask, DetectionTask, SegmentationTask
from dyvision.tasks.exporting import ExportedTask
from dyvision.version import VERSION

QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--data.num_workers=0"]
#: networks of timm that are made for tests
SMALL = {"backbone": "test_efficientnet", "layer": "dcd"}


def save(path: Path, task: str, data: dict, **options) -> Path:
    """A checkpoint as ``fit`` writes it, of weights that were never trained."""
    kind = {"classification": ClassificationTask, "segmentation": SegmentationTask, "detection": DetectionTask}[task]
    torch.manual_seed(0)
    made = kind(**{**SMALL, **options})
    content = {
        "state_dict": made.state_dict(),
        "hyper_parameters": dict(made.hparams),
        "datamodule_hyper_parameters": {"num_workers": 0, **data},
        "task": task,
        "dyvision_version": VERSION,
        "pytorch-lightning_version": "2.6.0",
    }
    torch.save(content, path)
    return path


@pytest.fixture
def classifier(tmp_path) -> Path:
    names = ["a", "b", "c"]
    return save(
        tmp_path / "last.ckpt", "classification", {"root": "data", "image_size": 32}, num_classes=3, class_names=names
    )


def fails(capsys, *arguments) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dyvision: error")]
    return line


def photo(path: Path, height: int = 40, width: int = 56, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch=0"], "--batch: a positive integer or dynamic, not '0'"),
        (["--image-size=3x"], "--image-size: a positive integer, HEIGHTxWIDTH or dynamic, not '3x'"),
        (["--output=x.pt2"], "--output x.pt2: files of --format onnx end in .onnx"),
        (["--output=last.ckpt/x.onnx"], "--output last.ckpt/x.onnx: .*last.ckpt is a file, not a folder"),
        (["--json=/"], "--json /: a folder"),
        (["--format=tflite"], "invalid choice|unknown"),
    ],
)
def test_wrong_options_are_one_line(arguments, message, classifier, monkeypatch, capsys) -> None:
    monkeypatch.chdir(classifier.parent)
    assert re.search(message, fails(capsys, "export", classifier, *arguments))


@pytest.mark.parametrize(("name", "package"), [("onnx", "onnx"), ("openvino", "openvino")])
def test_a_missing_extra_says_how_to_install_it(name, package, classifier, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    extra = "openvino" if name == "openvino" else "export"
    assert f'export needs {package}: pip install "dyvision[{extra}]"' in fails(
        capsys, "export", classifier, f"--format={name}"
    )
    assert not list(classifier.parent.glob("last.[opx]*"))


def test_what_is_no_checkpoint_is_one_line(tmp_path, capsys) -> None:
    assert "none.ckpt: no such file" in fails(capsys, "export", tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("a text")
    assert "text.ckpt: a text file" in fails(capsys, "export", tmp_path / "text.ckpt")
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.0"}, tmp_path / "other.ckpt")
    assert "other.ckpt: of another project" in fails(capsys, "export", tmp_path / "other.ckpt")


def test_a_size_that_nothing_says(tmp_path, capsys) -> None:
    path = save(tmp_path / "last.ckpt", "detection", {"root": "data"}, num_classes=2, head="fcos", fpn_channels=16)
    said = fails(capsys, "export", path)
    assert "give --image-size HxW, the size of your images (larger ones are refused, smaller ones padded" in said


@pytest.mark.parametrize("data", [{}, {"image_size": 48}])
def test_detection_has_one_size(data, tmp_path, capsys) -> None:
    path = save(tmp_path / "a.ckpt", "detection", {"root": "data", **data}, num_classes=2, head="fcos", fpn_channels=16)
    said = fails(capsys, "export", path, "--image-size=dynamic")
    assert f"{path}: --image-size dynamic: anchors are those of one size; give --image-size HxW" in said


def test_detections_of_images_that_evaluation_makes_smaller(tmp_path) -> None:
    options = {"num_classes": 2, "head": "fcos", "fpn_channels": 16}
    path = save(tmp_path / "last.ckpt", "detection", {"root": "data", "image_size": 48}, **options)
    assert read_source(path, "").export_size(None)[0] == (48, 48)
    assert read_source(path, "").export_size((32, 64))[0] == (32, 64)
    # of a detector that resizes only images of one size can be compared
    path = save(tmp_path / "last.ckpt", "detection", {"root": "data", "image_size": 48}, min_size=32, **options)
    with pytest.raises(ValueError, match="give --image-size HxW"):
        read_source(path, "").export_size(None)


@pytest.mark.parametrize("head", ["faster_rcnn", "condinst"])
def test_heads_that_cannot_be_exported_are_named(head, tmp_path, capsys) -> None:
    options = {"num_classes": 2, "head": head, "fpn_channels": 16}
    path = save(tmp_path / "last.ckpt", "detection", {"root": "data"}, **options)
    for size in (["--image-size=64"], []):
        said = fails(capsys, "export", path, *size)
        assert f"{path}: the head" in said and "cannot be exported" in said and "fcos" in said and "retinanet" in said


def test_an_image_size_that_the_network_cannot_take(tmp_path, capsys) -> None:
    pytest.importorskip("onnxscript")
    options = {"num_classes": 3, "backbone": "test_vit", "layer": "static"}
    path = save(tmp_path / "last.ckpt", "classification", {"root": "data"}, **options)
    assert "image size 30x30: the network cannot take such images" in fails(capsys, "export", path, "--image-size=30")


class TestExportedFiles:
    """``--model FILE.onnx``, with files that are written by hand."""

    @pytest.fixture(autouse=True)
    def packages(self) -> None:
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")

    def test_predict(self, place, capsys) -> None:
        from tests.onnx_files import metadata, write_network

        for number in range(3):
            photo(place / "photos" / f"{number}.png", seed=number)
        said = metadata("classification", data={"image_size": 32, "mean": [0.5, 0.25, 0.5], "std": [0.5, 0.5, 0.25]})
        write_network(place / "a.onnx", said, (2, 3, 32, 32))
        assert main(["predict", "--model", "a.onnx", "photos", *QUIET]) == 0, capsys.readouterr().err
        with (place / "predictions" / "predictions.csv").open(newline="") as file:
            rows = list(csv.reader(file))
        assert [Path(row[0]).name for row in rows[1:]] == ["0.png", "1.png", "2.png"] and rows[1][1] in "abc"

    @pytest.mark.parametrize("task", ["classification", "segmentation"])
    def test_what_the_file_says_of_its_images_wins_over_defaults(self, task, place, capsys) -> None:
        """Logits are the images themselves, or their means: which class is largest depends on the statistics."""
        from tests.onnx_files import metadata, write_network

        (place / "photos").mkdir()
        Image.new("RGB", (32, 32), (150, 120, 100)).save(place / "photos" / "a.png")
        said = {**metadata(task, mean="[0.9, 0.9, 0.1]", std="[1.0, 1.0, 1.0]"), "data": "{}"}
        write_network(place / "a.onnx", said, (1, 3, 32, 32), "logits" if task == "classification" else "segmentation")
        classes = ["--data.label_table={0: a, 1: b, 2: c}"] if task == "segmentation" else []
        assert main(["predict", "--model=a.onnx", "photos", *classes, *QUIET]) == 0, capsys.readouterr().err
        if task == "classification":  # blue, which ImageNet's mean makes the least of the three
            row = (place / "predictions" / "predictions.csv").read_text().splitlines()[1]
            assert row.split(",")[1] == "c"
        else:
            assert set(np.unique(np.asarray(Image.open(place / "predictions" / "labels" / "a.png")))) == {2}

    @pytest.mark.parametrize(
        ("changed", "shape", "options", "message"),
        [
            ({"mean": "", "std": ""}, (1, 3, 32, 32), [], "a.onnx: does not say mean, std of the images"),
            ({}, (1, 3, "height", "width"), [], "a.onnx: does not say image_size of the images"),
            ({}, (1, 3, 32, 32), ["--data.mean=[0, 0, 0]"], "a.onnx takes images normalised with mean 0.5 0.25 0.5"),
            ({}, (1, 3, 32, 32), ["--model.layer=odconv"], "a.onnx: was exported with layer='static', which cannot be"),
            ({"data": "{mean: [0, 0, 0]}"}, (1, 3, 32, 32), [], "a.onnx: its metadata has mean [0.5, 0.25, 0.5] and"),
        ],
    )
    def test_images_that_would_be_others_than_in_training(
        self, changed, shape, options, message, place, capsys
    ) -> None:
        from tests.onnx_files import metadata, write_network

        photo(place / "photos" / "a.png")
        write_network(place / "a.onnx", {**metadata("classification"), "data": "{}", **changed}, shape)
        assert message in fails(capsys, "predict", "--model=a.onnx", "photos", *options, *QUIET)

    def test_what_is_missing_can_be_given(self, place, capsys) -> None:
        from tests.onnx_files import metadata, write_network

        photo(place / "photos" / "a.png")
        write_network(place / "a.onnx", {**metadata("classification"), "data": "{}", "mean": "", "std": ""})
        given = ["--data.mean=[0, 0, 0]", "--data.std=[1, 1, 1]", "--data.image_size=16"]
        assert main(["predict", "--model=a.onnx", "photos", *given, *QUIET]) == 0, capsys.readouterr().err

    def test_detections_of_photos(self, place, capsys) -> None:
        from tests.onnx_files import metadata, write_detector

        photo(place / "photos" / "a.png", 20, 30)
        write_detector(place / "a.onnx", metadata("detection"), (20, 30))
        assert main(["predict", "--model=a.onnx", "--data.predict_root=photos", *QUIET]) == 0, capsys.readouterr().err
        (found,) = json.loads((place / "predictions" / "detections_bbox.json").read_text())
        assert found["bbox"] == [4, 5, 26, 15] and found["score"] == 0.75

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["predict", "--model=none.onnx"], "--model none.onnx: no such file"),
            (["predict", "--model=a.txt"], "--model=a.txt: expected an ONNX file of dyvision export"),
            (["predict", "--model=text.onnx"], "--model text.onnx cannot be run by ONNX Runtime"),
            (["predict", "--model=foreign.onnx"], "--model foreign.onnx: not an exported task of dyvision"),
            (["predict", "--model=NONE.ONNX"], "--model NONE.ONNX: no such file"),
            (["predict", "--model=none.pt2", "photos"], "--model none.pt2: no such file; expected an ONNX file"),
            (["validate", "--model=none.ckpt"], "--model none.ckpt: no such file; expected an ONNX file"),
            (["predict", "--model=a.pt2", "photos"], "--model=a.pt2: expected an ONNX file of dyvision export"),
            (["predict", "--model=photos"], "--model=photos: a folder; expected an ONNX file"),
            (["validate", "--ckpt_path=a.onnx"], "--ckpt_path a.onnx: an ONNX file, not a checkpoint"),
            (["predict", "a.onnx"], "an exported file is given as --model=a.onnx"),
            (["fit", "--model=a.onnx"], "--model a.onnx: an exported file is not trained"),
            (["validate", "--model=a.onnx", "--task=detection"], "--model: the checkpoint is one of task"),
            (
                ["validate", "--model=a.onnx"],
                "--data.root is missing: the folder of the data set; give --data.root",
            ),
            (["predict", "--model=a.onnx"], "--model a.onnx: which images? Give one, or a folder of them, behind it"),
            (["predict", "--model=a.onnx", "photos"], r"takes images of 16 x 16 pixels"),
            (["predict", "--model=evil.onnx", "photos"], "--model evil.onnx: model.optimizer names 'subprocess.Popen'"),
        ],
    )
    def test_wrong_files_are_one_line(self, arguments, message, place, capsys) -> None:
        from tests.onnx_files import metadata, write_network

        photo(place / "photos" / "a.png")
        said = metadata("classification", data={"image_size": 32})
        write_network(place / "a.onnx", said, (1, 3, 16, 16))
        evil = {"optimizer": {"class_path": "subprocess.Popen", "init_args": {"args": "ls"}}}
        write_network(place / "evil.onnx", metadata("classification", model=evil))
        write_network(place / "foreign.onnx", {})
        (place / "text.onnx").write_text("a text")
        for name in ("a.txt", "a.pt2"):
            (place / name).write_text("a text")
        quiet = QUIET if arguments[0] != "fit" else []
        assert message in fails(capsys, *arguments, *quiet)


@pytest.mark.slow
@pytest.mark.parametrize("extra", [[], ["--batch=3", "--preprocess"]], ids=["plain", "batch of 3, bytes"])
@pytest.mark.parametrize("task", ["classification", "segmentation", "detection"])
def test_an_exported_file_has_the_metrics_and_predictions_of_its_checkpoint(
    task, extra, sample_data, place, capsys
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    folder = {"classification": "imagenet", "segmentation": "cityscapes", "detection": "coco"}[task]
    own = {"classification": {"image_size": 32}, "segmentation": {"image_size": [64, 64]}, "detection": {}}[task]
    head = {"segmentation": {"head": "lraspp"}, "detection": {"head": "fcos", "fpn_channels": 16}}.get(task, {})
    from dyvision import data as data_package

    module = {"classification": "ImageFolder", "segmentation": "Cityscapes", "detection": "COCO"}[task]
    data = getattr(data_package, f"{module}DataModule")(sample_data / folder, num_workers=0, **own)
    data.setup("fit")
    classes = {"num_classes": data.num_classes, "class_names": data.class_names, "class_ids": data.class_ids}
    save(place / "last.ckpt", task, {"root": str(sample_data / folder), **own}, **classes, **head)
    size = ["--image-size=128"] if task == "detection" else []
    assert main(["export", "last.ckpt", "--json=export.json", "--no-latency", *size, *extra]) == 0
    told = json.loads(Path("export.json").read_text())
    assert told["error"] < 1e-3 and told["opset"] == 18 and Path("last.onnx").is_file()
    tables = []
    assert str(sample_data) not in str(ExportedTask.read("last.onnx").file.metadata)  # a folder of this machine
    root = f"--data.root={sample_data / folder}"
    for model in ("--ckpt_path=last.ckpt", "--model=last.onnx"):
        capsys.readouterr()
        assert main(["validate", model, root, *QUIET, "--trainer.limit_val_batches=3", "--output=results"]) == 0
        said = capsys.readouterr().out
        tables.append([line for line in said.splitlines() if line.startswith("│")])
        few = "--trainer.limit_predict_batches=2"
        assert main(["predict", model, root, *QUIET, few, f"--output={model[2:5]}"]) == 0
    assert tables[0] == tables[1] and tables[0]
    names = [sorted(str(p.relative_to(out)) for p in Path(out).rglob("*.*")) for out in ("ckp", "mod")]
    assert names[0] == names[1]
    if task == "segmentation":
        maps = [name for name in names[0] if name.startswith("labels/")]
        assert maps  # in folders as the images are
        for name in maps:
            same = np.asarray(Image.open(Path("ckp", name))) == np.asarray(Image.open(Path("mod", name)))
            assert same.mean() > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torch", "openvino"])
def test_other_formats(format, classifier, capsys) -> None:
    suffix = ".pt2"
    if format == "openvino":
        pytest.importorskip("openvino")
        pytest.importorskip("onnxscript")
        suffix = ".xml"
    path = classifier.with_suffix(suffix)
    assert main(["export", str(classifier), f"--format={format}", "--postprocess"]) == 0
    said, progress = capsys.readouterr()
    assert "PyTorch" in said and "static" in said and "dcd" in said
    assert f"exporting {path.name}" in progress and "measuring" in progress
    assert ("torch.export.load" if format == "torch" else "compile_model") in said.splitlines()[-1]
    images = torch.randn(3, 3, 32, 32)
    task = ClassificationTask.load_from_checkpoint(classifier).eval()
    with torch.no_grad():
        expected = task(images).softmax(1)
    if format == "torch":
        told = {"dyvision": ""}
        found = torch.export.load(path, extra_files=told).module()(images)["probabilities"]
        assert json.loads(told["dyvision"])["task"] == "classification"
    else:
        import openvino

        model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = torch.from_numpy(model([images.numpy()])[0])
        assert openvino.Core().read_model(str(path)).get_rt_info(["dyvision", "task"]).astype(str) == "classification"
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_checkpoint_is_not_replaced_by_numbers(classifier, capsys) -> None:
    before = classifier.read_bytes()
    line = fails(capsys, "export", classifier, f"--json={classifier}")
    assert f"--json {classifier}: the file that is read, which would be lost" in line
    assert classifier.read_bytes() == before


def test_weights_that_overflow_name_their_file(classifier, tmp_path, capsys, monkeypatch) -> None:
    import dyvision

    content = torch.load(classifier, weights_only=True)
    for name, value in content["state_dict"].items():
        if name.endswith("running_var"):
            value.fill_(1e-30)
        elif value.ndim == 4:
            value.mul_(1e15)
    torch.save(content, classifier)
    photo(tmp_path / "a.png")
    output = [f"--output={tmp_path / 'out'}", *QUIET]
    said = fails(capsys, "predict", f"--ckpt_path={classifier}", tmp_path / "a.png", *output)
    assert "last.ckpt: the network's outputs are not finite for " in said and "a.png; weights or statistics" in said
    with pytest.raises(ValueError, match=r"last\.ckpt: the network's outputs are not finite for .*a\.png"):
        dyvision.load(classifier).predict(tmp_path / "a.png")
    pytest.importorskip("onnxscript")
    for options in ([], ["--no-fuse"]):
        said = fails(capsys, "export", classifier, "--no-latency", *options)
        assert "last.ckpt: " in said and "not finite" in said and "overflow" in said
    assert not list(tmp_path.glob("last.[!c]*"))
