"""If these failed, people would blame the wrong class."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from dyvision.tasks import ClassificationTask, SegmentationTask
from dyvision.tasks.callbacks import ConfusionMatrixWriter
from dyvision.tasks.callbacks.confusion import save_confusion
from dyvision.tasks.metrics.accuracy import MOST_CONFUSED_CLASSES, TopKAccuracy


def test_rows_are_labels_and_accuracy_is_per_class():
    metric = TopKAccuracy(3, class_names=["cat", "dog", "emu"])
    logits = torch.eye(3)
    metric.update(logits[[0, 1, 1, 2]], torch.tensor([0, 0, 1, 1]))
    metric.compute()
    assert metric.last_confusion.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert metric.per_class["cat"] == {"accuracy": 0.5, "images": 2}
    assert np.isnan(metric.per_class["emu"]["accuracy"])


def test_no_matrix_that_takes_more_memory_than_the_network():
    metric = TopKAccuracy(MOST_CONFUSED_CLASSES + 1)
    metric.update(torch.rand(2, MOST_CONFUSED_CLASSES + 1), torch.tensor([0, 1]))
    metric.compute()
    assert metric.confusion.numel() == 0
    assert metric.per_class == {}


@pytest.mark.parametrize("task_class", [ClassificationTask, SegmentationTask])
def test_files_in_the_folder_of_the_run(make_data, make_trainer, tmp_path, task_class):
    kind = task_class.task
    head = {"head": "fcn"} if kind == "segmentation" else {}
    task = task_class("mobilenetv2_035", num_classes=3, **head)
    trainer = make_trainer(logger=CSVLogger(tmp_path), callbacks=[ConfusionMatrixWriter()])
    trainer.validate(task, datamodule=make_data(kind), verbose=False)
    rows = list(csv.reader(next(tmp_path.rglob("confusion_val.csv")).open()))
    assert rows[0][1:] == ["class_0", "class_1", "class_2"]
    counts = np.array([row[1:] for row in rows[1:]], dtype=int)
    assert counts.sum() == (7 if kind == "classification" else 7 * 40 * 33)
    assert next(tmp_path.rglob("confusion_val.png")).stat().st_size > 1000


def test_names_that_matplotlib_or_a_spreadsheet_might_interpret(tmp_path):
    names = ["$x^", "a, b", "line\nbreak", "Ä猫"]
    save_confusion(np.eye(4, dtype=np.int64), names, tmp_path / "confusion")
    assert next(csv.reader((tmp_path / "confusion.csv").open(newline="", encoding="utf-8")))[1:] == names


def test_class_weights_enter_the_loss_and_not_the_accuracy(make_data, make_trainer):
    data = make_data()
    found = {}
    for name, weights in (("plain", None), ("weighted", [3.0, 1.0, 1.0])):
        torch.manual_seed(0)
        task = ClassificationTask("mobilenetv2_035", num_classes=3, class_weights=weights)
        found[name] = make_trainer().validate(task, datamodule=data, verbose=False)[0]
        with torch.no_grad():
            logits = task.eval()(data.eval_set.images).float()
        expected = torch.nn.functional.cross_entropy(
            logits, data.eval_set.labels, None if weights is None else torch.tensor(weights)
        )
        assert found[name]["val/loss"] == pytest.approx(expected.item(), rel=1e-4)
        # in training, too
        batch = {"image": data.eval_set.images, "label": data.eval_set.labels}
        assert task._step(batch, "train").item() == pytest.approx(expected.item(), rel=1e-4)
    assert found["plain"]["val/top1"] == found["weighted"]["val/top1"]
    assert found["plain"]["val/loss"] != pytest.approx(found["weighted"]["val/loss"], rel=1e-6)


def test_weights_for_another_number_of_classes_are_refused():
    with pytest.raises(ValueError, match="class_weights has 2 entries for num_classes=3"):
        ClassificationTask("mobilenetv2_035", num_classes=3, class_weights=[1.0, 2.0])


@pytest.mark.parametrize("weights", [[1.0, -1.0, 1.0], [1.0, float("nan"), 1.0], [0.0, 0.0, 0.0], [1.0, 1e9, 1.0]])
@pytest.mark.parametrize("num_classes", [3, None])  # None: before the data is read
def test_weights_out_of_range_are_refused(weights, num_classes):
    with pytest.raises(ValueError, match=r"^class_weights="):
        ClassificationTask("mobilenetv2_035", num_classes=num_classes, class_weights=weights)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_batch_without_a_class_that_counts_has_no_loss(smoothing):
    weights = [0.0, 1.0, 1.0]
    task = ClassificationTask("mobilenetv2_035", num_classes=3, class_weights=weights, label_smoothing=smoothing)
    batch = {"image": torch.rand(2, 3, 32, 32), "label": torch.tensor([0, 0])}
    loss = task._step(batch, "train")
    assert loss.item() == 0 and loss.requires_grad
    task.eval()._step(batch, "val")
    batch["label"] = torch.tensor([0, 1])
    task._step(batch, "val")
    assert torch.isfinite(task.losses["val"].compute())
