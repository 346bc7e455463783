"""Fixtures shared by all tests: seeds and a small generated data set in the three formats."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # a worker per core (pytest -n auto) leaves each one thread
    os.environ["OMP_NUM_THREADS"] = "1"  # processes that a test starts compute with the same number, to the last bit
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where the tests, and the processes that they start, keep the rates of the processor."""
    os.environ["DYVISION_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def free_networks() -> Iterator[None]:
    """Free a file's networks, which are in reference cycles; the collector counts objects, not bytes."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def sample_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``imagenet``, ``cityscapes`` and ``coco``: few and small images, drawn once per test run."""
    from dyvision.data import write_sample_data

    root = tmp_path_factory.mktemp("sample")
    write_sample_data(root, train_scenes=8, val_scenes=5, train_crops=24, val_crops=11, size=64, crop_size=32)
    return root
