"""If these fail, one broken file ends a run that was to go on, or a run with full shared memory waits forever."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dyvision.data import ImageFolderDataModule
from dyvision.data.errors import DataError


@pytest.fixture
def folder(tmp_path: Path, save: Any) -> Path:
    """Twelve training images of two classes, two of them broken; a broken validation image."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for number in range(6):
            save(tmp_path / "train" / name / f"{number}.png", rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
        (tmp_path / "train" / name / "3.png").write_bytes(b"no image")
        (tmp_path / "val" / name).mkdir(parents=True)
        (tmp_path / "val" / name / "0.png").write_bytes(b"no image")
    return tmp_path


def module(root: Path, **options: Any) -> ImageFolderDataModule:
    data = ImageFolderDataModule(root, **{"batch_size": 4, "num_workers": 0, "image_size": 16, **options})
    data.setup("fit")
    return data


def batches(data: ImageFolderDataModule, epoch: int = 0) -> list[dict[str, Any]]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_skip_replaces_names_and_counts(folder: Path) -> None:
    with pytest.warns(UserWarning, match=r"epoch 6: 2 samples .*3\.png.*3\.png"):
        alone = batches(module(folder, on_bad_sample="skip"), epoch=5)
    with pytest.warns(UserWarning, match="epoch 6: 2 samples"):
        with_workers = batches(module(folder, on_bad_sample="skip", num_workers=2), epoch=5)
    assert [len(batch["path"]) for batch in alone] == [4, 4, 4]
    assert not any(path.endswith("3.png") for batch in alone for path in batch["path"])
    for one, other in zip(alone, with_workers, strict=True):  # what takes their place depends on the seed only
        assert one["path"] == other["path"] and torch.equal(one["image"], other["image"])
        assert one["valid"].all() and "skipped" not in one


@pytest.mark.filterwarnings("ignore")
def test_skip_goes_on_with_the_same_samples_after_a_resume(folder: Path) -> None:
    data = module(folder, on_bad_sample="skip")
    full = batches(data, epoch=1)
    loader = data.train_dataloader()
    loader.sampler.set_epoch(1)
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    resumed = module(folder, on_bad_sample="skip").train_dataloader()
    resumed.sampler.set_epoch(1)
    resumed.load_state_dict(state)
    assert [batch["path"] for batch in resumed] == [batch["path"] for batch in full[1:]]


def test_the_default_and_evaluation_refuse(folder: Path) -> None:
    with pytest.raises(DataError, match=r"3\.png"):
        batches(module(folder))
    with pytest.raises(DataError, match=r"0\.png"):
        list(module(folder, on_bad_sample="skip").val_dataloader())
    with pytest.raises(ValueError, match="on_bad_sample='ignore'"):
        module(folder, on_bad_sample="ignore")


def test_skip_ends_where_nothing_can_be_read(folder: Path) -> None:
    for path in (folder / "train").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="none of 19 samples drawn in its place"):
        batches(module(folder, on_bad_sample="skip"))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_turns_bad_or_into_a_pipe_ends_the_epoch(folder: Path, workers: int) -> None:
    for path in (folder / "train").rglob("3.png"):
        shutil.copy(path.with_name("2.png"), path)
    data = module(folder, num_workers=workers)
    assert len(batches(data)) == 3
    bad = folder / "train" / "cat" / "1.png"
    bad.unlink()
    os.mkfifo(bad)
    with pytest.raises(DataError, match=r"1\.png"):
        batches(data, epoch=1)


SCRIPT = """
import sys
from dyvision.data import ImageFolderDataModule
from dyvision.data.errors import DataError
data = ImageFolderDataModule(sys.argv[1], batch_size=4, num_workers=2, image_size=224, on_bad_sample="skip")
data.setup("fit")
try:
    print(len(list(data.train_dataloader())))
except DataError as error:
    print(error)
"""


def _in_small_shared_memory(options: str, root: Path) -> subprocess.CompletedProcess[str]:
    mount = f'mount -t tmpfs -o {options} tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", sys.executable, "-W", "ignore", "-c", SCRIPT, str(root)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("options", ["size=64k", "size=4k", "size=64k,ro"])
def test_without_shared_memory_the_option_that_helps_is_named(folder: Path, options: str) -> None:
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode
    ):
        pytest.skip("needs the right to mount a small /dev/shm")
    done = _in_small_shared_memory(options, folder)
    assert "set data.num_workers to 0" in done.stdout and "Traceback" not in done.stderr, done.stdout + done.stderr
