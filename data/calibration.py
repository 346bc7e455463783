"""Training images as evaluation sees them: some to calibrate on, and others to compare results of that on."""

from __future__ import annotations

import copy

import numpy as np

from dyvision.data.base import VisionDataModule
from dyvision.data.datasets import VisionDataset
from dyvision.data.same_files import file_codes


def calibration_datasets(
    data: VisionDataModule, count: int, seed: int = 0
) -> tuple[VisionDataset, VisionDataset | None]:
    """Draw images of the training split, with evaluation transforms.

    Args:
        data: The data module; it is set up for training.
        count: Images to calibrate on, and to compare on; of a small split two thirds, and the rest.
        seed: Seed of the choice.

    Returns:
        The images to calibrate on, and as many others, or as many as there are; None if there are no others.

    Raises:
        DataError: If there is no training split, or it is not what is expected.
    """
    data.setup("fit")
    trained = file_codes(data.datasets["train"].paths())
    dataset = data.build_dataset(data.train_split, train=False)
    # with val_fraction, the images of validation are in this folder, too
    positions = np.flatnonzero(np.isin(file_codes(dataset.paths()), trained))
    order = np.random.default_rng(seed).permutation(positions)
    taken = min(count, max(1, 2 * len(order) // 3))
    others = order[taken : taken + count]
    return _part(dataset, order[:taken]), _part(dataset, others) if len(others) else None


def _part(dataset: VisionDataset, positions: np.ndarray) -> VisionDataset:
    # select() gives the copy a list of its own
    part = copy.copy(dataset)
    part.select(sorted(positions.tolist()))
    return part
