"""If these failed, a segmentation network would not learn, or be evaluated on something else than the labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dyvision.tasks import SegmentationTask

BACKBONE = "mobilenetv2_035"
OPTIONS = {"backbone": BACKBONE, "head": {"name": "deeplabv3", "channels": 16}, "num_classes": 3}


def test_loss_falls_on_a_batch_seen_ten_times(make_data):
    task = SegmentationTask(backbone=BACKBONE, head="fcn", aux_head="fcn", num_classes=3)
    batch = next(iter(make_data("segmentation").train_dataloader()))
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-2)
    task.train()
    losses = []
    for _ in range(10):
        loss = task._step(batch, "train")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("size", [(33, 47), (64, 64), (1, 70)])
def test_logits_have_the_size_of_the_image(size):
    task = SegmentationTask(**OPTIONS).eval()
    assert task(torch.rand(2, 3, *size)).shape == (2, 3, *size)


def test_auxiliary_head_counts_in_training_only(make_data):
    batch = next(iter(make_data("segmentation").train_dataloader()))
    values = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        task = SegmentationTask(**OPTIONS, aux_head="fcn", aux_weight=weight).train()
        torch.manual_seed(1)
        values[weight] = task._step(batch, "train").item()
    assert values[1.0] > values[0.0] + 0.1


def test_miou_equals_numpy_on_the_predictions(make_data, make_trainer):
    data = make_data("segmentation", padded=2)
    data.eval_set.labels[0, :5] = 255
    task = SegmentationTask(backbone=BACKBONE, head="fcn")
    values = make_trainer().validate(task, datamodule=data, verbose=False)[0]
    predictions = make_trainer().predict(task, datamodule=data)
    maps = np.stack([label_map.numpy() for batch in predictions for label_map in batch["label_maps"]])
    labels = data.eval_set.labels.numpy()
    assert maps.shape == labels.shape, "padding is not predicted"
    known = labels != 255
    ious = []
    for index in range(3):
        hit, either = (maps == index) & (labels == index), (maps == index) | (labels == index)
        ious.append((hit & known).sum() / (either & known).sum() if (either & known).any() else np.nan)
        assert values[f"val/IoU/class_{index}"] == pytest.approx(ious[-1], abs=1e-6, nan_ok=True)
    assert values["val/mIoU"] == pytest.approx(np.nanmean(ious), abs=1e-6)
    assert values["val/pixel_accuracy"] == pytest.approx((maps == labels)[known].mean(), abs=1e-6)


def test_metrics_do_not_depend_on_batches_or_padding(make_data, make_trainer):
    task = SegmentationTask(backbone=BACKBONE, head="fcn", num_classes=3, class_weights=[1.0, 2.0, 3.0])
    results = []
    for batch_size, padded in ((1, 0), (5, 0), (4, 3)):
        data = make_data("segmentation", batch_size=batch_size, padded=padded)
        data.eval_set.labels[0, :, :20] = 255
        results.append(make_trainer().test(task, datamodule=data, verbose=False)[0])
    assert results[0] == pytest.approx(results[1], rel=1e-5, nan_ok=True)
    assert results[0] == pytest.approx(results[2], rel=1e-5, nan_ok=True)


def test_images_of_different_sizes_are_evaluated_without_their_padding():
    """A padded batch gives each image the logits it has alone."""
    task = SegmentationTask(**OPTIONS).eval()
    small, large = torch.rand(1, 3, 32, 40), torch.rand(1, 3, 48, 64)
    images = torch.zeros(2, 3, 48, 64)
    images[0, :, :32, :40], images[1] = small[0], large[0]
    mask = torch.full((2, 48, 64), 255)
    mask[0, :32, :40], mask[1] = 1, 2
    batch = {"image": images, "mask": mask, "size": [(32, 40), (48, 64)], "path": ["a", "b"],
             "original_size": [(16, 20), (96, 128)]}  # fmt: skip
    with torch.no_grad():
        task._step(batch, "val")
        alone = [task(small).argmax(1), task(large).argmax(1)]
        prediction = task.predict_step(batch, 0)
    expected = torch.bincount(torch.cat([alone[0].flatten() + 3, alone[1].flatten() + 6]), minlength=9).reshape(3, 3)
    assert torch.equal(task.metrics["val"].confusion, expected)
    assert [tuple(label_map.shape) for label_map in prediction["label_maps"]] == [(16, 20), (96, 128)]


def test_labels_finer_than_the_image_are_evaluated_at_their_own_resolution():
    task = SegmentationTask(**OPTIONS).eval()
    batch = {"image": torch.rand(1, 3, 32, 32), "mask": torch.zeros(1, 50, 64, dtype=torch.int64), "path": ["a"]}
    with torch.no_grad():
        task._step(batch, "val")
    assert task.metrics["val"].confusion.sum() == 50 * 64


def test_sliding_window_and_flip_run_in_evaluation(make_data, make_trainer):
    inference = {"mode": "slide", "crop_size": [32, 32], "stride": [16, 16], "flip": True}
    task = SegmentationTask(backbone=BACKBONE, head="fcn", inference=inference)
    values = make_trainer().validate(task, datamodule=make_data("segmentation"), verbose=False)[0]
    assert 0 <= values["val/mIoU"] <= 1


def test_a_crop_without_labels_does_not_stop_training():
    task = SegmentationTask(**OPTIONS).train()
    mask = torch.full((2, 32, 32), 255)
    loss = task.training_step({"image": torch.rand(2, 3, 32, 32), "mask": mask, "path": ["a", "b"]}, 0)
    loss.backward()
    assert loss == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "deeplab"}, "did you mean 'deeplabv3'"),
        ({"aux_head": "fcm"}, "unknown aux_head 'fcm'"),
        ({"loss": "ohm"}, "did you mean 'ohem'"),
        ({"loss": {"name": "ohem", "treshold": 1}}, "did you mean 'threshold'"),
        ({"class_weights": [1.0]}, "class_weights has 1 entries for num_classes=3"),
        ({"ignore_index": 1}, "ignore_index=1 is one of the 3 classes"),
        ({"inference": {"mode": "slide"}}, "crop_size"),
        ({"output_stride": 7}, "output_stride"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        SegmentationTask(**{**OPTIONS, **arguments})


@pytest.mark.parametrize("stage", ["train", "val"])
def test_label_outside_the_classes(stage):
    task = SegmentationTask(**OPTIONS)
    mask = torch.zeros(2, 32, 32, dtype=torch.int64)
    mask[1, 3, 4] = 19
    batch = {"image": torch.rand(2, 3, 32, 32), "mask": mask, "path": ["a.png", "b.png"]}
    with pytest.raises(ValueError, match=r"the label map of b.png has the value 19; expected 0 to 2"):
        task.eval()._step(batch, stage)
