"""Checkpoint files of any origin: what is damaged, too large for itself or something else is one sentence.

``torch.load`` reads plain data only (``weights_only=True``), but it does not compare check sums, and it takes a file of
numbers that a bad memory or a full disk has overwritten. The zip file that ``torch.save`` writes has a check sum of
every tensor, so damage shows in old files too.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from packaging.version import VERSION_PATTERN, InvalidVersion, Version
from torch import Tensor

from dyvision.arguments import shown
from dyvision.file_kinds import (
    AGAIN,
    GIVE_WEIGHTS,
    about_program,
    about_weights,
    check_file,
    is_safetensors,
    program_in,
)
from dyvision.pickled import check_extent, check_old_file, check_structure
from dyvision.text import first_line, printable, some

#: the record that holds names and structure; a checkpoint of a thousand layers has one of less than a megabyte
_MAX_STRUCTURE = 64 * 2**20


def load_plain(path: str | os.PathLike[str], map_location: Any = "cpu", mmap: bool = False) -> Any:
    """Read a file of ``torch.save``: tensors and plain values only, check sums compared.

    Args:
        path: The file.
        map_location: As for ``torch.load``.
        mmap: Map the file instead of reading it: fast if few of the tensors are looked at.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no such file, was cut off or overwritten, holds objects, or declares more than it has.
    """
    path = Path(path).expanduser()
    check_file(path)
    if is_safetensors(path):
        raise ValueError(f"{path}: {about_weights(path)}")
    if zipfile.is_zipfile(path):
        check_archive(path)
    else:
        check_old_file(path)
    try:
        content = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: {_refused(path, error)}") from error
    except MemoryError as error:
        raise ValueError(f"{path}: needs more memory than there is") from error
    # a structure that was made to break the reader breaks it in any way
    except Exception as error:
        raise ValueError(f"{path}: {_unreadable(error)}") from error
    check_extent(path, content)
    size = path.stat().st_size
    for name, tensor in tensors_in(content):
        if tensor.layout == torch.strided and tensor.device.type != "meta":
            # PyTorch 2.6 believes the size that a storage declares, whatever its record has
            declared, there = tensor.numel() * tensor.element_size(), min(tensor.untyped_storage().nbytes(), size)
            if declared > there:
                raise ValueError(
                    f"{path}: {printable(name)} declares {tensor.numel():,} values, but the file has {there:,} bytes"
                )
    return content


def check_archive(path: Path) -> None:
    """Compare the check sums of a zip file of ``torch.save`` and the sizes that it declares.

    Raises:
        ValueError: If a record was overwritten, or the records are larger than the file.
    """
    status = path.stat()
    _check_archive(path.resolve(), status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=16)
def _check_archive(path: Path, size: int, changed: int, inode: int) -> None:
    """As above, once for a file that did not change meanwhile: a command reads its checkpoint several times."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            if (program := program_in(archive)) is not None:
                raise ValueError(f"{path}: {about_program(program)}")
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise ValueError(f"{path}: a compressed zip file; torch.save writes none, so it may unpack to any size")
            if sum(record.file_size for record in records) > size:
                raise ValueError(f"{path}: its records are declared larger than the file ({size:,} bytes)")
            structures = [record for record in records if record.filename.endswith("/data.pkl")]
            if len(structures) != 1:
                raise ValueError(f"{path}: a zip file, but not one of torch.save (no single data.pkl)")
            if structures[0].file_size > _MAX_STRUCTURE:
                raise ValueError(f"{path}: {structures[0].file_size:,} bytes of names and structure; not a checkpoint")
            # torch.serialization.set_crc32_options(False) writes zeros
            if any(record.CRC for record in records):
                if (damaged := archive.testzip()) is not None:
                    raise ValueError(f"{path}: bytes of the record {damaged} are not those that were saved; {AGAIN}")
            else:
                structures[0].CRC = None  # type: ignore[assignment]  # zipfile compares nothing then
            structure = archive.read(structures[0])
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path}: the file is damaged ({first_line(error)}); {AGAIN}") from error
    check_structure(path, structure)


def read_checkpoint(path: str | os.PathLike[str], map_location: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint of a task.

    Args:
        path: The file.
        map_location: As for ``torch.load``.
        mmap: As for :func:`load_plain`.

    Returns:
        Its content: ``state_dict`` is a mapping of names to tensors, ``hyper_parameters`` and
        ``datamodule_hyper_parameters`` are mappings (see :mod:`dyvision.trust`), ``task`` is a string or None.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is something else, or damaged; the message says what it is and how it is used.
    """
    content = load_plain(path, map_location, mmap)
    return checked(content, path)


def checked(content: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    """As :func:`read_checkpoint`, of a content that is loaded already."""
    problem = _problem(content)
    if problem is not None:
        raise ValueError(f"{path}: {problem}")
    content = dict(content)
    for key in ("hyper_parameters", "datamodule_hyper_parameters"):
        content[key] = dict(content.get(key) or {})
    _complete(content)
    return content


def _complete(content: dict[str, Any]) -> None:
    """Say what ``pretrained`` decided besides the weights: a dynamic classifier that starts from them has a bias.

    The stored ``pretrained`` is False, since the checkpoint has its own weights.
    """
    arguments, start = content["hyper_parameters"].get("backbone_kwargs"), content.get("initialized_from")
    if isinstance(arguments, Mapping) and arguments.get("dynamic_classifier") and isinstance(start, Mapping):
        started = bool(arguments.get("pretrained", start.get("pretrained")))
        completed = {"preserve_outputs": started, **arguments}
        content["hyper_parameters"]["backbone_kwargs"] = completed


def _problem(content: Any) -> str | None:
    if not isinstance(content, Mapping):
        what = "one tensor" if isinstance(content, Tensor) else f"a {type(content).__name__}"
        return f"holds {what}, not a checkpoint of dyvision; give the last.ckpt that 'dyvision fit' wrote"
    if content and all(isinstance(value, Tensor) for value in content.values()):
        return f"not a checkpoint of dyvision (plain weights?); {GIVE_WEIGHTS}"
    if not isinstance(content.get("state_dict"), Mapping):
        found = some(map(printable, content)) or "nothing"
        return f"not a checkpoint of dyvision (no 'state_dict', found {found}); if it holds weights, {GIVE_WEIGHTS}"
    for name, value in content["state_dict"].items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            return f"state_dict[{name!r}] is a {type(value).__name__}, expected a tensor"
        if not is_dense(value) or value.is_complex():
            return f"state_dict[{name!r}] is a tensor of a kind that no network has (sparse, quantised, complex, meta)"
    if not isinstance(content.get("task"), str | None):
        return f"'task' is a {type(content['task']).__name__}, expected a name"
    if "hyper_parameters" not in content and "pytorch-lightning_version" not in content:
        return (
            "weights of another training script ('state_dict' without 'hyper_parameters'), not a checkpoint of "
            f"dyvision; {GIVE_WEIGHTS}"
        )
    for key in ("hyper_parameters", "datamodule_hyper_parameters", "callbacks", "loops"):
        if not isinstance(content.get(key), Mapping | None):
            return f"'{key}' is a {type(content[key]).__name__}, expected a mapping"
        other = next((name for name in content.get(key) or () if not isinstance(name, str)), None)
        if other is not None:
            return f"'{key}' has the name {other!r}, expected text"
    made = content.get("pytorch-lightning_version")
    if made is not None and not _is_version(made):
        return f"'pytorch-lightning_version' is {shown(made)}, expected one such as '2.6.0'; {AGAIN}"
    return None


def _is_version(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(VERSION_PATTERN, value, re.VERBOSE | re.IGNORECASE) is not None


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor has its values one by one: it is not sparse, not quantised and not on the meta device."""
    return tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type != "meta"


def check_finite(state: Mapping[str, Any], where: str) -> None:
    """Check that weights and running statistics are numbers.

    Args:
        state: Tensors by name.
        where: Name for messages.

    Raises:
        ValueError: If one is NaN or infinite, with its name.
    """
    broken = [
        name
        for name, tensor in state.items()
        if isinstance(tensor, Tensor)
        and (tensor.is_floating_point() or tensor.is_complex())
        and tensor.device.type != "meta"
        and not bool(
            torch.isfinite(tensor.float() if tensor.itemsize == 1 else tensor).all()
        )  # 8 bits know few operations
    ]
    if broken:
        more = f" and {len(broken) - 1} other tensors" if len(broken) > 1 else ""
        raise ValueError(
            f"{where}: {printable(broken[0])}{more} of {len(state)} hold NaN or infinite values; the "
            "training had diverged or the file is damaged. Use an earlier checkpoint"
        )


def warn_of_newer(content: Mapping[str, Any], where: str, version: str) -> None:
    """Warn of a checkpoint that a later dyvision than ``version`` made: what is new in it may be lost or misread."""
    try:
        made, here = Version(str(content.get("dyvision_version"))), Version(version)
    except InvalidVersion:  # none, or not of a release
        return
    if made.release > here.release:
        warnings.warn(
            f"{where}: made by dyvision {made}, which is newer than this {here}; if a result differs, update dyvision",
            stacklevel=1,  # the same place every time, so that a command that loads it twice says it once
        )


def count(state: Mapping[str, Tensor]) -> int:
    """Number of all values in a state dict."""
    return sum(tensor.numel() for tensor in state.values())


def tensors_in(content: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested mappings and sequences, with its path; objects that occur several times come once."""
    seen: set[int] = set()
    pending: list[tuple[str, Any]] = [("", content)]
    while pending:
        name, item = pending.pop()
        if isinstance(item, Tensor):
            yield name, item
        elif isinstance(item, Mapping | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            pairs = item.items() if isinstance(item, Mapping) else enumerate(item)
            pending.extend((f"{name}.{key}" if name else str(key), below) for key, below in pairs)


def _refused(path: Path, error: Exception) -> str:
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # the list only helps the message
        named = []
    if not named:
        return _unreadable(error)
    objects = some(map(printable, sorted(named)))
    return (
        f"holds objects besides tensors and plain values ({objects}); loading them could run code, so it is refused. "
        "Save the state dict alone, or as .safetensors"
    )


def _unreadable(error: Exception) -> str:
    reason = first_line(error)
    # torch's advice is to read it with weights_only=False, which runs what a stranger's file says
    told = "" if "weights_only" in reason or "weights only" in reason.lower() else f" ({reason})"
    return f"not a file of torch.save, or damaged{told}; {AGAIN}"
