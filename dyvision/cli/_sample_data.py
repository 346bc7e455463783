"""The sample data of a quickstart, drawn where it is missing."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from dyvision.cli.task_table import TASKS


def ensure_sample_data(root: Path, seed: int = 0) -> None:
    """Draw the sample data below ``root`` unless it is there; half of it never is, however the drawing ends."""
    from dyvision.data import write_sample_data

    formats = [entry.sample_format for entry in TASKS.values()]
    if all((root / name).is_dir() for name in formats):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as folder:
        drawn = write_sample_data(Path(folder), seed=seed)
        root.mkdir(exist_ok=True)
        for name in formats:
            with suppress(OSError):  # another process was faster
                (drawn / name).rename(root / name)
