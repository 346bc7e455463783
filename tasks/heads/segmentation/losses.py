"""Cross-entropy for label maps, with ignored pixels, class weights and online hard example mining."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyvision.arguments import check_number
from dyvision.tasks.classes import check_class_weights


class SegmentationLoss(nn.Module):
    """Cross-entropy per pixel, averaged over the pixels that have a label.

    Unlike ``nn.CrossEntropyLoss`` a batch without a single labelled pixel has the loss 0 (with a gradient), not NaN:
    random crops of sparsely labelled images do occur.

    Args:
        ignore_index: Label of pixels that do not count.
        class_weights: Weight of each class; the mean is weighted, as in PyTorch.
        label_smoothing: In [0, 1).

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self, ignore_index: int = 255, class_weights: Sequence[float] | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        check_number("label_smoothing", label_smoothing, minimum=0, below=1)
        check_number("ignore_index", ignore_index, minimum=-(2**31), maximum=2**31 - 1, integer=True)
        check_class_weights(class_weights)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        # not persistent: the weights are a hyperparameter already
        self.register_buffer("class_weights", weights, persistent=False)
        self.class_weights: Tensor | None

    def pixel_losses(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted losses and weights of all pixels, both 0 where there is no label.

        Args:
            logits: ``[B, C, H, W]``.
            mask: int64 ``[B, H, W]``.
        """
        losses = F.cross_entropy(
            logits.float(),
            mask,
            weight=self.class_weights,
            ignore_index=self.ignore_index,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        labelled = mask != self.ignore_index
        if self.class_weights is None:
            return losses, labelled.float()
        return losses, self.class_weights[mask.where(labelled, 0)] * labelled

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The mean over labelled pixels."""
        losses, weights = self.pixel_losses(logits, mask)
        return losses.sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)


class OHEMLoss(SegmentationLoss):
    """Cross-entropy of hard pixels only (Shrivastava et al. 2016, arXiv 1604.03540; as in mmseg).

    Args:
        threshold: Pixels whose own class has a probability below this are hard.
        min_kept: At least so many pixels of the batch are kept, the hardest ones.
        ignore_index: Label of pixels that do not count.
        class_weights: Weight of each class.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        threshold: float = 0.7,
        min_kept: int = 100_000,
        ignore_index: int = 255,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(ignore_index, class_weights)
        check_number("loss: threshold", threshold, above=0, maximum=1)
        check_number("loss: min_kept", min_kept, minimum=0, integer=True)
        self.hard_loss = -math.log(threshold)
        self.min_kept = min_kept

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """The mean over hard pixels in training, over all labelled pixels in evaluation."""
        if not self.training:
            return super().forward(logits, mask)
        losses, weights = self.pixel_losses(logits, mask)
        with torch.no_grad():
            # by the probability of the true class, which the class weight does not change
            plain = F.cross_entropy(logits.float(), mask, ignore_index=self.ignore_index, reduction="none")
            limit = plain.new_tensor(self.hard_loss)
            if self.min_kept:
                kept = min(self.min_kept, plain.numel())
                limit = torch.minimum(limit, plain.flatten().topk(kept).values[-1])
            chosen = ((plain >= limit) & (mask != self.ignore_index)).float()
        return (losses * chosen).sum() / (weights * chosen).sum().clamp(min=torch.finfo(weights.dtype).tiny)
