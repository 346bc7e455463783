"""If these failed, a detector would crash on some image, misplace its boxes, or leave weights untrained."""

from __future__ import annotations

import pytest
import timm
import torch
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from dyvision.tasks.heads.detection import create_detector, list_detection_heads
from dyvision.tasks.heads.detection.config import DetectorConfig
from dyvision.tasks.heads.detection.outputs import to_original
from dyvision.tasks.heads.detection.transform import DetectionTransform, drop_degenerate_boxes

SMALL_RCNN = {"fpn_channels": 16, "representation_size": 32, "box_batch_size_per_image": 32, "rpn_proposals_train": 50}
#: small enough for a test, and every argument is one a user may need
HEADS = {
    "condinst": {"fpn_channels": 16, "num_convs": 1, "mask_convs": 1, "mask_channels": 8},
    "faster_rcnn": SMALL_RCNN,
    "fcos": {"fpn_channels": 20, "num_convs": 1},
    "mask_rcnn": {**SMALL_RCNN, "mask_convs": 1, "mask_channels": 8},
    "retinanet": {"fpn_channels": 16, "num_convs": 2, "norm": "group"},
    "ssdlite": {"extra_channels": [32, 16]},
}
NUM_CLASSES = 3


def detector(name: str, config: DetectorConfig | None = None, backbone: torch.nn.Module | None = None, **arguments):
    torch.manual_seed(0)
    backbone = backbone or timm.create_model("mobilenetv2_035", features_only=True, out_indices=(1, 2, 3, 4))
    return create_detector({"name": name, **HEADS[name], **arguments}, backbone, NUM_CLASSES, config)


def batch(sizes: list[tuple[int, int]], objects: int = 2) -> tuple[list[torch.Tensor], list[dict]]:
    generator = torch.Generator().manual_seed(0)
    images, targets = [], []
    for height, width in sizes:
        image = torch.rand(3, height, width, generator=generator)
        boxes = torch.tensor(
            [[1.0, 2.0, width - 2, height - 1], [0.1 * width, 0.2 * height, 0.6 * width, 0.8 * height]]
        )
        masks = torch.zeros(objects, height, width, dtype=torch.uint8)
        for mask, box in zip(masks, boxes, strict=False):
            x1, y1, x2, y2 = box.int().tolist()
            mask[y1:y2, x1:x2] = 1
        images.append(image)
        targets.append({"boxes": boxes[:objects], "labels": torch.tensor([1, NUM_CLASSES])[:objects], "masks": masks})
    return images, targets


def test_every_head_is_tested():
    assert sorted(HEADS) == list_detection_heads()


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("objects", [2, 0], ids=["objects", "empty"])
@pytest.mark.parametrize("name", HEADS)
def test_every_parameter_gets_a_finite_gradient(name, objects, autocast):
    # DDP needs a gradient for every parameter in every step, also where no image has an object
    model = detector(name)
    images, targets = batch([(64, 80), (57, 43)], objects)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = model(images, targets)
    loss = sum(losses.values())
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
    loss.backward()
    wrong = [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not wrong


@pytest.mark.parametrize("sizes", [[(9, 14)], [(200, 7)], [(33, 65), (1, 3)]], ids=str)
@pytest.mark.parametrize("min_size", [None, 48])
@pytest.mark.parametrize("name", HEADS)
def test_any_image_size_trains_and_detects(name, min_size, sizes):
    model = detector(name, DetectorConfig(min_size=min_size, max_size=96, score_threshold=0.0))
    images, targets = batch(sizes, objects=0)
    assert torch.isfinite(sum(model(images, targets).values()))
    model.eval()
    with torch.no_grad():
        found = model(images)
    for (height, width), detections in zip(sizes, found, strict=True):
        boxes, labels = detections["boxes"], detections["labels"]
        assert len(boxes) > 0 and (boxes >= 0).all()
        assert (boxes[:, 2] <= width + 1e-3).all() and (boxes[:, 3] <= height + 1e-3).all()
        assert set(labels.tolist()) <= set(range(1, NUM_CLASSES + 1))
        if name == "mask_rcnn":
            assert detections["masks"].shape == (len(boxes), 1, height, width)


@pytest.mark.parametrize("name", HEADS)
def test_the_loss_of_a_batch_seen_again_and_again_falls(name):
    arguments = {} if name == "ssdlite" else {"anchor_scale": 0.5}
    model = detector(name, DetectorConfig(score_threshold=0.3), **arguments)
    images, targets = batch([(64, 64), (64, 64)], objects=1)
    targets[1]["labels"] = torch.tensor([2])
    for image, target in zip(images, targets, strict=True):
        x1, y1, x2, y2 = target["boxes"][0].int().tolist()
        image *= 0.2
        image[int(target["labels"]) - 1, y1:y2, x1:x2] += 0.7
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for _ in range(25):
        losses = model(images, targets)
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    assert sum(history[-3:]) < 0.6 * sum(history[:3])


class TorchvisionBody(torch.nn.Module):
    """torchvision's ResNet body behind the contract of our backbones: a list of maps and ``feature_info``."""

    def __init__(self, body: torch.nn.Module) -> None:
        super().__init__()
        self.net = body
        levels = len(body.return_layers)
        names = {"num_chs": [64, 128, 256, 512][-levels:], "reduction": [4, 8, 16, 32][-levels:]}
        infos = [{"num_chs": c, "reduction": r, "module": ""} for c, r in zip(*names.values(), strict=True)]
        self.feature_info = timm.models.FeatureInfo(infos, out_indices=tuple(range(levels)))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return list(self.net(x).values())


def torchvision_detector(name: str) -> torch.nn.Module:
    levels = [1, 2, 3, 4] if "rcnn" in name else [2, 3, 4]
    extra = {"retinanet": LastLevelP6P7(512, 256), "fcos": LastLevelP6P7(256, 256)}.get(name)
    body = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        norm_layer=torch.nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=levels,
        extra_blocks=extra,
    )
    models = {"retinanet": RetinaNet, "fcos": FCOS, "faster_rcnn": FasterRCNN, "mask_rcnn": MaskRCNN}
    prefix = "box_" if "rcnn" in name else ""
    limits = {f"{prefix}score_thresh": 0.0, f"{prefix}detections_per_img": 25}
    arguments = {"rpn_pre_nms_top_n_test": 200, "rpn_post_nms_top_n_test": 200} if prefix else {}
    if prefix:
        sizes = ((32,), (64,), (128,), (256,), (512,))
        arguments["rpn_anchor_generator"] = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    return models[name](body, 8, min_size=128, max_size=160, **limits, **arguments)


@pytest.mark.parametrize("name", ["retinanet", "fcos", "faster_rcnn", "mask_rcnn"])
def test_with_default_arguments_a_detector_is_torchvisions(name):
    # same weights, same images: the same detections
    torch.manual_seed(0)
    theirs = torchvision_detector(name).eval()
    # our sigmoid heads have no score for the background: there, take torchvision's 8 scores as 8 classes
    shift = int("rcnn" not in name)
    config = DetectorConfig(min_size=128, max_size=160, score_threshold=0.0, detections_per_image=25)
    arguments = {} if shift else {"rpn_proposals_test": 200}
    ours = create_detector({"name": name, **arguments}, TorchvisionBody(theirs.backbone.body), 7 + shift, config).eval()
    renamed = {key.replace("backbone.body.", "backbone.body.net."): value for key, value in theirs.state_dict().items()}
    ours.model.load_state_dict(renamed)
    images = [torch.rand(3, 100, 120), torch.rand(3, 110, 90)]
    with torch.no_grad():
        expected, found = theirs(images), ours(images)
    for one, other in zip(expected, found, strict=True):
        assert len(one["boxes"]) == 25
        torch.testing.assert_close(other["scores"], one["scores"])
        torch.testing.assert_close(other["boxes"], one["boxes"], atol=1e-3, rtol=1e-4)
        assert torch.equal(other["labels"], one["labels"] + shift)
        if name == "mask_rcnn":
            torch.testing.assert_close(other["masks"], one["masks"])


def test_labels_are_shifted_back():
    model = detector("fcos", DetectorConfig(score_threshold=0.0))
    head = model.model.head.classification_head.cls_logits
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([-9.0, -9.0, 9.0]))  # the last class everywhere
    model.eval()
    with torch.no_grad():
        best = model(batch([(64, 64)])[0])[0]
    assert best["labels"][0] == NUM_CLASSES


@pytest.mark.parametrize("name", ["retinanet", "fcos", "faster_rcnn"])
def test_anchors_follow_the_reductions(name):
    model = detector(name, anchor_scale=0.5).model
    generator = model.rpn.anchor_generator if name == "faster_rcnn" else model.anchor_generator
    first = [sizes[0] for sizes in generator.sizes]
    unit = {"retinanet": 4, "fcos": 1, "faster_rcnn": 8}[name]
    finest = 4 if name == "faster_rcnn" else 8
    assert first == [unit * finest * 2**level / 2 for level in range(5)]


def test_repeated_reductions_of_a_dilated_backbone():
    backbone = timm.create_model("mobilenetv2_035", features_only=True, out_indices=(1, 2, 3, 4), output_stride=16)
    model = detector("faster_rcnn", backbone=backbone)
    assert model.model.backbone.reductions == [4, 8, 16, 16, 32]
    assert model.model.roi_heads.box_roi_pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 16]
    assert torch.isfinite(sum(model(*batch([(64, 64)])).values()))


def test_roi_scales_do_not_depend_on_the_first_image():
    # torchvision infers them from the first batch: from an 18-pixel image padded to 64 it would get 1 instead of 1/4
    model = detector("faster_rcnn")
    model(*batch([(18, 18)]))
    assert model.model.roi_heads.box_roi_pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]


@pytest.mark.parametrize(
    ("config", "square", "expected"),
    [
        (DetectorConfig(), False, (30, 50)),
        (DetectorConfig(min_size=60, max_size=1000), False, (60, 100)),
        (DetectorConfig(min_size=60, max_size=80), False, (48, 80)),
        (DetectorConfig(min_size=60, max_size=None), False, (60, 100)),
        (DetectorConfig(min_size=40), True, (40, 40)),
    ],
)
def test_resizing_moves_boxes_and_masks_with_the_image(config, square, expected):
    transform = DetectionTransform(config, size_divisible=32, square=square)
    images, targets = batch([(30, 50)])
    before = targets[0]["boxes"].clone()
    resized, new = transform(images, targets)
    assert resized.image_sizes == [expected]
    assert resized.tensors.shape[-2:] == (64, 64 if expected[1] <= 64 else 32 * -(-expected[1] // 32))
    scale = torch.tensor([expected[1] / 50, expected[0] / 30]).repeat(2)
    torch.testing.assert_close(new[0]["boxes"], before * scale)
    assert new[0]["masks"].shape == (2, *expected)
    torch.testing.assert_close(targets[0]["boxes"], before)  # the batch is not changed


def test_normalisation_and_padding():
    transform = DetectionTransform(DetectorConfig(image_mean=(0.5, 0.5, 0.5), image_std=(0.25, 0.5, 1.0)), 32)
    image = torch.ones(3, 8, 8)
    tensors = transform([image])[0].tensors
    assert tensors[0, :, 0, 0].tolist() == [2.0, 1.0, 0.5]
    assert tensors[0, :, 9, 9].tolist() == [0.0, 0.0, 0.0]


def test_several_sizes_are_drawn_in_training_and_the_last_one_counts_in_evaluation():
    transform = DetectionTransform(DetectorConfig(min_size=[32, 48, 64]), 32)
    image = torch.rand(3, 40, 40)
    sizes = {transform([image])[0].image_sizes[0] for _ in range(40)}
    assert sizes == {(32, 32), (48, 48), (64, 64)}
    transform.eval()
    assert {transform([image])[0].image_sizes[0] for _ in range(5)} == {(64, 64)}


def test_detections_go_back_to_original_pixels_and_ids():
    masks = torch.zeros(1, 1, 10, 20)
    masks[0, 0, 2:6, 4:10] = 0.9
    found = {
        "boxes": torch.tensor([[4.0, 2.0, 10.0, 6.0]]),
        "labels": torch.tensor([2]),
        "scores": torch.tensor([0.5]),
        "masks": masks,
    }
    result = to_original(found, (10, 20), (30, 40), class_ids=[3, 44, 90])
    assert result["boxes"].tolist() == [[8.0, 6.0, 20.0, 18.0]]
    assert result["category_ids"].tolist() == [44] and result["labels"].tolist() == [2]
    assert result["masks"].shape == (1, 30, 40) and result["masks"].dtype == torch.bool
    assert abs(int(result["masks"].sum()) - 12 * 12) <= 24
    assert result["masks"][0, 12, 14] and not result["masks"][0, 2, 2]


def test_boxes_without_area_are_left_out():
    boxes = torch.tensor(
        [[0.0, 0.0, 5.0, 5.0], [3.0, 3.0, 3.0, 9.0], [4.0, 4.0, 2.0, 9.0], [0.0, 0.0, float("nan"), 1.0]]
    )
    target = {"boxes": boxes, "labels": torch.tensor([1, 2, 3, 1]), "masks": torch.ones(4, 9, 9), "image_id": 5}
    kept, dropped = drop_degenerate_boxes(target)
    assert dropped == 3 and kept["labels"].tolist() == [1] and len(kept["masks"]) == 1 and kept["image_id"] == 5
    assert len(target["boxes"]) == 4
    assert drop_degenerate_boxes(kept)[1] == 0
