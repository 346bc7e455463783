"""If these fail, made-up input would run code, end in a traceback, or hang (``python -m benchmarks.fuzz``)."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time

import pytest
from hypothesis import strategies as st

from benchmarks.fuzz.annotations import ANNOTATIONS, check, valid_file
from benchmarks.fuzz.checkpoints import CHECKPOINTS, starts_nothing
from benchmarks.fuzz.configs import CONFIGS
from benchmarks.fuzz.masks import MASKS
from benchmarks.fuzz.runner import Kind, fuzz


@pytest.mark.parametrize(
    ("kind", "examples"), [(CHECKPOINTS, 80), (ANNOTATIONS, 100), (MASKS, 60), (CONFIGS, 40)],
    ids=["checkpoints", "annotations", "masks", "configs"],
)  # fmt: skip
def test_made_up_input_is_used_or_refused(kind, examples):
    counts = fuzz(kind, examples)
    assert counts.total() >= examples
    assert counts["accepted"] > 5 and counts["refused"] > 5


def test_valid_annotations_are_accepted(tmp_path):
    assert check((valid_file(), True), tmp_path) == "accepted"


def test_a_program_is_noticed():
    with pytest.raises(AssertionError, match=r"ran \[.subprocess.Popen"), starts_nothing():
        subprocess.run([sys.executable, "--version"], check=True, capture_output=True)


def test_a_traceback_is_noticed():
    def check(example, folder):
        if example > 100:
            raise KeyError(example)
        return "accepted"

    with pytest.raises(KeyError, match="101"):  # the smallest
        fuzz(Kind(st.integers(), check), 200)


@pytest.mark.parametrize("swallowed", [(), Exception])
def test_a_hang_is_noticed(swallowed):
    def check(example, folder):
        with contextlib.suppress(swallowed):
            time.sleep(2 if example else 0)
        return "accepted"

    with pytest.raises(AssertionError, match="took more than"):
        fuzz(Kind(st.booleans(), check, seconds=0.2), 10)
