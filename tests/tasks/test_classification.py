"""If these failed, a classifier would not learn, or its accuracy would not be that of the data set."""

from __future__ import annotations

import pytest
import torch

from dyvision.tasks import ClassificationTask
from dyvision.tasks.metrics.accuracy import TopKAccuracy

BACKBONE = "mobilenetv2_035"


def test_loss_falls_on_a_batch_seen_ten_times(make_data):
    task = ClassificationTask(backbone=BACKBONE, num_classes=3, label_smoothing=0.1)
    batch = next(iter(make_data().train_dataloader()))
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-3)
    task.train()
    losses = []
    for _ in range(10):
        loss = task._step(batch, "train")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_accuracy_worked_out_by_hand():
    metric = TopKAccuracy(6)
    logits = torch.tensor([[6.0, 5, 4, 3, 2, 1], [6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]])
    metric.update(logits[:3], torch.tensor([0, 1, 0]))
    metric.update(logits[3:], torch.tensor([4]))
    # first: top-1; second and fourth: second place; third: last of six
    assert {name: value.item() for name, value in metric.compute().items()} == {"top1": 0.25, "top5": 0.75}


@pytest.mark.parametrize("num_classes", [1, 2, 4])
def test_few_classes_clip_k(num_classes):
    metric = TopKAccuracy(num_classes)
    metric.update(torch.rand(3, num_classes), torch.zeros(3, dtype=torch.int64))
    assert metric.compute()["top5"] == 1


def test_padding_does_not_count(make_data, make_trainer):
    """Three samples that only fill up a distributed evaluation change neither loss nor accuracy."""
    torch.manual_seed(0)
    task = ClassificationTask(backbone=BACKBONE, num_classes=3)
    plain, padded = (
        make_trainer().validate(task, datamodule=make_data(padded=padded), verbose=False)[0] for padded in (0, 3)
    )
    assert padded == pytest.approx(plain, rel=1e-5)
    assert set(plain) == {"val/loss", "val/top1", "val/top5"}


def test_metrics_do_not_depend_on_the_batch_size(make_data, make_trainer):
    task = ClassificationTask(backbone=BACKBONE, num_classes=3)
    data = make_data()
    results = []
    for batch_size in (2, 5):
        data.batch_size = batch_size
        results.append(make_trainer().test(task, datamodule=data, verbose=False)[0])
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    # an independent computation on all samples at once
    with torch.no_grad():
        logits = task.eval()(data.eval_set.images[:7])
    labels = data.eval_set.labels[:7]
    assert results[0]["test/top1"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert results[0]["test/loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("alphas", [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_mixing_keeps_probability_mass_and_works_for_odd_batches(alphas, batch_size):
    task = ClassificationTask(backbone=BACKBONE, num_classes=3, mixup_alpha=alphas[0], cutmix_alpha=alphas[1])
    images, label = torch.rand(batch_size, 3, 40, 33), torch.arange(batch_size)
    mixed, target = task._mix(images, label)
    assert mixed.shape == images.shape
    torch.testing.assert_close(target.sum(1), torch.ones(batch_size))
    if batch_size > 1:
        assert not torch.equal(mixed, images)


def test_mixing_happens_in_training_only(make_data):
    task = ClassificationTask(backbone=BACKBONE, num_classes=3, cutmix_alpha=1.0)
    task._mix = None  # calling it would raise
    task._step(next(iter(make_data().val_dataloader())), "val")


def test_prediction_leaves_out_padding():
    task = ClassificationTask(backbone=BACKBONE, num_classes=3).eval()
    batch = {"image": torch.rand(3, 3, 40, 33), "path": ["a", "b", "a"], "valid": torch.tensor([True, True, False])}
    result = task.predict_step(batch, 0)
    assert result["path"] == ["a", "b"]
    torch.testing.assert_close(result["probabilities"].sum(1), torch.ones(2))
    assert result["label"].tolist() == result["probabilities"].argmax(1).tolist()
