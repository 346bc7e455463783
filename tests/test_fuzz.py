"""If these failed, made-up hyperparameters would run code, end in a traceback, or hang (see benchmarks/fuzz.py)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    """``benchmarks/fuzz.py``, which is no package."""
    path = Path(__file__).parent.parent / "benchmarks" / "fuzz.py"
    spec = importlib.util.spec_from_file_location("fuzz", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_hyperparameters_of_checkpoints(fuzz, tmp_path):
    fuzz.KINDS["checkpoints"](80, tmp_path)


def test_the_fuzz_notices(fuzz):
    import subprocess
    import sys

    with pytest.raises(AssertionError, match=r"ran \[.subprocess.Popen"), fuzz.held("a program"):
        subprocess.run([sys.executable, "--version"], check=True, capture_output=True)
    with pytest.raises(AssertionError, match="KeyError"), fuzz.held("a traceback"):
        raise KeyError("x")
    with fuzz.held("a sentence"):
        raise ValueError("one sentence")
