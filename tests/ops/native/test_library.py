"""Whatever is wrong with the compiled kernels, they switch themselves off with one line, and all else works."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dyvision.ops import mixture_conv2d, native
from dyvision.ops.native import library

PROGRAM = """
import torch
from dyvision.ops import mixture_conv2d, native
x, bank = torch.ones(1, 2, 4, 4), torch.ones(3, 2, 2, 1, 1)
assert mixture_conv2d(x, bank, torch.ones(1, 3)).eq(6).all()
print(native.instruction_set(), native.reason(), sep="|")
"""
built = pytest.mark.skipif(not native.available(), reason=f"native kernels: {native.reason()}")


def run(monkeypatch, value: str) -> list[str]:
    monkeypatch.setenv("DYVISION_NATIVE", value)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [*done.stdout.strip().split("|"), done.stderr]


@built
def test_the_environment_forces_an_instruction_set_or_none(monkeypatch):
    for name in native.instruction_sets():
        assert run(monkeypatch, name) == [name, "", ""]
    assert run(monkeypatch, "off") == ["None", "switched off by DYVISION_NATIVE=off", ""]
    name, reason, shown = run(monkeypatch, "mmx")
    assert name == "None" and reason.startswith("DYVISION_NATIVE=mmx: this machine and build have")
    assert reason in shown and len(shown.strip().splitlines()) == 1


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the library is looked for, empty."""
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    monkeypatch.delenv("DYVISION_NATIVE", raising=False)
    library._open.cache_clear()
    library.load.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    library._open.cache_clear()
    library.load.cache_clear()


def test_what_was_not_built_is_told_when_asked_only(folder, caplog):
    with caplog.at_level(logging.WARNING, logger="dyvision"):
        assert not native.available() and native.reason().startswith("not built: install")
    assert native.instruction_set() is None and native.instruction_sets() == () and not caplog.records
    found = mixture_conv2d(torch.ones(1, 2, 3, 3), torch.ones(1, 1, 2, 3, 3), torch.ones(1, 1))
    assert torch.equal(found, F.conv2d(torch.ones(1, 2, 3, 3), torch.ones(1, 2, 3, 3)))


def compile_library(folder: Path, source: str) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    file = folder / "other.c"
    file.write_text(source)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "_kernels.abi3.so", file], check=True)


@pytest.mark.skipif(sys.platform == "win32", reason="libraries have other names")
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("text", "cannot be loaded"),
        ("empty", "cannot be loaded"),
        ("functions", "cannot be loaded"),
        ("version", "is of another version (77, expected"),
        ("structure", "is of another version"),
    ],
)
def test_a_broken_library_is_one_line(folder, caplog, kind, text):
    version = "long long dyv_abi(void) { return %d; } long long dyv_problem_size(void) { return %d; }"
    if kind in ("text", "empty"):
        (folder / "_kernels.abi3.so").write_text("not a library\n" if kind == "text" else "")
    elif kind == "functions":
        compile_library(folder, "int other(void) { return 1; }")
    else:
        compile_library(folder, version % (77 if kind == "version" else library.ABI, 8))
    with caplog.at_level(logging.WARNING, logger="dyvision"):
        assert not native.available() and native.reason()
    assert text in native.reason() and "\n" not in native.reason() and len(caplog.records) == 1
    assert mixture_conv2d(torch.ones(1, 2, 3, 3), torch.ones(1, 1, 2, 1, 1), torch.ones(1, 1)).eq(2).all()


@built
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a file of ELF")
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_library_that_was_cut_off_is_one_line(tmp_path, share):
    binary = library.find_binary()
    assert binary is not None
    content = binary.read_bytes()
    (tmp_path / "_kernels.abi3.so").write_bytes(content[: int(share * len(content))])
    program = (
        "import sys; from dyvision.ops.native import library; library.__file__ = sys.argv[1]; print(library.load()[1])"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "library.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)  # a loader dies of a signal
    assert done.returncode == 0 and "cannot be loaded (its end is missing)" in done.stdout
