"""If these failed, an option that names a file would replace a device or a pipe of the system by one."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dyvision import streams
from dyvision.saving import replacing, write_text


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe.json")
    return tmp_path / "pipe.json"


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A device of one's own that is always full, as /dev/full is."""
    path = tmp_path / "full"
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 7))
        path.open("wb").close()
    except (OSError, AttributeError):
        pytest.skip("no right to make devices")
    return path


def test_a_pipe_is_written_into_and_stays_one(pipe):
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    write_text(pipe, "content" * 100_000)
    reader.join(10)
    assert found == [b"content" * 100_000] and pipe.is_fifo()


def test_a_link_to_a_pipe_is_followed(pipe, tmp_path):
    link = tmp_path / "link.json"
    link.symlink_to(pipe)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    write_text(link, "content")
    reader.join(10)
    assert found == [b"content"] and link.is_symlink() and pipe.is_fifo()


def test_a_pipe_without_a_reader_ends_in_a_line(pipe, monkeypatch):
    monkeypatch.setattr(streams, "_PATIENCE", 0.2)
    with pytest.raises(OSError, match=r"pipe\.json could not be written: nobody reads"):
        write_text(pipe, "content")
    assert pipe.is_fifo()


def test_a_full_device_is_named_and_stays_one(device):
    with pytest.raises(OSError, match=r"full could not be written: No space left"):
        write_text(device, "content")
    assert device.is_char_device()
    assert [path.name for path in device.parent.iterdir()] == ["full"]


def test_nothing_is_written_into_a_device_after_an_error(pipe):
    with pytest.raises(RuntimeError), replacing(pipe) as part:
        part.write_text("half")
        raise RuntimeError
    assert pipe.is_fifo()


@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_standard_output_may_be_named(tmp_path, kind):
    code = "from dyvision.saving import write_text; print('before', flush=True); write_text('/dev/stdout', 'content')"
    if kind == "pipe":
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    else:
        with (tmp_path / "out.txt").open("w") as file:
            subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
        found = (tmp_path / "out.txt").read_text()
    assert found == "before\ncontent"


def test_links_in_a_circle_are_named(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match="lead in a circle"):
        write_text(tmp_path / "a", "content")
    assert (tmp_path / "a").is_symlink()


def test_a_private_file_stays_private(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o600)
    write_text(path, "new")
    assert path.read_text() == "new" and stat.S_IMODE(path.stat().st_mode) == 0o600
