"""Small synthetic data and a quiet trainer for the tests of all tasks."""

from __future__ import annotations

import warnings
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

BACKBONE = "mobilenetv2_035"


class Samples(torch.utils.data.Dataset):
    """Images whose brightness, per pixel, tells the class."""

    def __init__(self, task: str, count: int, num_classes: int, size: tuple[int, int], padded: int = 0) -> None:
        generator = torch.Generator().manual_seed(3)
        noise = torch.rand(count, 3, *size, generator=generator)
        self.task, self.padded = task, padded
        if task == "classification":
            self.labels = torch.arange(count) % num_classes
            self.images = noise * 0.2 + self.labels.reshape(-1, 1, 1, 1) / num_classes * 2 - 1
        else:
            coarse = torch.randint(num_classes, (count, 1, 2, 2), generator=generator).float()
            self.labels = torch.nn.functional.interpolate(coarse, size=size)[:, 0].long()
            self.images = noise * 0.2 + self.labels[:, None] / num_classes * 2 - 1

    def __len__(self) -> int:
        return len(self.images) + self.padded

    def __getitem__(self, index: int) -> dict[str, Any]:
        valid = index < len(self.images)
        number = index if valid else 0
        key = "label" if self.task == "classification" else "mask"
        sample = {"image": self.images[number], key: self.labels[number], "path": f"image_{number}.png", "valid": valid}
        if self.task == "segmentation":
            sample["original_size"] = tuple(self.labels.shape[-2:])
        return sample


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    batch: dict[str, Any] = {key: [sample[key] for sample in samples] for key in samples[0]}
    for key in {"image", "label", "mask"} & set(batch):
        batch[key] = torch.stack(batch[key])
    batch["valid"] = torch.tensor(batch["valid"])
    return batch


class SyntheticData(L.LightningDataModule):
    """What the tasks see of a data module."""

    def __init__(
        self,
        task: str = "classification",
        num_classes: int = 3,
        count: int = 8,
        batch_size: int = 4,
        size: tuple[int, int] = (40, 33),
        padded: int = 0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.class_names = [f"class_{index}" for index in range(num_classes)]
        self.class_colors = [[10 * index, 0, 255] for index in range(num_classes)]
        self.class_ids = [7 + index for index in range(num_classes)]
        self.train_set = Samples(task, count, num_classes, size)
        self.eval_set = Samples(task, count - 1, num_classes, size, padded)
        self.batch_size = batch_size

    def _loader(self, samples: Samples) -> DataLoader:
        # with a generator of its own, as the real data modules have
        generator = torch.Generator()
        return DataLoader(samples, batch_size=self.batch_size, collate_fn=collate, generator=generator)

    def train_dataloader(self) -> DataLoader:
        return self._loader(self.train_set)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.eval_set)

    def test_dataloader(self) -> DataLoader:
        return self._loader(self.eval_set)

    def predict_dataloader(self) -> DataLoader:
        return self._loader(self.eval_set)


@pytest.fixture
def make_data():
    return SyntheticData


@pytest.fixture
def make_trainer(tmp_path):
    """A function that builds a trainer on one CPU without logs, bars or checkpoints."""

    def make(**options: Any) -> L.Trainer:
        defaults: dict[str, Any] = {
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "default_root_dir": tmp_path,
            "max_epochs": 1,
        }
        return L.Trainer(**{**defaults, **options})

    return make


@pytest.fixture(autouse=True)
def quiet():
    """Lightning's advice on data loading is about other things than these tests."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(does not have many workers|GPU available|log_every_n_steps).*")
        yield
