"""The rates of the machine at hand: measured once per processor, threads, torch and instruction set, kept in a file.

They are needed where formulations are close on typical processors, and measured then, which takes about a second. Where
nothing can be measured (in what a compiler traces, in a worker of a data loader, in a forked process, beside other
work), those of a typical processor are used.

Processes that start at once agree: the first that has measured makes the file, and the others read it. Where no file
can be made they may plan differently, which changes rounding and nothing else: no formulation waits for another
process.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import threading
import uuid
from contextlib import suppress
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dyvision.ops import native
from dyvision.ops.calibration import measure_rates
from dyvision.ops.modes import is_traced, is_watched
from dyvision.ops.work import Rates
from dyvision.processor import processor_name
from dyvision.reading import read_json
from dyvision.saving import write_text

#: names the folder of the file
VARIABLE = "DYVISION_CACHE"
#: seconds per unit that no processor takes: of an operation, and of a multiply-add or a byte
_SLOWEST = Rates(call=2e-4, **dict.fromkeys(Rates._fields[1:], 1e-8))
#: bytes of a file of rates, at most
_LARGEST = 2**16

_found: dict[tuple[object, ...], Known] = {}
_lock = threading.Lock()
_forked = False


class Known(NamedTuple):
    """Rates, and how they are known.

    Attributes:
        rates: Seconds per unit.
        source: ``"measured"`` by this process, ``"kept"`` by an earlier one, or ``"typical"``.
        note: Where they are kept, or why they are not measured or not kept; one line.
    """

    rates: Rates
    source: str
    note: str


def _notice_fork() -> None:
    global _forked, _lock
    _forked, _lock = True, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_notice_fork)


def machine() -> dict[str, str | int]:
    """What the rates depend on."""
    return {
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "native": native.instruction_set() or "none",
    }


def find_rates(measure: bool = True) -> Known:
    """The rates of this machine with torch's present number of threads.

    Args:
        measure: Whether they may be measured, if they are not known yet.
    """
    key = tuple(machine().values())
    known = _found.get(key)
    if known is not None:
        return known
    known = _read()
    if known is None:
        why = _why_not() if measure else "not measured yet: no choice has needed them"
        if why:
            return Known(typical_rates(), "typical", why)
        with _lock:
            known = _found.get(key) or calibrate()  # another thread may have measured them
    _found[key] = known
    return known


def calibrate(again: bool = False) -> Known:
    """Measure, and keep what was found.

    Args:
        again: Replace what was kept. Otherwise what another process kept in the meantime is used.
    """
    rates = measure_rates()
    if rates is None or not _are_plausible(rates):
        busy, kept = "not measured: other work keeps the processor busy", _read()
        known = Known(typical_rates(), "typical", busy) if kept is None else kept._replace(note=f"{kept.note}; {busy}")
    else:
        known = _keep(rates, again)
    _found[tuple(machine().values())] = known
    return known


def file_of_rates() -> Path | None:
    """Where the rates of this machine are kept; None where there is no home."""
    folder = _folder()
    if folder is None:
        return None
    digest = hashlib.sha256(json.dumps(machine()).encode("utf-8")).hexdigest()
    return folder / f"rates-{digest[:16]}.json"


def typical_rates() -> Rates:
    """Those of a typical processor of the same maker, or of any, with as many threads as there are."""
    name = processor_name()
    rows = typical_processors()
    row = next((row for row in rows if row["maker"] in name), rows[0])
    return scaled(row, torch.get_num_threads())


@cache
def typical_processors() -> list[dict[str, Any]]:
    """Those whose rates are shipped: name, maker, threads, rates."""
    content: list[dict[str, Any]] = shipped()["processors"]
    return content


@cache
def shipped() -> dict[str, Any]:
    """``planner.json``: coefficients of the terms of work, and typical processors."""
    path = resources.files("dyvision.ops").joinpath("planner.json")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def scaled(processor: dict[str, Any], threads: int) -> Rates:
    """A typical processor's rates with so many threads, which share the way to memory."""
    rates, fewer = Rates(**processor["rates"]), processor["threads"] / threads
    factors = {"call": 1.0, "memory": math.sqrt(fewer), "fresh": math.sqrt(fewer)}
    return Rates(*(rate * factors.get(name, fewer) for name, rate in rates._asdict().items()))


def _why_not() -> str:
    if is_traced() or is_watched():
        return "not measured: operations are recorded or watched"
    if _forked:
        return "not measured: a forked process"
    if torch.utils.data.get_worker_info() is not None:
        return "not measured: a worker of a data loader"
    return ""


def _folder() -> Path | None:
    named = os.environ.get(VARIABLE)
    try:
        if named:
            return Path(named).expanduser().absolute()
        home = Path.home()
    except RuntimeError:  # of a user that the system does not know
        return None
    system = platform.system()
    if system == "Darwin":
        return home / "Library" / "Caches" / "dyvision"
    if system == "Windows":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "dyvision" / "Cache"
    base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return (base if base.is_absolute() else home / ".cache") / "dyvision"  # a relative one is to be ignored


def _read() -> Known | None:
    """What a file says, if it is one of rates of this machine; any other is as good as none."""
    path = file_of_rates()
    try:
        # a pipe would wait for a writer
        if path is None or not path.is_file() or path.stat().st_size > _LARGEST:
            return None
        content = read_json(path)
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("machine") != machine():
        return None
    values = content.get("rates")
    if not isinstance(values, dict) or set(values) != set(Rates._fields):
        return None
    if not all(isinstance(value, float) for value in values.values()):
        return None
    rates = Rates(**values)
    return Known(rates, "kept", str(path)) if _are_plausible(rates) else None


def _keep(rates: Rates, again: bool) -> Known:
    path = file_of_rates()
    if path is None:
        return Known(rates, "measured", "not kept: there is no home folder")
    content = {"machine": machine(), "rates": {name: float(f"{value:.4g}") for name, value in rates._asdict().items()}}
    text = json.dumps(content, indent=1) + "\n"
    try:
        if again:
            write_text(path, text)
        else:
            path = _offer(path, text)
    except OSError as error:
        return Known(rates, "measured", f"not kept: {error.filename or path}: {error.strerror or error}")
    known = _read()
    return (
        Known(rates, "measured", f"not kept: {path} was changed")
        if known is None
        else known._replace(source="measured")
    )


def _offer(path: Path, text: str) -> Path:
    """Write a file whole, unless another process was first."""
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex}")
    try:
        write_text(part, text)
        try:
            os.link(part, path)
        except FileExistsError:
            if _read() is None:  # of no use
                os.replace(part, path)
        except OSError:  # a file system without links
            os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return path


def _are_plausible(rates: Rates) -> bool:
    return all(0 < rate < slowest for rate, slowest in zip(rates, _SLOWEST, strict=True))
