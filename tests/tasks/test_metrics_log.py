"""If these fail, the log of a resumed run has lost or doubled rows."""

from __future__ import annotations

from pathlib import Path

from dyvision.tasks.metrics_log import MetricsLog, read_rows


def write(folder: Path, steps: range, kept: tuple[Path, int] | None = None, version: int = 0) -> MetricsLog:
    log = MetricsLog(folder, "task", version, kept=kept)
    for step in steps:
        log.log_metrics({"loss": step / 2}, step)
        if step % 2:
            log.log_metrics({"val/top1": step * 1.0}, step)
        log.save()
    return log


def test_a_log_is_continued_from_the_row_of_a_checkpoint(tmp_path: Path) -> None:
    write(tmp_path / "whole", range(6))
    whole = read_rows(tmp_path / "whole" / "task" / "version_0" / "metrics.csv")
    path = tmp_path / "task" / "version_0" / "metrics.csv"
    rows = write(tmp_path, range(3)).rows
    write(tmp_path, range(3, 5), kept=(path, rows)).finalize("failed")  # killed after the checkpoint
    path.write_text(path.read_text() + "1.5,")  # in the middle of a row
    assert write(tmp_path, range(3, 6), kept=(path, rows)).rows == 9
    assert read_rows(path) == whole


def test_the_log_before_stays_in_its_folder(tmp_path: Path) -> None:
    rows = write(tmp_path, range(6)).rows
    path = tmp_path / "task" / "version_0" / "metrics.csv"
    before = path.read_bytes()
    assert rows == 9
    write(tmp_path, range(3, 4), kept=(path, 4), version=1)
    assert path.read_bytes() == before
    joined = read_rows(path.parent.parent / "version_1" / "metrics.csv")[1]
    assert [row["step"] for row in joined] == ["0", "1", "1", "2", "3", "3"]
