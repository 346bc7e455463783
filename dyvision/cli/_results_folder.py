"""The folder of an evaluation's files: ``--output``, or the next ``runs/<task>/validate_N`` or ``test_N``."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dyvision.cli._run_folder import is_further_process, take_next
from dyvision.saving import check_folder


@dataclass
class ResultsFolder:
    """Where ``validate`` and ``test`` write: detections, a confusion matrix.

    Attributes:
        path: The folder. One that nothing was written to is removed at the end.
    """

    path: Path

    @classmethod
    def take(cls, config: Any, command: str) -> ResultsFolder:
        """Make the folder.

        Args:
            config: The options of the command line.
            command: ``validate`` or ``test``.

        Raises:
            OSError: If nothing can be written there.
        """
        parent = Path(config.trainer.default_root_dir or "runs", config.task)
        if is_further_process():
            return cls(parent)  # the first process is asked for the folder before anything is written
        if config.output is None:
            return cls(take_next(parent, command))
        check_folder(config.output, "--output")
        Path(config.output).mkdir(parents=True, exist_ok=True)
        return cls(Path(config.output))

    def tell(self) -> None:
        """Say what was written, in the first process."""
        if not is_further_process() and any(self.path.iterdir()):
            print(f"results: {self.path}")

    def release(self) -> None:
        """Remove an empty folder."""
        if not is_further_process():
            with suppress(OSError):  # not empty
                self.path.rmdir()
