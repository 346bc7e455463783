"""If these fail, a collapsed network is calibrated, or compared, on images that it is evaluated on."""

from __future__ import annotations

import pytest
import torch

from dyvision.data import ImageFolderDataModule
from dyvision.data.calibration import calibration_datasets


@pytest.mark.parametrize("fraction", [None, 0.25])
def test_images_of_training_alone_each_once(fraction, sample_data) -> None:
    data = ImageFolderDataModule(sample_data / "imagenet", image_size=32, num_workers=0, val_fraction=fraction)
    calibrated, compared = calibration_datasets(data, 5)
    one, other = set(calibrated.paths()), set(compared.paths())
    trained, validated = (set(data.datasets[name].paths()) for name in ("train", "val"))
    assert len(one) == len(other) == 5 and not one & other
    assert one | other <= trained and not (one | other) & validated
    assert len(data.datasets["train"]) == len(trained) > 10
    # as evaluation sees them: the same whatever the seed of the transforms
    assert torch.equal(calibrated.read(0, seed=1)["image"], calibrated.read(0, seed=2)["image"])
    again, _ = calibration_datasets(data, 5)
    assert again.paths() == calibrated.paths()


def test_a_small_split_is_divided(sample_data) -> None:
    data = ImageFolderDataModule(sample_data / "imagenet", image_size=32, num_workers=0)
    calibrated, compared = calibration_datasets(data, 10_000)
    total = len(data.datasets["train"])
    assert len(calibrated) == 2 * total // 3 and len(calibrated) + len(compared) == total
