"""A trial of a segmentation head, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def check_output(head: nn.Module, channels: Sequence[int], num_classes: int, what: str) -> None:
    """Run a head once on zeros: heads that need more than feature maps fail here and not in the first epoch.

    Raises:
        ValueError: If it fails, or returns something else than logits of that many classes.
    """
    training = head.training
    head.eval()
    try:
        logits = _run_on_zeros(head, channels, 4)
    except Exception:  # some heads pool over windows larger than that
        try:
            logits = _run_on_zeros(head, channels, 64)
        except Exception as error:
            raise ValueError(
                f"{what} cannot be used on feature maps alone ({type(error).__name__}: {error}); heads that need "
                "another head's output, queries or tokens are not supported"
            ) from error
    head.train(training)
    if not isinstance(logits, Tensor) or logits.ndim != 4 or logits.shape[1] != num_classes:
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"{what} returns {shape}; expected logits [B, {num_classes}, h, w]")


def _run_on_zeros(head: nn.Module, channels: Sequence[int], size: int) -> Any:
    maps = [torch.zeros(1, width, size, size) for level, width in enumerate(channels)]
    # some heads draw random numbers; the run's own are not to depend on this check
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return head(maps)
