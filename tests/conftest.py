"""Fixtures shared by all tests: seeds and a small generated data set in the three formats."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def sample_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``imagenet``, ``cityscapes`` and ``coco``: few and small images, drawn once per test run."""
    from dyvision.data import write_sample_data

    root = tmp_path_factory.mktemp("sample")
    write_sample_data(root, train_scenes=8, val_scenes=5, train_crops=24, val_crops=11, size=64, crop_size=32)
    return root
