"""If these failed, a small checkpoint could fill the memory of the machine, or keep it busy without end."""

from __future__ import annotations

import copy

import pytest
import torch

from dyvision.building import LimitedMemory
from dyvision.tasks import SegmentationTask

#: what allocates without being told a size, or more often than one would wait for
ALLOCATIONS = {
    "copies": lambda: [copy.deepcopy(torch.nn.Linear(1000, 1000)) for _ in range(100_000)],
    "clones": lambda: [torch.zeros(10**6).clone() for _ in range(100_000)],
    "like another": lambda: [torch.empty_like(torch.zeros(10**6)) for _ in range(100_000)],
    "more than asked": lambda: torch.zeros(1).repeat(10**6, 10**6),
    "a range": lambda: torch.arange(10**13),
    "a range of small steps": lambda: torch.arange(0.0, 1.0, 1e-13),
    "of the same type": lambda: torch.zeros(1).new_empty(10**7, 10**7),
    "a matrix of ones": lambda: torch.eye(10**7),
    "results": lambda: [torch.zeros(10**6) + 1 for _ in range(100_000)],
}


@pytest.mark.parametrize("kind", ALLOCATIONS)
def test_whatever_allocates_is_limited(kind):
    with LimitedMemory(10**6, "a"), pytest.raises(ValueError, match="far larger than its 1,000,000 weights"):
        ALLOCATIONS[kind]()


def test_what_shares_memory_is_not_counted():
    weight = torch.zeros(1000, 1000)
    with LimitedMemory(10**6, "a") as limit:
        before = limit.left
        for _ in range(1000):
            weight.view(-1).expand(50, -1)
            weight.t().detach().add_(1)
        assert limit.left == before
        torch.empty(10**12, device="meta").expand(2, 10**12) + 1


@pytest.mark.parametrize("arguments", [{"d_model": 512, "num_encoder_layers": 2000}, {"num_encoder_layers": 100_000}])
def test_a_loss_of_many_layers_is_not_built(tmp_path, arguments):
    model = SegmentationTask(backbone="test_resnet", num_classes=2)
    loss = {"class_path": "torch.nn.Transformer", "init_args": {**arguments, "num_decoder_layers": 1}}
    content = {
        "task": "segmentation",
        "state_dict": model.state_dict(),
        "hyper_parameters": {**model.hparams, "loss": loss},
    }
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"loss names 'torch\.nn\.Transformer', which is not part of dyvision"):
        SegmentationTask.load_from_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="far larger than its"):
        SegmentationTask.load_from_checkpoint(tmp_path / "a.ckpt", trust=["torch.nn.Transformer"])


def test_small_layers_without_end_are_limited():
    with LimitedMemory(10**6, "a") as limit, pytest.raises(ValueError, match="far larger"):
        limit.steps //= 100
        for _ in range(10**7):
            copy.deepcopy(torch.nn.Linear(1, 1))
