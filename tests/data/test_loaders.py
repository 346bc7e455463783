"""If these fail, a run cannot be repeated: augmentation depends on workers, or a resumed run sees other batches."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from dyvision.data import ImageFolderDataModule
from dyvision.data.samplers import EvalSampler, SampleKey, TrainSampler, sample_seed
from dyvision.tasks.callbacks import FinishEpoch


@pytest.fixture
def imagenet(tmp_path: Path, save: Any) -> Path:
    """24 training and 4 validation images of two classes."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for number in range(14):
            split = "train" if number < 12 else "val"
            save(tmp_path / "set" / split / name / f"{number}.png", rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
    return tmp_path / "set"


def module(root: Path, **options: Any) -> ImageFolderDataModule:
    return ImageFolderDataModule(root, **{"batch_size": 4, "num_workers": 0, "image_size": 16, **options})


def batches(data: ImageFolderDataModule, epoch: int = 0) -> list[tuple[list[str], torch.Tensor]]:
    data.setup("fit")
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return [(batch["path"], batch["image"]) for batch in loader]


def same(one: list[tuple[list[str], torch.Tensor]], other: list[tuple[list[str], torch.Tensor]]) -> bool:
    return len(one) == len(other) and all(
        a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(one, other, strict=True)
    )


def test_batches_do_not_depend_on_workers_or_history(imagenet: Path) -> None:
    first = batches(module(imagenet))
    torch.rand(17)
    np.random.rand(17)
    assert same(first, batches(module(imagenet, num_workers=2)))
    assert not same(first, batches(module(imagenet), epoch=1))
    assert not same(first, batches(module(imagenet, seed=1)))


def test_every_epoch_sees_every_image(imagenet: Path) -> None:
    for epoch in (0, 1):
        paths = [path for names, _ in batches(module(imagenet), epoch) for path in names]
        assert len(paths) == len(set(paths)) == 24


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_draws_nothing_from_the_global_generator(imagenet: Path, workers: int) -> None:
    data = module(imagenet, num_workers=workers)
    data.setup("fit")
    state = torch.random.get_rng_state()
    next(iter(data.train_dataloader()))
    next(iter(data.val_dataloader()))
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_last_batch(imagenet: Path) -> None:
    assert [len(names) for names, _ in batches(module(imagenet, batch_size=10))] == [10, 10]
    assert [len(names) for names, _ in batches(module(imagenet, batch_size=10, drop_last=False))] == [10, 10, 4]
    with pytest.warns(UserWarning, match="24 samples per process, fewer than batch_size=100"):
        assert [len(names) for names, _ in batches(module(imagenet, batch_size=100))] == [24]


def test_sample_seeds_differ_and_stay() -> None:
    seeds = {sample_seed(seed, epoch, index) for seed in range(4) for epoch in range(5) for index in range(6)}
    assert len(seeds) == 4 * 5 * 6
    assert sample_seed(1, 2, 3) == sample_seed(1, 2, 3)


def test_a_resumed_loader_goes_on_where_it_was(imagenet: Path) -> None:
    data = module(imagenet)
    full = batches(data, epoch=3)
    loader = data.train_dataloader()
    loader.sampler.set_epoch(3)
    iterator = iter(loader)
    for _ in range(2):
        next(iterator)
    state = loader.state_dict()
    again = module(imagenet, num_workers=1)
    again.setup("fit")
    resumed = again.train_dataloader()
    resumed.load_state_dict(state)
    iterator = iter(resumed)
    resumed.sampler.set_epoch(3)  # Lightning sets the epoch after it asked for the iterator
    rest = [(batch["path"], batch["image"]) for batch in iterator]
    assert same(rest, full[2:])
    assert len(resumed) == len(full)
    resumed.sampler.set_epoch(4)
    assert same([(batch["path"], batch["image"]) for batch in resumed], batches(data, epoch=4))


def test_a_loader_that_changed_starts_its_epoch_anew(imagenet: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = module(imagenet, batch_size=8)
    data.setup("fit")
    loader = data.train_dataloader()
    loader.load_state_dict({"epoch": 0, "seed": 0, "samples": 24, "processes": 1, "batch_size": 4, "batches": 2})
    with caplog.at_level(logging.WARNING):
        assert len(list(loader)) == 3
    assert "batch_size 4 -> 8" in caplog.text


class Recorder(L.LightningModule):
    """Notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        self.seen: list[tuple[int, list[str], float]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch["path"], float(batch["image"].sum())))
        return self.layer(batch["image"].mean((2, 3))).mean()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    root: Path, folder: Path, workers: int = 0, ckpt: Path | None = None, **options: Any
) -> list[tuple[int, list[str], float]]:
    model = Recorder()
    checkpoints = L.pytorch.callbacks.ModelCheckpoint(folder, save_last=True, every_n_train_steps=1)
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[checkpoints, *options.pop("callbacks", [])], **options,
    )  # fmt: skip
    trainer.fit(model, module(root, batch_size=5, num_workers=workers), ckpt_path=ckpt)
    trainer.save_checkpoint(folder / "after.ckpt")
    return model.seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 2])
def test_stop_in_mid_epoch_and_resume(imagenet: Path, tmp_path: Path, workers: int) -> None:
    full = fit(imagenet, tmp_path / "full", max_epochs=2)
    assert len(full) == 8  # two epochs of four batches
    before = fit(imagenet, tmp_path / "a", workers, max_steps=3)
    after = fit(imagenet, tmp_path / "b", workers, tmp_path / "a" / "last.ckpt", max_epochs=2)
    assert before + after == full


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("steps", [3, 4, 6])
def test_resume_from_a_checkpoint_written_after_max_steps(imagenet: Path, tmp_path: Path, steps: int) -> None:
    full = fit(imagenet, tmp_path / "full", max_epochs=2)
    before = fit(imagenet, tmp_path / "a", max_steps=steps)
    after = fit(imagenet, tmp_path / "b", ckpt=tmp_path / "a" / "after.ckpt", max_epochs=2, callbacks=[FinishEpoch()])
    assert before + after == full


class Scheduled(Recorder):
    """Asks for the number of steps, for which Lightning builds the loader before it restores the loops."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.LinearLR(
            optimizer, total_iters=int(self.trainer.estimated_stepping_batches)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("steps", [3, 4, 6])
@pytest.mark.parametrize("name", ["last", "after"])
def test_resume_with_a_schedule(
    imagenet: Path, tmp_path: Path, name: str, steps: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "Recorder", Scheduled)
    full = fit(imagenet, tmp_path / "full", max_epochs=2)
    before = fit(imagenet, tmp_path / "a", workers, max_steps=steps, max_epochs=2)
    ckpt = tmp_path / "a" / f"{name}.ckpt"
    after = fit(imagenet, tmp_path / "b", workers, ckpt=ckpt, max_epochs=2, callbacks=[FinishEpoch()])
    assert before + after == full


class _StopInside(L.Callback):
    def on_before_optimizer_step(self, trainer: L.Trainer, *rest: Any) -> None:
        if trainer.global_step == 2:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "inside.ckpt")
            raise InterruptedError


@pytest.mark.filterwarnings("ignore")
def test_a_batch_whose_step_was_interrupted_comes_again(imagenet: Path, tmp_path: Path) -> None:
    full = fit(imagenet, tmp_path / "full", max_epochs=1)
    with pytest.raises(InterruptedError):
        fit(imagenet, tmp_path / "a", max_epochs=1, callbacks=[_StopInside()], default_root_dir=tmp_path)
    assert fit(imagenet, tmp_path / "b", ckpt=tmp_path / "inside.ckpt", max_epochs=1) == full[2:]


def test_two_processes_share_every_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    evaluated, trained = [], []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        sampler = TrainSampler(range(7), seed=3)
        sampler.set_epoch(1)
        trained.append(list(sampler))
        evaluated.append(list(EvalSampler(range(7))))
    assert [len(keys) for keys in (*evaluated, *trained)] == [4, 4, 4, 4]
    assert sorted(key.position for keys in evaluated for key in keys if key.valid) == list(range(7))
    assert [key.valid for key in evaluated[1]] == [True, True, True, False]
    assert {key.position for keys in trained for key in keys} == set(range(7))
    assert all(key == SampleKey(key.position, sample_seed(3, 1, key.position)) for keys in trained for key in keys)


def test_padding_is_marked_in_the_batch(imagenet: Path) -> None:
    data = module(imagenet)
    data.setup("validate")
    dataset = data.datasets["val"]
    from dyvision.data.loaders import collate

    batch = collate([dataset[SampleKey(0, 0)], dataset[SampleKey(1, 0, valid=False)]])
    assert batch["valid"].tolist() == [True, False]


@pytest.mark.filterwarnings("ignore")
def test_overfitting_on_a_few_batches_works(imagenet: Path, tmp_path: Path) -> None:
    seen = fit(imagenet, tmp_path, max_epochs=2, overfit_batches=2)
    assert [item[1] for item in seen[:2]] == [item[1] for item in seen[2:]]
