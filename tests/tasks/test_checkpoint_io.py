"""If these fail, a full disk or a kill destroys the last good checkpoint, or a run that could not save ends well."""

from __future__ import annotations

import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from dyvision.tasks.callbacks import LastCheckpoint
from dyvision.tasks.checkpoint_io import AtomicCheckpointIO, tensor_bytes

VERSION = {"pytorch-lightning_version": "2.6.6"}
OLD = {**VERSION, "state_dict": {"weights": torch.zeros(1000)}, "global_step": 1}
NEW = {**VERSION, "state_dict": {"weights": torch.ones(1000)}, "global_step": 2}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A folder with the checkpoint of an earlier step."""
    AtomicCheckpointIO().save_checkpoint(OLD, tmp_path / "run" / "last.ckpt")
    return tmp_path / "run" / "last.ckpt"


def kept(path: Path) -> bool:
    content = AtomicCheckpointIO().load_checkpoint(path)
    names = [found.name for found in path.parent.iterdir()]
    return names == ["last.ckpt"] and not content["state_dict"]["weights"].any()


def test_replaces(path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint(NEW, path)
    assert AtomicCheckpointIO().load_checkpoint(path)["global_step"] == 2
    assert [found.name for found in path.parent.iterdir()] == ["last.ckpt"]


def test_no_room_is_noticed_before_writing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10000, 8000, 2000))
    monkeypatch.setattr(torch, "save", lambda *given: pytest.fail("it began to write"))
    with pytest.raises(OSError, match=r"last\.ckpt could not be written: No space left.*0\.0 MB free, 0\.3 MB needed"):
        AtomicCheckpointIO().save_checkpoint(NEW, path)
    assert kept(path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_write_that_fails_halfway(path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.open

    class Breaks:
        def __init__(self, file: Any) -> None:
            self.file, self.left = file, 1000

        def __enter__(self) -> Breaks:
            return self

        def __exit__(self, *error: Any) -> None:
            self.file.close()

        def write(self, content: Any) -> int:
            self.left -= len(content)
            if self.left < 0:
                raise OSError(number, os.strerror(number))
            return self.file.write(content)

    def open_file(self: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        file = write(self, mode, *rest, **options)
        return Breaks(file) if mode == "wb" else file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_file)
        with pytest.raises(OSError, match=r"last\.ckpt could not be written") as caught:
            AtomicCheckpointIO().save_checkpoint(NEW, path)
    assert caught.value.errno == number
    assert kept(path)


def test_a_kill_while_writing_leaves_the_checkpoint_before(path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        io = AtomicCheckpointIO()
        io.write = lambda checkpoint, part: (part.write_bytes(b"half"), os._exit(9))  # type: ignore[method-assign]
        io.save_checkpoint(NEW, path)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert not AtomicCheckpointIO().load_checkpoint(path)["state_dict"]["weights"].any()
    AtomicCheckpointIO().save_checkpoint(NEW, path)  # what was left is used again
    assert [found.name for found in path.parent.iterdir()] == ["last.ckpt"]


def test_shared_memory_counts_once() -> None:
    weights = torch.zeros(10)
    assert (
        tensor_bytes({"a": weights, "b": [weights, weights[:3]], "c": (torch.zeros(2, dtype=torch.int8),), 1: "x"})
        == 42
    )


class Module(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.layer(batch).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_cannot_save_ends_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = LastCheckpoint(every_n_train_steps=1, dirpath=str(tmp_path))
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_steps=5,
        callbacks=[last], plugins=[AtomicCheckpointIO()], enable_checkpointing=False,
    )  # fmt: skip
    replace = os.replace

    def refuse(source: Any, target: Any) -> None:
        if trainer.global_step == 3:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError, match=r"last\.ckpt could not be written: Permission denied"):
        trainer.fit(Module(), torch.utils.data.DataLoader(torch.zeros(20, 2), batch_size=2))
    assert AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")["global_step"] == 2


@pytest.mark.parametrize("options", [{"every_n_train_steps": 0}, {"every_minutes": -1}])
def test_numbers_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"last\.every_.*above 0"):
        LastCheckpoint(**options)
