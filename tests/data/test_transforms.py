"""If these fail, a pipeline in YAML does something else than it says, or labels no longer lie on their pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from albumentations import DualTransform
from albumentations.core.type_definitions import Targets

from dyvision.data.errors import DataError
from dyvision.data.pipeline import Normalize, Pipeline, to_tensor
from dyvision.data.transforms import available_transforms, build_transforms


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "item",
    [
        {"HorizontalFlip": {"p": 1.0}},
        {"name": "HorizontalFlip", "p": 1.0},
        {"class_path": "albumentations.HorizontalFlip", "init_args": {"p": 1.0}},
        {"OneOf": {"transforms": [{"HorizontalFlip": {"p": 1.0}}], "p": 1.0}},
        {
            "Sequential": {
                "transforms": [{"Sequential": {"transforms": [{"HorizontalFlip": {"p": 1}}], "p": 1}}],
                "p": 1,
            }
        },
        {"OneOrOther": {"first": {"HorizontalFlip": {"p": 1}}, "second": {"HorizontalFlip": {"p": 1}}}},
    ],
)
def test_every_form_of_an_item_flips(item: Any, image: np.ndarray) -> None:
    out = Pipeline([item], "classification")(image, seed=1)
    assert np.array_equal(out.image, image[:, ::-1])


def test_a_name_alone_uses_the_defaults() -> None:
    assert build_transforms(["HorizontalFlip"])[0].p == 0.5
    assert build_transforms([{"HorizontalFlip": None}])[0].p == 0.5


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("HorizontalFlop", r"train_transform\[0\]: unknown transform 'HorizontalFlop'.*'HorizontalFlip'"),
        ({"RandomResizedCrop": {"sise": [8, 8]}}, r"no argument 'sise'.*'size'"),
        ({"RandomResizedCrop": {"size": [8, -8]}}, r"RandomResizedCrop: .*-8"),
        ({"RandomResizedCrop": {}}, "size"),
        ({"RandomBrightnessContrast": {"p": "often"}}, "often"),
        ({"OneOf": {"transforms": ["Blurr"]}}, r"train_transform\[0\].transforms\[0\]: unknown transform 'Blurr'"),
        ({"Normalize": {}}, "mean and std.*remove it"),
        ("ToTensorV2", "remove it"),
        ({"class_path": "nowhere.At.All"}, "cannot import 'nowhere.At.All'"),
        ({"class_path": "collections.OrderedDict"}, "not an albumentations transform"),
        ({"class_path": "albumentations.HorizontalFlip", "p": 1}, "p must stand under init_args"),
        ({"HorizontalFlip": {}, "VerticalFlip": {}}, "one item holds one transform"),
        (3, "3 is not a transform"),
        ({}, "not a transform"),
        ({"HorizontalFlip": 0.5}, "not a transform"),
    ],
)
def test_a_wrong_item_is_named(item: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        build_transforms([item], "train_transform")
    assert "\n" not in str(error.value)


def test_a_pipeline_is_a_list() -> None:
    with pytest.raises(ValueError, match="eval_transform: expected a list of transforms, got dict"):
        build_transforms({"HorizontalFlip": {}}, "eval_transform")  # type: ignore[arg-type]


def test_base_classes_are_not_offered() -> None:
    names = available_transforms()
    assert {"HorizontalFlip", "OneOf", "RandomResizedCrop"} <= set(names)
    assert not {"BasicTransform", "DualTransform", "ImageOnlyTransform", "Compose", "Normalize"} & set(names)


def test_the_seed_alone_decides(image: np.ndarray) -> None:
    spec = [{"RandomResizedCrop": {"size": [16, 16]}}, "HorizontalFlip", {"ColorJitter": {"p": 0.8}}]
    one, other = Pipeline(spec, "classification"), Pipeline(spec, "classification")
    for seed in (5, 6, 7):
        other(image, seed=99)  # history
        assert np.array_equal(one(image, seed=seed).image, other(image, seed=seed).image)
    assert not np.array_equal(one(image, seed=5).image, one(image, seed=6).image)


def test_transforms_are_independent_of_each_other(image: np.ndarray) -> None:
    pipeline = Pipeline(["HorizontalFlip", "VerticalFlip"], "classification")
    outcomes = {pipeline(image, seed=seed).image.tobytes() for seed in range(40)}
    assert len(outcomes) == 4  # with one seed for all there would be two


def test_padding_is_ignored_in_masks(image: np.ndarray) -> None:
    mask = np.zeros(image.shape[:2], np.uint8)
    pad = {"PadIfNeeded": {"min_height": 60, "min_width": 60}}
    out = Pipeline([pad, {"Rotate": {"limit": [30, 30], "p": 1}}], "segmentation")(image, seed=0, mask=mask)
    assert out.mask is not None
    assert set(np.unique(out.mask)) == {0, 255}
    chosen = {"PadIfNeeded": {"min_height": 60, "min_width": 60, "fill_mask": 7}}
    explicit = Pipeline([chosen], "segmentation")(image, seed=0, mask=mask)
    assert set(np.unique(explicit.mask)) == {0, 7}


def test_dropout_keeps_the_labels_below_it(image: np.ndarray) -> None:
    mask = np.ones(image.shape[:2], np.uint8)
    out = Pipeline([{"CoarseDropout": {"p": 1}}], "segmentation")(image, seed=0, mask=mask)
    assert not np.array_equal(out.image, image)
    assert np.array_equal(out.mask, mask)


def test_boxes_and_masks_follow_the_pixels() -> None:
    image = np.zeros((40, 50, 3), np.uint8)
    boxes = np.array([[2, 4, 12, 14], [30, 10, 48, 38]], np.float32)
    masks = np.zeros((2, 40, 50), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        image[top:bottom, left:right] = 255
        mask[top:bottom, left:right] = 1
    flip = Pipeline([{"HorizontalFlip": {"p": 1}}], "detection")(image, seed=0, boxes=boxes, masks=masks)
    assert flip.boxes == pytest.approx(np.array([[38, 4, 48, 14], [2, 10, 20, 38]]), abs=1e-3)
    assert flip.kept is not None
    assert flip.kept.tolist() == [0, 1]
    assert flip.masks is not None
    assert np.array_equal(flip.masks.max(axis=0) * 255, flip.image[..., 0])


def test_a_crop_clips_and_drops_boxes_with_their_masks() -> None:
    image = np.zeros((40, 50, 3), np.uint8)
    boxes = np.array([[0, 0, 10, 10], [15, 15, 35, 35], [21, 5, 60, 40]], np.float32)
    boxes[2, 2] = 50
    masks = np.stack([np.full((40, 50), value, np.uint8) for value in (1, 2, 3)])
    crop = {"Crop": {"x_min": 20, "y_min": 12, "x_max": 40, "y_max": 40}}
    out = Pipeline([crop], "detection")(image, seed=0, boxes=boxes, masks=masks)
    assert out.image.shape == (28, 20, 3)
    assert out.kept is not None
    assert out.kept.tolist() == [1, 2]
    assert out.boxes == pytest.approx(np.array([[0, 3, 15, 23], [1, 0, 20, 28]]), abs=1e-3)
    assert out.masks is not None
    assert [int(mask.max()) for mask in out.masks] == [2, 3]


def test_no_boxes_at_all(image: np.ndarray) -> None:
    empty = np.zeros((0, 4), np.float32)
    pipeline = Pipeline([{"Resize": {"height": 20, "width": 25}}], "detection")
    out = pipeline(image, seed=0, boxes=empty, masks=np.zeros((0, 40, 50), np.uint8))
    assert out.boxes is not None
    assert out.boxes.shape == (0, 4)
    assert out.masks is not None
    assert out.masks.shape == (0, 20, 25)


def test_colour_alone_leaves_boxes_exactly_as_they_were(image: np.ndarray) -> None:
    boxes = np.array([[1, 2, 30, 31]], np.float32)
    out = Pipeline([{"ColorJitter": {"p": 1}}], "detection")(image, seed=0, boxes=boxes)
    assert out.boxes == pytest.approx(boxes, abs=1e-4)


def test_a_transform_that_cannot_move_the_labels_is_refused() -> None:
    class BoxesOnly(DualTransform):
        _targets = (Targets.IMAGE, Targets.BBOXES)

    Pipeline([BoxesOnly(p=1)], "detection")  # type: ignore[list-item]
    with pytest.raises(ValueError, match="BoxesOnly cannot move masks along"):
        Pipeline([BoxesOnly(p=1)], "segmentation")  # type: ignore[list-item]


def test_a_failing_transform_names_the_file(image: np.ndarray) -> None:
    pipeline = Pipeline([{"RandomCrop": {"height": 64, "width": 64}}], "classification", "train_transform")
    with pytest.raises(DataError, match=r"train_transform failed on x/y.png of height 40 and width 50: .*64"):
        pipeline(image, seed=0, path="x/y.png")


def test_a_pipeline_must_keep_pixels(image: np.ndarray) -> None:
    pipeline = Pipeline([{"ToGray": {"num_output_channels": 1, "p": 1}}], "classification", "train_transform")
    with pytest.raises(DataError, match=r"turned x.png into uint8 \[40, 50"):
        pipeline(image, seed=0, path="x.png")


def test_normalisation_is_the_textbook_formula(image: np.ndarray) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    expected = ((image / 255.0 - mean) / std).transpose(2, 0, 1)
    assert Normalize(mean, std)(image).numpy() == pytest.approx(expected, abs=1e-6)
    assert to_tensor(image).numpy() == pytest.approx(image.transpose(2, 0, 1) / 255.0, abs=1e-6)


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5,)), ((0.5, 0.5, 0.5), (0.5, 0.0, 0.5))])
def test_wrong_statistics_are_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"(mean|std)=.*expected 3 numbers"):
        Normalize(mean, std)
