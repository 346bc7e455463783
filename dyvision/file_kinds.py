"""What a file that should hold weights is, by its first bytes, and what takes it where weights are not wanted."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

AGAIN = "copy it again, or use an earlier checkpoint"
#: what takes weights that name neither their task nor their network
GIVE_WEIGHTS = (
    "give it as --model.backbone_weights or --model.pretrained to a training, in Python as pretrained=FILE to "
    "dyvision.create_model"
)

#: ends of names of files; names of networks have dots, too (resnet50.a1_in1k)
_WEIGHTS = frozenset({".ckpt", ".pth", ".pt", ".bin", ".safetensors", ".pkl", ".pickle"})
PROGRAMS = {".onnx": "an ONNX file", ".pt2": "a program of torch.export", ".ep": "a program of torch.export"}

#: of a place elsewhere; a single letter is a drive
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(?=/)")

_OPENVINO = (
    "; openvino.Core().compile_model(FILE)(images) runs it in Python: give the checkpoint that it was made from, or "
    "its export to .onnx"
)

_PICTURE = "a picture, neither a checkpoint nor weights"

#: how files of other kinds begin
_STARTS = {
    b"\xff\xd8\xff": _PICTURE,
    b"\x89PNG\r\n": _PICTURE,
    b"GIF8": _PICTURE,
    b"BM": _PICTURE,
    b"\x89HDF\r\n": "a file of HDF5 (Keras, MATLAB); read it with the program that made it, and save tensors by name "
    "with torch.save",
    b"\x93NUMPY": "an array of NumPy, not tensors by name",
    b"\x1f\x8b": "compressed (gzip); unpack it first",
    b"BZh": "compressed (bzip2); unpack it first",
    b"\xfd7zXZ": "compressed (xz); unpack it first",
    b"7z\xbc\xaf": "an archive (7z); unpack it first",
    b"Rar!": "an archive (RAR); unpack it first",
}
#: the same for what stands further on
_LATER = {
    (4, b"TFL3"): "a network of TensorFlow Lite; give the checkpoint that it was made from",
    (257, b"ustar"): "an archive (tar); unpack it first",
}


def is_file_name(model: str) -> bool:
    """Whether a file is meant, and not the name of a network."""
    path = Path(model).expanduser()
    return path.is_file() or path.suffix.lower() in (_WEIGHTS | PROGRAMS.keys()) or (os.sep in model and path.is_dir())


def check_file(path: Path) -> None:
    """Say what a file is that is none of weights at the first look.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is a folder, empty, cut off, text or of a known other kind.
    """
    if path.is_dir():
        raise ValueError(f"{path}: a folder, not a checkpoint; {_in_folder(path)}")
    if not path.exists():
        raise FileNotFoundError(missing(path))
    if not path.is_file():
        raise ValueError(f"{path}: not a regular file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty; {AGAIN}")
    with path.open("rb") as file:
        start = file.read(4096)
    # zip files begin with PK, older ones of torch.save with a pickle
    if start[:4] == b"PK\x03\x04" and not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: the file was cut off ({path.stat().st_size:,} bytes, its end is missing); {AGAIN}")
    found = _other_kind(path, start)
    if found is not None:
        raise ValueError(f"{path}: {found}")
    if b"\x00" not in start and start[:1] != b"\x80" and start[:2] != b"PK":
        raise ValueError(f"{path}: {_text(start)}")


def missing(path: Path) -> str:
    """What a path is at which nothing lies."""
    address = as_address(path)
    return f"{path}: no such file" if address is None else f"{address}: an address, not a file; download it first"


def as_address(path: str | Path) -> str | None:
    """What was given for a path that is an address (``https://...``); None for any other."""
    found = _ADDRESS.match(str(path))
    # a path has no two slashes in a row
    return None if found is None else f"{found.group()}//{str(path)[found.end() :].lstrip('/')}"


def about_program(program: str) -> str:
    """What to do with a file that :func:`program_in` has told the kind of."""
    run = "torch.jit.load(FILE)(images)" if "TorchScript" in program else "torch.export.load(FILE).module()(images)"
    return (
        f"{program}, which is code: in Python {run} runs it, if you trust it; give the checkpoint that it was made "
        "from, or save its state dict with torch.save"
    )


def about_weights(path: Path) -> str:
    """What to do with a file of safetensors where a checkpoint is expected."""
    saved = _saved_by_adapter(path.parent)
    return f"weights without their task and network (safetensors); {saved or GIVE_WEIGHTS}"


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


def is_torch_file(path: Path) -> bool:
    """Whether a file begins as those of ``torch.save`` do, whatever it is called."""
    with path.open("rb") as file:
        start = file.read(2)
    return start == b"PK" or start[:1] == b"\x80"


def _in_folder(path: Path) -> str:
    """What of a folder is to be given."""
    inside = next((path / name for name in ("last.ckpt", "checkpoints/last.ckpt") if (path / name).is_file()), None)
    if inside:
        return f"did you mean {inside}?"
    return _saved_by_adapter(path) or "give the .ckpt file in it"


def _saved_by_adapter(folder: Path) -> str | None:
    """What reads a folder that Hugging Face's adapter wrote; None for any other."""
    config = folder / "config.json"
    if config.is_file() and any(folder.glob("*.safetensors")):
        with config.open("rb") as file:
            if b'"dyvision' in file.read(4096):
                return "save_pretrained wrote it: dyvision.adapters.huggingface.from_pretrained(FOLDER) reads it"
    return None


def _other_kind(path: Path, start: bytes) -> str | None:
    """What a file is that begins as no file of weights does; None if nothing is known."""
    if path.name.lower().endswith(".onnx.data"):
        return f"the large parameters of {path.name[:-5]}, which is the file to give"
    if path.with_suffix(".xml").is_file() and path.suffix.lower() == ".bin" and start[:2] != b"PK":
        return f"the parameters of the OpenVINO network {path.with_suffix('.xml').name}{_OPENVINO}"
    if start[:1] == b"\x08" and start[1:2] < b"\x40" and start[2:3] in (b"\x12", b"\x1a", b"\x22", b":", b"B"):
        if path.suffix.lower() == ".onnx":
            return "an ONNX file, not a checkpoint; give the one that it was made from (--model FILE.onnx runs it)"
        return "an ONNX file; give it a name that ends in .onnx (dyvision.export.OnnxModel runs one of any network)"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return _PICTURE
    later = (kind for (place, mark), kind in _LATER.items() if start[place : place + len(mark)] == mark)
    return next((kind for mark, kind in _STARTS.items() if start.startswith(mark)), next(later, None))


def _text(start: bytes) -> str:
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file itself; fetch that with git lfs pull"
    if start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "a web page, not weights; the download went to a page about the file, or to an error"
    if start.lstrip(b"\xef\xbb\xbf").lstrip()[:5] == b"<?xml" and b"<net" in start:
        return f"a network of OpenVINO{_OPENVINO}"
    return "a text file, or damaged: neither a file of torch.save nor one of safetensors"
