"""If these failed, unlabelled pixels or crops would count, or class weights would weigh something else."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dyvision.tasks.heads.segmentation.losses import OHEMLoss, SegmentationLoss

LOGITS = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
MASK = torch.randint(4, (2, 5, 6), generator=torch.Generator().manual_seed(1))
MASK[0, :2] = 255


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 0.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_pytorch(weights, smoothing):
    weight = None if weights is None else torch.tensor(weights)
    expected = F.cross_entropy(LOGITS, MASK, weight=weight, ignore_index=255, label_smoothing=smoothing)
    loss = SegmentationLoss(class_weights=weights, label_smoothing=smoothing)
    torch.testing.assert_close(loss(LOGITS, MASK), expected)


@pytest.mark.parametrize("loss", [SegmentationLoss(), OHEMLoss(min_kept=3), OHEMLoss(min_kept=0)])
def test_no_label_at_all_is_zero_with_a_gradient(loss):
    logits = LOGITS.clone().requires_grad_()
    value = loss(logits, torch.full_like(MASK, 255))
    value.backward()
    assert value == 0
    assert torch.isfinite(logits.grad).all()


def test_ohem_keeps_hard_pixels():
    losses = F.cross_entropy(LOGITS, MASK, ignore_index=255, reduction="none")[MASK != 255]
    threshold = 0.2
    hard = losses[losses >= -torch.tensor(threshold).log()]
    torch.testing.assert_close(OHEMLoss(threshold, min_kept=1)(LOGITS, MASK), hard.mean())
    hardest = losses.sort(descending=True).values[:20]
    torch.testing.assert_close(OHEMLoss(1e-6, min_kept=20)(LOGITS, MASK), hardest.mean())
    # in evaluation all pixels count
    torch.testing.assert_close(OHEMLoss(threshold).eval()(LOGITS, MASK), losses.mean())


def test_errors():
    with pytest.raises(ValueError, match="threshold"):
        OHEMLoss(threshold=0)
    with pytest.raises(ValueError, match="label_smoothing"):
        SegmentationLoss(label_smoothing=1)
