"""The compiled kernels: found, checked and loaded once per process. Whatever is wrong with them ends in one line."""

from __future__ import annotations

import ctypes
import logging
import os
import struct
from ctypes import POINTER, c_char_p, c_int64, c_void_p
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import NamedTuple

import torch

#: of the functions and structures in ``problem.h``
ABI = 4
#: names an instruction set, or switches the kernels off
VARIABLE = "DYVISION_NATIVE"

#: entries of OpenMP's runtime by which a team of threads is started, counted and waited for
_RUNTIME = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads", "GOMP_barrier")
_logger = logging.getLogger("dyvision")


class Problem(ctypes.Structure):
    """``dyv_problem`` of ``problem.h``: the same fields in the same order."""

    _fields_ = [
        (name, c_int64)
        for name in (
            *("batch", "in_channels", "out_channels", "groups", "kernels", "kernel_h", "kernel_w"),
            *("in_h", "in_w", "out_h", "out_w", "stride_h", "stride_w", "top", "left", "dilation_h", "dilation_w"),
            *("per_channel", "by_channel", "bias", "activation", "accumulate"),
        )
    ]


class Library(NamedTuple):
    """The kernels in one instruction set.

    Attributes:
        functions: The library's.
        number: Of the instruction set, as the library counts them.
        name: Of the instruction set.
    """

    functions: ctypes.CDLL
    number: int
    name: str


class _UnusableError(Exception):
    """Why the kernels are not used; ``str`` is one line."""


def available() -> bool:
    """Whether the kernels can be used."""
    return load()[0] is not None


def reason() -> str:
    """Why the kernels cannot be used, in one line; empty if they can."""
    return load()[1]


def instruction_set() -> str | None:
    """The instruction set in use; None without the kernels."""
    library = load()[0]
    return None if library is None else library.name


def instruction_sets() -> tuple[str, ...]:
    """Those that were built and that this machine has, the fastest first, whatever is forced; none without kernels."""
    try:
        return tuple(_present(_open()))
    except _UnusableError:
        return ()


@cache
def load(wanted: str | None = None) -> tuple[Library | None, str]:
    """Load the kernels in an instruction set, by default what the environment says, or say why not."""
    wanted = os.environ.get(VARIABLE, "") if wanted is None else wanted
    if wanted == "off":
        return None, f"switched off by {VARIABLE}=off"
    try:
        functions = _open()
        present = _present(functions)
        if wanted and wanted not in present:
            raise _UnusableError(f"{VARIABLE}={wanted}: this machine and build have {', '.join(present)}, or off")
        _use_runtime(functions)
    except _UnusableError as error:
        if find_binary() is not None:  # what was never built is no surprise
            _logger.warning("native kernels are off: %s", error)
        return None, str(error)
    name = wanted or next(iter(present))
    return Library(functions, present[name], name), ""


def find_binary() -> Path | None:
    """The compiled library beside this file, None where it was not built."""
    folder = Path(__file__).parent
    files = (folder / f"_kernels{suffix}" for suffix in EXTENSION_SUFFIXES)
    return next((file for file in files if file.is_file()), None)


@cache
def _open() -> ctypes.CDLL:
    path = find_binary()
    if path is None:
        raise _UnusableError("not built: install dyvision where there is a C compiler (gcc or clang)")
    try:
        if _is_cut_off(path):
            raise _UnusableError(f"{path} cannot be loaded (its end is missing): install dyvision again")
        functions = ctypes.CDLL(str(path))
        functions.dyv_abi.restype = functions.dyv_problem_size.restype = c_int64
        found, size = functions.dyv_abi(), functions.dyv_problem_size()
        if found != ABI or size != ctypes.sizeof(Problem):
            raise _UnusableError(f"{path} is of another version ({found}, expected {ABI}): install dyvision again")
        pointers = [c_void_p] * 7
        for name, result, arguments in (
            ("dyv_instruction_set", c_char_p, [c_int64]),
            ("dyv_use_runtime", None, [c_void_p] * len(_RUNTIME)),
            ("dyv_prepare", c_void_p, [c_int64, POINTER(Problem)]),
            ("dyv_free", None, [c_void_p]),
            ("dyv_convolve", c_int64, [c_int64, *pointers, c_int64]),
            ("dyv_perceive", c_int64, [*[c_int64] * 7, *pointers[1:], c_int64]),
            ("dyv_apply_layer", c_int64, [c_int64, c_void_p, *[c_int64] * 6, *[c_void_p] * 8, c_int64]),
            ("dyv_fuse", c_int64, [*[c_int64] * 9, *[c_void_p] * 13, c_int64]),
            ("dyv_apply_low_rank", c_int64, [c_int64, *pointers[:3], *[c_int64] * 4, *[c_void_p] * 12, c_int64]),
            ("dyv_differentiate", c_int64, [c_int64, POINTER(Problem), *[c_void_p] * 9, c_int64]),
        ):
            function = getattr(functions, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise _UnusableError(f"{path} cannot be loaded ({' '.join(str(error).split())})") from error
    return functions


def _is_cut_off(path: Path) -> bool:
    """Whether a file of ELF, 64 bits, ends before its table of sections: a loader maps it, and dies of a signal."""
    with path.open("rb") as file:
        header = file.read(64)
    if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
        return False  # the loader has its own word for these
    (offset,), (size, count) = struct.unpack_from("<Q", header, 40), struct.unpack_from("<HH", header, 58)
    return bool(offset + size * count > path.stat().st_size)


def _present(functions: ctypes.CDLL) -> dict[str, int]:
    """Index by name."""
    found: dict[str, int] = {}
    index = 0
    while (name := functions.dyv_instruction_set(index)) is not None:
        if name:
            found[name.decode()] = index
        index += 1
    return found


def _use_runtime(functions: ctypes.CDLL) -> None:
    """Hand over the threads of torch: one pool for both, and one number of threads."""
    # asked of torch's own library: a runtime of the same name that something else has loaded has threads of its own
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        if (folder / name).is_file():
            try:
                torch_cpu = ctypes.CDLL(str(folder / name))
                functions.dyv_use_runtime(*(ctypes.cast(getattr(torch_cpu, entry), c_void_p) for entry in _RUNTIME))
            except (OSError, AttributeError) as error:
                raise _UnusableError(f"torch's threads cannot be used ({error})") from error
            return
    raise _UnusableError(f"torch's threads cannot be used: {folder} has no libtorch_cpu")
