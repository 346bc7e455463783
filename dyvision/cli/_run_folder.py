"""The folder of a run, ``runs/<task>/version_N``: taken by one run only, found again by ``--ckpt_path last|best``."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # not on Windows: two runs that continue the same run at the same time are not noticed there
    fcntl = None  # type: ignore[assignment]

#: tells the processes that Lightning starts for further devices which folder the first one took
_SHARED = "DYVISION_RUN_FOLDER"
_VERSION = re.compile(r"version_(\d+)")
LAST = "last.ckpt"


@dataclass
class RunFolder:
    """A folder that this run has for itself.

    Attributes:
        path: ``<root>/<name>/version_N``.
        continued: Whether an earlier run of this folder goes on.
    """

    path: Path
    continued: bool = False
    _lock: IO[str] | None = None

    @property
    def root(self) -> Path:
        """Folder of all runs."""
        return self.path.parent.parent

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.path.parent.name

    @property
    def version(self) -> int:
        """Its number."""
        return _number(self.path)

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints are."""
        return self.path / "checkpoints"

    @property
    def is_first_process(self) -> bool:
        """Whether this process writes the files of the run."""
        return not is_further_process()

    @classmethod
    def take(cls, root: Path, name: str) -> RunFolder:
        """Make the next free folder; two runs that start together get two.

        Raises:
            OSError: If nothing can be written there.
        """
        if is_further_process():
            return cls(Path(os.environ.get(_SHARED, root / name / "version_0")))
        folder = cls(take_next(root / name, "version"))
        folder._hold()
        return folder

    @classmethod
    def resume(cls, path: Path) -> RunFolder | None:
        """Take the folder of an earlier run; None if another process is running in it."""
        folder = cls(path, continued=True)
        if not is_further_process():
            if not folder._hold():
                return None
            for part in folder.checkpoints.glob(".*.part.ckpt"):  # of a run that was killed while it wrote
                with suppress(OSError):
                    part.unlink()
        return folder

    def _hold(self) -> bool:
        os.environ[_SHARED] = str(self.path)
        if fcntl is None:
            return True
        self._lock = (self.path / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # a file system without locks
        return True

    def release(self, used: bool) -> None:
        """Give it back; a new folder in which nothing was trained is removed, so that it takes no number."""
        if self._lock is not None:
            with suppress(OSError):
                (self.path / ".lock").unlink()
            self._lock.close()
            self._lock = None
        if not used and not self.continued and not is_further_process():
            shutil.rmtree(self.path, ignore_errors=True)


def take_next(parent: Path, prefix: str) -> Path:
    """Make ``<parent>/<prefix>_N`` with the next free N; two processes that ask together get two.

    Raises:
        OSError: If nothing can be written there.
    """
    parent.mkdir(parents=True, exist_ok=True)
    numbers = [path.name.removeprefix(f"{prefix}_") for path in parent.glob(f"{prefix}_*")]
    number = 1 + max((int(text) for text in numbers if text.isdecimal()), default=-1)
    while True:
        try:
            (parent / f"{prefix}_{number}").mkdir()
            return parent / f"{prefix}_{number}"
        except FileExistsError:
            number += 1


def last_checkpoints(root: Path, task: str = "*") -> list[Path]:
    """The ends of the runs below a folder, of one task or of all (``"*"``), the newest first."""
    found = root.glob(f"{task}/version_*/checkpoints/{LAST}")
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def find_checkpoint(kind: str, root: Path, task: str, fits: Callable[[Path], bool], trains: bool = True) -> Path:
    """Find the newest run's last checkpoint, or its best one.

    Args:
        kind: ``"last"`` or ``"best"``.
        root: Folder of all runs.
        task: Name of a task, or ``"*"`` for any.
        fits: Whether a last checkpoint is one of the wanted configuration.
        trains: Whether the command can do without a checkpoint.

    Raises:
        FileNotFoundError: If there is none, saying what was looked for.
    """
    found = last_checkpoints(root, task)
    # a run's last checkpoint knows which its best one is
    looked = f"--ckpt_path {kind}: looked for runs in {root / task}/version_*, with checkpoints/{LAST}"
    if not found:
        way_out = "or leave --ckpt_path out" if trains else "or train one first, by dyvision fit"
        raise FileNotFoundError(f"{looked}, and found none; give the path of a checkpoint, {way_out}")
    matching = next((path for path in found if fits(path)), None)
    if matching is None:
        raise FileNotFoundError(
            f"{looked}, and found {len(found)} of other configurations (newest: {found[0]}); give the path of one"
        )
    if kind == "last":
        return matching
    best = best_of(matching)
    if best is None:
        raise FileNotFoundError(f"--ckpt_path best: {matching.parent} has no best checkpoint, only {LAST}")
    return best


def best_of(last: Path) -> Path | None:
    """The best checkpoint of the run whose last one is given, as that one knows it."""
    import torch

    states = torch.load(last, map_location="cpu", weights_only=True, mmap=True).get("callbacks", {})
    for name, state in states.items():
        if str(name).startswith("ModelCheckpoint") and isinstance(state, Mapping) and state.get("best_model_path"):
            # only the name: the folder may have been moved
            best = last.parent / Path(str(state["best_model_path"])).name
            if best.is_file():
                return best
    return None


def folder_of(checkpoint: Path, parent: Path) -> Path | None:
    """The run folder below ``parent`` whose end a checkpoint is; None for any other checkpoint."""
    path = checkpoint.resolve()
    folder = path.parent.parent
    is_end = path.name == LAST and path.parent.name == "checkpoints" and _VERSION.fullmatch(folder.name) is not None
    return folder if is_end and folder.parent == parent.resolve() else None


def _number(path: Path) -> int:
    match = _VERSION.fullmatch(path.name)
    return int(match.group(1)) if match else 0


def is_further_process() -> bool:
    """Whether this is one of the processes that Lightning starts for further devices."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    rank: Any = getattr(rank_zero_only, "rank", 0)
    return bool(rank)
