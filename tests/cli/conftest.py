"""Fixtures of the tests of the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dyvision.cli import main
from tests.cli.small_runs import arguments


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The current folder of the run to be tested."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def trained(sample_data, tmp_path_factory) -> Callable[..., Path]:
    """A function that trains one step and gives the checkpoint; the same one for the same words."""
    made: dict[tuple[str, ...], Path] = {}

    def train(task: str, layer: str, *options: str) -> Path:
        key = (task, layer, *options)
        if key not in made:
            folder = tmp_path_factory.mktemp("trained")
            own = [f"--trainer.default_root_dir={folder}", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
            assert main(arguments(sample_data, f"--model.layer={layer}", *own, *options, task=task)) == 0
            made[key] = folder / task / "version_0" / "checkpoints" / "last.ckpt"
        return made[key]

    return train
