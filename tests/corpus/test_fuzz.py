"""Made-up configuration files, a few of them; ``benchmarks/fuzz.py configs`` runs thousands."""

from __future__ import annotations

import runpy
from pathlib import Path

FUZZ = Path(__file__).parents[2] / "benchmarks" / "fuzz_configs.py"


def test_made_up_configs_end_in_a_run_or_one_line() -> None:
    counts = runpy.run_path(str(FUZZ))["fuzz_configs"](40)
    assert sum(counts.values()) >= 40 and counts["refused"] > 10
