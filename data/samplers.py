"""Samplers that say with which seed a sample is drawn, so that augmentation depends on nothing else.

A key carries the index, the seed of the random transforms and whether the sample counts. The seed is a function of
(seed, epoch, index): the same image looks the same in the same epoch whatever the number of workers, whatever was drawn
before, and after a resume.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import NamedTuple

import numpy as np
import torch.distributed as dist
from torch.utils.data import Dataset, DistributedSampler


class SampleKey(NamedTuple):
    """What a dataset is indexed with.

    Attributes:
        position: In the dataset.
        seed: Seed of the random transforms.
        valid: False for a sample that only fills up the last round of a distributed evaluation.
    """

    position: int
    seed: int
    valid: bool = True


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """Seed of one sample in one epoch: a 64-bit hash of its three arguments."""
    return int(np.random.SeedSequence((seed, epoch, index)).generate_state(1, np.uint64)[0])


def rank_and_world() -> tuple[int, int]:
    """Which of how many processes this is."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class TrainSampler(DistributedSampler[SampleKey]):
    """Shuffles anew in every epoch, and can start in the middle of one.

    A ``DistributedSampler``, so Lightning keeps it and calls ``set_epoch``; without a process group it is one process'
    sampler. With several processes the last round is filled up from the start of the epoch's order.

    Args:
        dataset: Anything with a length.
        seed: Seed of the order and of the samples' seeds; not negative.
        shuffle: False keeps the dataset's order.

    Attributes:
        start: Samples that the next iteration leaves out, once; set by a resumed loader.
    """

    def __init__(self, dataset: Sized, seed: int = 0, shuffle: bool = True) -> None:
        rank, world = rank_and_world()
        as_dataset: Dataset[SampleKey] = dataset  # type: ignore[assignment]
        super().__init__(as_dataset, num_replicas=world, rank=rank, shuffle=shuffle, seed=seed)
        self.start = 0

    def __iter__(self) -> Iterator[SampleKey]:
        start, self.start = self.start, 0
        count = len(self.dataset)  # type: ignore[arg-type]
        order = np.random.default_rng((self.seed, self.epoch)).permutation(count) if self.shuffle else np.arange(count)
        mine = np.resize(order, self.total_size)[self.rank :: self.num_replicas]
        for index in mine[start:].tolist():
            yield SampleKey(index, sample_seed(self.seed, self.epoch, index))


class EvalSampler(DistributedSampler[SampleKey]):
    """Every sample once, in order, dealt out over the processes.

    All processes get equally many, because they wait for each other; what fills up the last round has ``valid`` False.

    Args:
        dataset: Anything with a length.
        seed: Seed of the samples' seeds, for evaluation pipelines that draw at random.
    """

    def __init__(self, dataset: Sized, seed: int = 0) -> None:
        rank, world = rank_and_world()
        as_dataset: Dataset[SampleKey] = dataset  # type: ignore[assignment]
        super().__init__(as_dataset, num_replicas=world, rank=rank, shuffle=False, seed=seed)

    def __iter__(self) -> Iterator[SampleKey]:
        count = len(self.dataset)  # type: ignore[arg-type]
        for position in range(self.rank, self.total_size, self.num_replicas):
            index = position % count
            yield SampleKey(index, sample_seed(self.seed, 0, index), valid=position < count)
