"""If these failed, the mIoU reported would not be the Cityscapes protocol's: one confusion matrix of the whole set."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dyvision.tasks.metrics.segmentation import SegmentationMetrics


def reference(pairs, num_classes: int, ignore_index: int = 255) -> tuple[float, float, list[float]]:
    """Intersections and unions as sets of pixels, with NumPy only."""
    prediction = np.concatenate([np.ravel(p) for p, _ in pairs])
    label = np.concatenate([np.ravel(m) for _, m in pairs])
    prediction, label = prediction[label != ignore_index], label[label != ignore_index]
    ious = []
    for index in range(num_classes):
        union = np.sum((prediction == index) | (label == index))
        ious.append(np.sum((prediction == index) & (label == index)) / union if union else float("nan"))
    return float(np.nanmean(ious)), float(np.mean(prediction == label)), ious


def test_equals_a_computation_on_sets_of_pixels():
    generator = np.random.default_rng(0)
    metric = SegmentationMetrics(5, ["a", "b", "c", "d", "e"])
    pairs = []
    for number, shape in enumerate([(2, 7, 9), (1, 30, 4), (3, 5, 5)]):
        # class 3 is never there, class 4 only predicted, and images differ in what they show
        label = generator.choice([0, 1, 2, 255], shape, p=[0.5, 0.1, 0.2, 0.2] if number else [0.1, 0.6, 0.1, 0.2])
        prediction = np.where(generator.random(shape) < 0.6, np.where(label == 255, 0, label), 4 * (number == 1))
        pairs.append((prediction, label))
        metric.update(torch.from_numpy(prediction), torch.from_numpy(label))
    mean, accuracy, ious = reference(pairs, 5)
    values = metric.compute()
    assert values["mIoU"].item() == pytest.approx(mean, abs=1e-6)
    assert values["pixel_accuracy"].item() == pytest.approx(accuracy, abs=1e-6)
    for name, iou in zip("abcde", ious, strict=True):
        assert values[f"IoU/{name}"].item() == pytest.approx(iou, abs=1e-6, nan_ok=True)
    assert torch.isnan(values["IoU/d"])
    assert values["IoU/e"] == 0
    per_batch = np.mean([reference([pair], 5)[0] for pair in pairs])
    assert abs(per_batch - mean) > 0.01, "the example must tell the protocol from a mean over batches"


def test_worked_out_by_hand():
    metric = SegmentationMetrics(3)
    metric.update(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 1, 255]]))
    values = metric.compute()
    # class 0: 1 of 2; class 1: 1 of 2; class 2 absent; two of three pixels right
    assert values["mIoU"] == 0.5
    assert values["pixel_accuracy"].item() == pytest.approx(2 / 3)


def test_counts_survive_more_pixels_than_float32_can_count():
    metric = SegmentationMetrics(2)
    metric.confusion += torch.tensor([[2**25, 0], [0, 0]])
    metric.update(torch.tensor([0]), torch.tensor([0]))
    assert metric.confusion[0, 0] == 2**25 + 1


def test_label_that_is_no_class():
    with pytest.raises(ValueError, match=r"has the value 7; expected 0 to 2, or ignore_index=255"):
        SegmentationMetrics(3).update(torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[7, 255]]))


def test_classes_of_the_same_name_stay_apart():
    assert [name for name in SegmentationMetrics(3, ["a", "b", "a"]).compute() if "/" in name] == [
        "IoU/a (0)", "IoU/b", "IoU/a (2)",
    ]  # fmt: skip
