"""What happens to a training run that is killed, stopped, or loses its disk: nothing that was done is lost.

    python benchmarks/faults.py [--only WORD ...] [--keep FOLDER] [--seed N]

Every case runs the command line in processes of its own, on the sample data, and says what came out. Cases that need a
small disk or little shared memory mount one, which only root may do; they are skipped otherwise. Exit status 1 if a
case fails.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from _failing_machines import loses_a_worker, loses_data, loses_its_disk, without_shared_memory
from _small_runs import Bench, Failure, Skipped
from _stopped_runs import (
    end_inside_an_epoch,
    killed,
    last_is_the_end,
    nothing_in_the_current_folder,
    second_interrupt,
    together,
)
from rich.console import Console
from rich.table import Table

import dyvision.cli.trainer  # noqa: F401  # imported once, for all processes
from dyvision.data import write_sample_data

WORKERS, EMA, ACCUMULATE = "--data.num_workers=2", "--model.ema_decay=0.9", "--trainer.accumulate_grad_batches=2"
KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT

#: name -> what it tries; a case returns what came out, or raises Failure or Skipped
CASES: dict[str, Callable[[Bench], str]] = {
    "kill 1: classification": killed("classification", KILL, writes=3),
    "kill 2: classification, inside a write": killed("classification", KILL, writes=4, inside=True),
    "kill 3: classification, EMA": killed("classification", KILL, EMA, writes=6),
    "kill 4: classification, accumulation, EMA": killed("classification", KILL, EMA, ACCUMULATE, writes=4),
    "kill 5: classification, 2 workers": killed("classification", KILL, WORKERS, writes=7),
    "kill 6: classification, twice": killed("classification", KILL, writes=4, times=2),
    "kill 7: classification, 2 workers, inside": killed("classification", KILL, WORKERS, writes=8, inside=True),
    "kill 8: segmentation": killed("segmentation", KILL, writes=4),
    "kill 9: segmentation, EMA, inside a write": killed("segmentation", KILL, EMA, writes=2, inside=True),
    "kill 10: segmentation, accumulation": killed("segmentation", KILL, ACCUMULATE, writes=5),
    "kill 11: detection": killed("detection", KILL, writes=6),
    "kill 12: detection, EMA, inside a write": killed("detection", KILL, EMA, writes=8, inside=True),
    "stop 13: SIGTERM, classification": killed("classification", TERM),
    "stop 14: SIGTERM, accumulation, EMA": killed("classification", TERM, EMA, ACCUMULATE),
    "stop 15: SIGTERM, segmentation, EMA": killed("segmentation", TERM, EMA),
    "stop 16: SIGTERM, detection": killed("detection", TERM),
    "stop 17: Ctrl-C, classification, 2 workers": killed("classification", INT, WORKERS),
    "stop 18: Ctrl-C, classification, twice": killed("classification", INT, EMA, times=2),
    "stop 19: Ctrl-C, segmentation": killed("segmentation", INT, ACCUMULATE),
    "stop 20: Ctrl-C, detection, EMA": killed("detection", INT, EMA),
    "a second Ctrl-C": second_interrupt,
    "the metric gets worse": last_is_the_end,
    "max_steps inside an epoch": end_inside_an_epoch,
    "two runs started together": together,
    "no logger, fast_dev_run": nothing_in_the_current_folder,
    "the disk is full": loses_its_disk("full"),
    "the folder becomes read-only": loses_its_disk("read-only"),
    "the data vanishes": loses_data("gone"),
    "the data vanishes, 2 workers": loses_data("gone", WORKERS),
    "the data vanishes, segmentation": loses_data("gone", task="segmentation"),
    "the data vanishes, detection": loses_data("gone", task="detection"),
    "an image turns bad": loses_data("bad"),
    "an image turns bad, 2 workers": loses_data("bad", WORKERS),
    "an image turns into a pipe, 2 workers": loses_data("pipe", WORKERS),
    "a worker is killed": loses_a_worker,
    "no shared memory": without_shared_memory,
}


def run_cases(names: list[str], root: Path, seed: int) -> bool:
    """Run cases and print their table; whether none failed."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    write_sample_data(root / "data", seed=0)
    bench = Bench(root, random.Random(seed))
    table = Table(title="faults")
    for column in ("case", "", "what came out"):
        table.add_column(column)
    table.add_column("s", justify="right")
    failed = 0
    for name in names:
        begin = time.monotonic()
        try:
            text, mark = CASES[name](bench), "[green]fine[/]"
        except Skipped as reason:
            text, mark = str(reason), "[yellow]skipped[/]"
        except (Failure, TimeoutError, OSError) as error:
            text, mark = str(error), "[red]FAILED[/]"
            failed += 1
        console.print(f"{name}: {mark}", end="  ", highlight=False)
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        table.add_row(name, mark, text.replace("[", r"\["), f"{time.monotonic() - begin:.0f}")
    console.print(table)
    console.print(f"{len(names) - failed} of {len(names)} fine")
    return failed == 0


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="only cases whose name contains one of these")
    parser.add_argument("--keep", type=Path, help="run below this folder and leave everything there")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of the signals")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    names = [name for name in CASES if any(word in name for word in options.only)]
    with tempfile.TemporaryDirectory() as folder:
        root = options.keep or Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        return 0 if run_cases(names, root.resolve(), options.seed) else 1


if __name__ == "__main__":
    raise SystemExit(main())
