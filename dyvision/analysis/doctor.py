"""What dyvision finds on this machine: versions, devices, the engines in use and why others are not, the extras."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import torch
from packaging.requirements import Requirement

from dyvision.analysis.benchmark import describe_machine
from dyvision.ops import native, triton
from dyvision.ops.rates import Known, calibrate, file_of_rates, find_rates
from dyvision.processor import usable_cores
from dyvision.version import VERSION

#: what results and reports of faults depend on
_PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "timm", "albumentations", "pycocotools", "numpy")
#: extras of those who work on dyvision itself, or that are several others
_OTHER_EXTRAS = ("dev", "docs", "all")


@dataclass(frozen=True)
class Engine:
    """A way in which dynamic convolutions are computed.

    Attributes:
        name: What it is.
        active: Whether it is used.
        note: How, or why not; one line.
    """

    name: str
    active: bool
    note: str


@dataclass(frozen=True)
class Extra:
    """Optional packages.

    Attributes:
        name: Of the extra.
        missing: Those of its packages that are not installed, or too old, as its requirements name them.
        command: That adds them.
    """

    name: str
    missing: tuple[str, ...]

    @property
    def command(self) -> str:
        """What adds the packages."""
        return f'pip install "dyvision[{self.name}]"'


@dataclass(frozen=True)
class CostModel:
    """The rates of the processor, by which formulations are chosen.

    Attributes:
        source: ``"measured"`` now, ``"kept"`` from an earlier measurement, or those of a ``"typical"`` processor.
        note: Where they are kept, or why they are typical ones; one line.
        file: Where they are kept, or would be; None where there is no place.
        rates: Seconds per unit.
        took: Seconds that the measurement took; None if there was none.
    """

    source: str
    note: str
    file: str | None
    rates: dict[str, float]
    took: float | None


@dataclass(frozen=True)
class Diagnosis:
    """See :func:`diagnose`.

    Attributes:
        versions: By package; Python's too. A package that is missing is not in it.
        machine: Processor, cores, threads, GPUs, by what they are.
        engines: In the order in which they are asked.
        extras: In the order of their names.
        cost_model: How formulations are chosen on CPUs.
    """

    versions: dict[str, str]
    machine: dict[str, str]
    engines: tuple[Engine, ...]
    extras: tuple[Extra, ...]
    cost_model: CostModel

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can say it."""
        found = asdict(self)
        found["extras"] = [{**asdict(extra), "command": extra.command} for extra in self.extras]
        return found


def diagnose(measure: bool = False) -> Diagnosis:
    """Look at the machine and the environment.

    Args:
        measure: Measure the rates of the processor again, and keep them. Otherwise nothing is changed.
    """
    start = time.perf_counter()
    known = calibrate(again=True) if measure else find_rates(measure=False)
    took = time.perf_counter() - start if measure else None
    versions: dict[str, str | None] = {"dyvision": VERSION, "Python": platform.python_version()}
    versions |= {name: _version(name) for name in _PACKAGES}
    return Diagnosis(
        versions={name: found for name, found in versions.items() if found is not None},
        machine=_machine(),
        engines=tuple(_engines(known)),
        extras=tuple(_extras()),
        cost_model=_cost_model(known, took),
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _machine() -> dict[str, str]:
    found = describe_machine(torch.device("cpu"))
    machine = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": found["device"],
        "cores": f"{usable_cores()} of {os.cpu_count()}",
        "threads": f"{torch.get_num_threads()} (OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')})",
    }
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        machine[f"cuda:{index}"] = (
            f"{properties.name}, {memory}, compute capability {properties.major}.{properties.minor}"
        )
    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        machine["GPU"] = f"none found (torch is built for {'CUDA ' + built if built else 'CPUs only'})"
    return machine


def _cost_model(known: Known, took: float | None) -> CostModel:
    file = file_of_rates()
    rates = {name: float(f"{rate:.4g}") for name, rate in known.rates._asdict().items()}
    return CostModel(known.source, known.note, None if file is None else str(file), rates, took)


def _engines(known: Known) -> Iterator[Engine]:
    used = native.instruction_set()
    if used is None:
        yield Engine("native CPU kernels", False, native.reason())
    else:
        others = [name for name in native.instruction_sets() if name != used]
        note = f"{used}" + (f" ({native.VARIABLE} may name {', '.join(others)} or off)" if others else "")
        yield Engine("native CPU kernels", True, note)
    yield Engine("PyTorch on CPUs", True, f"formulations chosen by {known.source} rates ({known.note})")
    active = triton.available("cuda")
    yield Engine("Triton GPU kernels", active, "where they are fastest" if active else triton.reason("cuda"))
    compiler = next(
        filter(None, map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++", "cl")))), None
    )
    note = compiler or "no C++ compiler: torch.compile cannot compile for CPUs"
    yield Engine("torch.compile on CPUs", compiler is not None, note)


def _extras() -> Iterator[Extra]:
    wanted: dict[str, list[Requirement]] = {}
    try:
        lines = requires("dyvision") or []
    except PackageNotFoundError:  # a folder of sources, on the path
        lines = []
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is None:
            continue
        for extra in _names_of_extras(line):
            if requirement.marker.evaluate({"extra": extra}):
                wanted.setdefault(extra, []).append(requirement)
    for extra in sorted(set(wanted) - set(_OTHER_EXTRAS)):
        yield Extra(extra, tuple(f"{one.name}{one.specifier}" for one in _flat(wanted, extra) if not _is_met(one)))


def _names_of_extras(line: str) -> Iterator[str]:
    """Names behind ``extra ==`` in a line of the distribution's metadata."""
    for part in line.split("extra == ")[1:]:
        yield part[1:].partition(part[0])[0]


def _flat(wanted: dict[str, list[Requirement]], extra: str) -> Iterator[Requirement]:
    """The requirements of an extra, with those of the extras that it is made of."""
    for requirement in wanted.get(extra, ()):
        if requirement.name == "dyvision":
            for other in requirement.extras:
                yield from _flat(wanted, other)
        else:
            yield requirement


def _is_met(requirement: Requirement) -> bool:
    found = _version(requirement.name)
    return found is not None and requirement.specifier.contains(found, prereleases=True)
