"""What a file that should hold weights is, by its first bytes."""

from __future__ import annotations

import zipfile
from pathlib import Path

AGAIN = "copy it again, or use an earlier checkpoint"


def check_file(path: Path) -> None:
    """Say what a file is that is none of weights at the first look.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is a folder, empty, cut off or text.
    """
    if path.is_dir():
        inside = next((path / name for name in ("last.ckpt", "checkpoints/last.ckpt") if (path / name).is_file()), None)
        hint = f"; did you mean {inside}?" if inside else "; give the .ckpt file in it"
        raise ValueError(f"{path}: a folder, not a checkpoint{hint}")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path}: not a regular file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty; {AGAIN}")
    with path.open("rb") as file:
        start = file.read(4096)
    # zip files begin with PK, older ones of torch.save with a pickle
    if start[:4] == b"PK\x03\x04" and not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: the file was cut off ({path.stat().st_size:,} bytes, its end is missing); {AGAIN}")
    if b"\x00" not in start and start[:1] != b"\x80" and start[:2] != b"PK":
        raise ValueError(f"{path}: {_text(start)}")


def program_in(archive: zipfile.ZipFile) -> str | None:
    """What an archive is, if it holds a program and not only weights; None if it does not."""
    names = {name.partition("/")[2] for name in archive.namelist()}
    if "constants.pkl" in names:
        return "a TorchScript program"
    return "a program of torch.export" if names & {"archive_format", "serialized_exported_program.json"} else None


def is_safetensors(path: Path) -> bool:
    """Whether a file is one of safetensors, or one that is called so and damaged.

    The name does not tell: ``pytorch_model.bin`` may be one.

    Raises:
        ValueError: If it is one of ``torch.save`` that is called so.
    """
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return True
    named = path.suffix.lower() == ".safetensors"
    if named and (start[:2] == b"PK" or start[:1] == b"\x80"):  # PyTorch goes by the name, too
        raise ValueError(f"{path}: a file of torch.save, not one of safetensors; give it a name that ends in .pth")
    return named


def _text(start: bytes) -> str:
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file itself; fetch that with git lfs pull"
    if start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "a web page, not weights; the download went to a page about the file, or to an error"
    return "a text file, or damaged: neither a file of torch.save nor one of safetensors"
