"""If these fail, an exported detector finds something else than the checkpoint it was made from."""

from __future__ import annotations

import pytest
import timm
import torch
from torchvision.models.detection import RetinaNet, retinanet_resnet50_fpn

from dyvision.convert import dynamize
from dyvision.export import export_onnx
from dyvision.tasks.heads.detection import Detector, create_detector
from dyvision.tasks.heads.detection.config import DetectorConfig
from dyvision.tasks.heads.detection.exportable import EXPORTABLE, ExportableDetector

SIZE = (70, 90)
#: small enough for a test
HEADS = {
    "condinst": {"fpn_channels": 16, "num_convs": 1, "mask_convs": 1, "mask_channels": 8},
    "faster_rcnn": {"fpn_channels": 16, "representation_size": 32},
    "fcos": {"fpn_channels": 20, "num_convs": 1},
    "mask_rcnn": {"fpn_channels": 16, "representation_size": 32, "mask_convs": 1, "mask_channels": 8},
    "retinanet": {"fpn_channels": 16, "num_convs": 2, "norm": "group"},
    "ssdlite": {"extra_channels": [32, 16]},
}


def detector(
    name: str, num_classes: int = 3, *, network: str = "mobilenetv2_035", layer: str | None = None, **config
) -> Detector:
    """A detector whose scores differ from place to place, which those of new weights hardly do."""
    torch.manual_seed(0)
    backbone = timm.create_model(network, features_only=True, out_indices=(1, 2, 3, 4))
    if layer is not None:
        dynamize(backbone, layer, policy="all")
    model = create_detector({"name": name, **HEADS[name]}, backbone, num_classes, DetectorConfig(**config)).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "cls_logits" in parameter_name or "classification_head" in parameter_name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def images(number: int, size: tuple[int, int] = SIZE) -> torch.Tensor:
    """Different ones; the first is of one colour, so that many scores are exactly equal."""
    generator = torch.Generator().manual_seed(1)
    found = torch.rand(number, 3, *size, generator=generator) * torch.rand(number, 3, 1, 1, generator=generator)
    found[0] = 0.5
    return found


def assert_same(network: ExportableDetector, model: Detector, batch: torch.Tensor) -> list[int]:
    with torch.no_grad():
        found, expected = network(batch), model(list(batch))
    limit = model.model.detections_per_img
    assert found["boxes"].shape == (len(batch), limit, 4)
    assert found["scores"].shape == found["labels"].shape == (len(batch), limit)
    assert found["labels"].dtype == found["count"].dtype == torch.int64
    assert found["count"].tolist() == [len(one["scores"]) for one in expected]
    for number, one in enumerate(expected):
        count = len(one["scores"])
        for name, value in one.items():
            torch.testing.assert_close(found[name][number, :count], value, rtol=1e-5, atol=1e-4)
            assert not found[name][number, count:].any()
    return found["count"].tolist()


@pytest.mark.parametrize("num_classes", [1, 3, 150])
@pytest.mark.parametrize("name", EXPORTABLE)
def test_it_gives_what_the_detector_gives(name, num_classes) -> None:
    model = detector(name, num_classes, score_threshold=0.05 if name == "fcos" else 0.01)
    counts = assert_same(ExportableDetector(model, SIZE), model, images(3))
    assert min(counts) > 3


@pytest.mark.parametrize(
    "config",
    [
        {"min_size": 50, "max_size": 60},
        {"min_size": [40, 128], "max_size": None},
        {"score_threshold": 0.0, "nms_threshold": 0.9, "detections_per_image": 7},
        {"score_threshold": 1.0},
        {"detections_per_image": 5000, "score_threshold": 0.0},
        {"image_mean": (0.1, 0.2, 0.3), "image_std": (1.0, 2.0, 3.0)},
    ],
)
@pytest.mark.parametrize("name", EXPORTABLE)
def test_it_takes_over_the_settings(name, config) -> None:
    model = detector(name, **{"score_threshold": 0.02, **config})
    counts = assert_same(ExportableDetector(model, SIZE), model, images(2))
    assert (max(counts) == 0) == (config.get("score_threshold") == 1.0)


@pytest.mark.parametrize("name", EXPORTABLE)
@pytest.mark.parametrize("size", [(20, 31), (64, 64), (33, 130)])
def test_it_takes_images_of_any_one_size(name, size) -> None:
    model = detector(name, score_threshold=0.01)
    assert_same(ExportableDetector(model, size), model, images(2, size))


def test_an_untrained_detector_and_a_batch_of_one() -> None:
    for name in EXPORTABLE:
        model = create_detector(name, timm.create_model("resnet10t", features_only=True), 4).eval()
        assert_same(ExportableDetector(model, 64), model, images(1, (64, 64)))


def test_other_detectors_of_torchvision() -> None:
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5, min_size=64, max_size=96).eval()
    model.score_thresh = 0.0
    wrapped = Detector(model, model.backbone, first_label=0, predicts_masks=False).eval()
    assert_same(ExportableDetector(wrapped, SIZE), wrapped, images(2))


def test_the_detector_stays_as_it_was() -> None:
    model = detector("retinanet").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network = ExportableDetector(model, SIZE)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module.training for module in network.dense.backbone.modules())


@pytest.mark.parametrize("name", ["condinst", "faster_rcnn", "mask_rcnn"])
def test_other_heads_are_refused_by_name(name) -> None:
    model = create_detector({"name": name, **HEADS[name]}, timm.create_model("resnet10t", features_only=True), 3)
    expected = rf"the head {name.replace('_', '')} cannot be exported: .*\(fcos, retinanet, ssdlite\)"
    with pytest.raises(ValueError, match=f"(?i){expected}") as caught:
        ExportableDetector(model, 64)
    assert "\n" not in str(caught.value)


def test_a_head_with_steps_of_its_own_is_refused() -> None:
    class Other(RetinaNet):
        def postprocess_detections(self, *args):
            return super().postprocess_detections(*args)

    model = detector("retinanet")
    model.model.__class__ = Other
    with pytest.raises(ValueError, match="the head Other cannot be exported"):
        ExportableDetector(model, 64)


@pytest.mark.parametrize("shape", [(1, 3, 90, 70), (1, 1, 70, 90)])
def test_images_of_another_size_are_refused(shape) -> None:
    network = ExportableDetector(detector("fcos"), SIZE)
    with pytest.raises(ValueError, match=r"this detector takes \[B, 3, 70, 90\] \(image_size\)"):
        network(torch.rand(shape))
    with pytest.raises(ValueError, match="image_size must be an int >= 1"):
        ExportableDetector(detector("fcos"), 0)


@pytest.mark.parametrize("name", EXPORTABLE)
def test_disagreement_finds_every_wrong_list(name) -> None:
    model = detector(name, score_threshold=0.05)
    network = ExportableDetector(model, SIZE)
    with torch.no_grad():
        dense = network.dense(images(2))
        right = network.decide(dense)
        assert network.disagreement(dense, right, 1e-4) < 1e-6
        nudged = {**right, "scores": right["scores"] * (1 + 1e-5)}
        assert 0 < network.disagreement(dense, nudged, 1e-4) < 1e-4

        def wrong(**changes: torch.Tensor) -> float:
            return network.disagreement(dense, {**right, **changes}, 1e-4)

        infinite = float("inf")
        last = int(right["count"][1]) - 1
        assert last >= 2
        fewer = {key: right[key].clone() for key in right}
        for key in ("boxes", "scores", "labels"):
            fewer[key][1] = right[key][1].roll(-1, 0)
            fewer[key][1, last] = 0
        fewer["count"][1] -= 1
        assert wrong(**fewer) == infinite  # the best one is missing
        order = torch.arange(right["scores"].shape[1])
        order[0], order[last] = last, 0
        swapped = {key: right[key][:, order] for key in ("boxes", "scores", "labels")}
        assert wrong(**swapped) == infinite
        assert wrong(labels=right["labels"].where(right["labels"] == 0, right["labels"] % 3 + 1)) > 1e-3
        assert wrong(boxes=right["boxes"] + (right["boxes"] > 0)) > 1e-3
        assert wrong(**{key: right[key].flip(0) for key in right}) > 1e-3  # images mixed up
        twice = {key: right[key].clone() for key in ("boxes", "scores", "labels")}
        for value in twice.values():
            value[1, 1] = value[1, 0]
        assert wrong(**twice) == infinite
        beyond = right["boxes"].clone()
        beyond[1, last + 1 :] = 1
        assert last + 1 == model.model.detections_per_img or wrong(boxes=beyond) == infinite


@pytest.mark.parametrize("name", EXPORTABLE)
def test_as_a_file(name, tmp_path) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    several = 150 if name == "ssdlite" else 3
    model = detector(name, several, network="resnet10t", layer="dyconv", score_threshold=0.03, min_size=64)
    network, path = ExportableDetector(model, SIZE), tmp_path / "detector.onnx"
    file = export_onnx(network, path, image_size=SIZE)
    assert file.error < 1e-3 and {one.shape[0] for one in file.checked} == {1, 3, 8}
    assert [output.name for output in onnx.load(path).graph.output] == ["boxes", "scores", "labels", "count"]
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (images(1), images(5)):
        found = dict(
            zip(network.outputs, map(torch.from_numpy, session.run(None, {"image": batch.numpy()})), strict=True)
        )
        assert network.disagreement(network.dense(batch), found, 1e-3) < 1e-3
        assert found["count"].max() > 0 and found["labels"].dtype == torch.int64


def test_a_file_for_one_image_without_detections(tmp_path) -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    network = ExportableDetector(detector("fcos", network="resnet10t", score_threshold=1.0), SIZE)
    assert export_onnx(network, tmp_path / "one.onnx", image_size=SIZE, batch=1).error < 1e-3
