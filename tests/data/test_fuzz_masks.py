"""If this fails, some label map ends a run in a traceback, or is read as classes that it does not hold."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def test_odd_label_maps_are_read_or_refused() -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "fuzz_masks.py"
    spec = importlib.util.spec_from_file_location("fuzz_masks", path)
    assert spec is not None and spec.loader is not None
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    counts = fuzz.fuzz_masks(60)
    assert counts["accepted"] > 5
    assert counts["refused"] > 5
