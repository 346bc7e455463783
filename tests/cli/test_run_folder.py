"""If these failed, two runs would write into one folder."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from dyvision.cli._run_folder import RunFolder


def test_folders_are_taken_by_one_run_only(tmp_path: Path) -> None:
    taken: list[RunFolder] = []
    threads = [threading.Thread(target=lambda: taken.append(RunFolder.take(tmp_path, "task"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(folder.version for folder in taken) == list(range(8))
    assert RunFolder.resume(taken[0].path) is None  # it is running
    taken[0].release(used=True)
    again = RunFolder.resume(taken[0].path)
    assert again is not None and again.path == taken[0].path
    again.release(used=False)
    taken[1].release(used=False)
    assert taken[0].path.is_dir() and not taken[1].path.exists()


def test_further_processes_use_the_folder_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = RunFolder.take(tmp_path, "task")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert RunFolder.take(tmp_path, "task").path == first.path
    assert [path.name for path in (tmp_path / "task").iterdir()] == ["version_0"]
