"""What happens to a training run that is killed, stopped, or loses its disk: nothing that was done is lost.

    python benchmarks/faults.py [--only WORD ...] [--keep FOLDER] [--seed N]

Every case runs the command line in processes of its own, on the sample data, and says what came out. Cases that need a
small disk mount one in memory, which only root may do; they are skipped otherwise. Exit status 1 if a case fails.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from _processes import Process, start
from _small_runs import SAVE_EACH_STEP, Bench, Failure, Skipped, checkpoint, outcome, require_equal
from rich.console import Console
from rich.table import Table

import dyvision.cli._trainer  # noqa: F401  # imported once, for all processes
from dyvision.data import write_sample_data


def wait_for_writes(process: Process, path: Path, count: int, inside: bool = False) -> bool:
    """Wait until a checkpoint was written so often (or is being written for the next time); False if it ended."""
    part = path.with_name(".last.part.ckpt")
    seen: set[int] = set()
    while process.poll() is None:
        try:
            seen.add(path.stat().st_mtime_ns)
        except FileNotFoundError:
            pass
        if len(seen) >= count and (not inside or part.exists()):
            return True
        time.sleep(0.0005)
    return False


def killed(
    task: str, signum: int, *options: str, writes: int = 3, inside: bool = False, times: int = 1
) -> Callable[[Bench], str]:
    """A run is ended by a signal, goes on by the command it (or the documentation) gives, and ends as the unbroken."""

    def case(bench: Bench) -> str:
        folder = bench.folder("killed")
        arguments = bench.fit(task, *options)
        if signum == signal.SIGKILL:
            arguments.append(SAVE_EACH_STEP)
        steps = []
        for attempt in range(times):
            process = start(arguments, folder)
            path = checkpoint(folder, task)
            reached = wait_for_writes(process, path, writes if signum == signal.SIGKILL or attempt else 1, inside)
            if reached and not inside:
                time.sleep(bench.random.uniform(0, 0.25))
            if not reached or process.poll() is not None:
                break
            process.send(signum, group=signum == signal.SIGKILL)
            status = process.wait()
            expected = -signal.SIGKILL if signum == signal.SIGKILL else 128 + signum
            if status == 0:
                break  # it was faster
            if status != expected:
                raise Failure(f"exit status {status} instead of {expected}: {process.tail()}")
            steps.append(torch.load(path, weights_only=True, mmap=True)["global_step"])
            if signum == signal.SIGKILL:
                arguments = [
                    "fit",
                    "--config=runs/" + task + "/version_0/config.yaml",
                    "--ckpt_path=last",
                    SAVE_EACH_STEP,
                ]
            else:
                lines = [line for line in process.text().splitlines() if line.startswith("to go on: dyvision ")]
                if len(lines) != 1:
                    raise Failure(f"it does not say how to go on: {process.tail()}")
                arguments = shlex.split(lines[0])[4:]
        else:
            process = start(arguments, folder)
            if process.wait() != 0:
                raise Failure(f"the resumed run failed: {process.tail()}")
        require_equal(bench, folder, task, *options)
        return f"went on from step {', '.join(map(str, steps))}" if steps else "ended before the signal"

    return case


def last_is_the_end(bench: Bench) -> str:
    """The metric is best in the first epoch; ``last.ckpt`` is that of the last step."""
    folder = bench.folder("worse")
    # the learning rate ruins the network at once
    process = start(bench.fit("classification", "--model.lr=30", "--trainer.max_epochs=4"), folder)
    if process.wait() != 0:
        raise Failure(process.tail())
    last, _ = outcome(folder, "classification")
    best = next(path for path in checkpoint(folder, "classification").parent.iterdir() if path.name != "last.ckpt")
    if last["global_step"] != 20:
        raise Failure(f"last.ckpt is of step {last['global_step']}")
    return f"last.ckpt is of step {last['global_step']} of 20, the best is {best.name}"


def end_inside_an_epoch(bench: Bench) -> str:
    """``max_steps`` ends inside an epoch: the last weights are validated and saved."""
    folder = bench.folder("steps")
    process = start(bench.fit("segmentation", "--trainer.max_steps=8", "--trainer.max_epochs=-1"), folder)
    if process.wait() != 0:
        raise Failure(process.tail())
    last, rows = outcome(folder, "segmentation")
    validated = [int(row["step"]) for row in rows if row["val/mIoU"]]
    if last["global_step"] != 8 or validated[-1] != 7:
        raise Failure(f"last.ckpt is of step {last['global_step']}, validations after steps {validated}")
    return f"last.ckpt is of step 8, validated after steps {[step + 1 for step in validated]}"


def together(bench: Bench) -> str:
    """Two runs that start together get two folders."""
    folder = bench.folder("together")
    pair = [start(bench.fit("classification", "--trainer.max_epochs=1"), folder) for _ in range(2)]
    if [process.wait() for process in pair] != [0, 0]:
        raise Failure(" / ".join(process.tail() for process in pair))
    found = sorted(path.parent.parent.name for path in folder.rglob("last.ckpt"))
    if found != ["version_0", "version_1"]:
        raise Failure(f"checkpoints in {found}")
    return f"checkpoints in {found}"


def second_interrupt(bench: Bench) -> str:
    """A second Ctrl-C stops at once, the checkpoint stays whole."""
    folder = bench.folder("twice")
    process = start(bench.fit("classification", SAVE_EACH_STEP), folder)
    wait_for_writes(process, checkpoint(folder, "classification"), 2)
    process.send(signal.SIGINT)
    process.send(signal.SIGINT)
    begin = time.monotonic()
    status = process.wait()
    if status != 130:
        raise Failure(f"exit status {status}: {process.tail()}")
    torch.load(checkpoint(folder, "classification"), weights_only=True)
    return f"exit status 130 after {time.monotonic() - begin:.1f} s"


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own in memory."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        raise Skipped("only root may mount a small disk")
    folder.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True
    )
    if made.returncode != 0:
        raise Skipped(f"no small disk here: {made.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def loses_its_disk(kind: str) -> Callable[[Bench], str]:
    """The disk becomes full, or read-only, while a run writes checkpoints."""

    def case(bench: Bench) -> str:
        folder = bench.folder(kind)
        with small_disk(folder / "runs", 60) as disk:
            process = start(bench.fit("classification", SAVE_EACH_STEP, "--trainer.max_epochs=20"), folder)
            path = checkpoint(folder, "classification")
            if not wait_for_writes(process, path, 2):
                raise Failure(f"it ended early: {process.tail()}")
            if kind == "full":
                free = shutil.disk_usage(disk).free
                (disk / "other.bin").write_bytes(b"\0" * max(0, free - path.stat().st_size // 2))
            else:
                # refused while a file is open for writing, which the event file always is: a bind mount is not
                subprocess.run(["mount", "--bind", str(disk), str(disk)], check=True)
                subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True)
            try:
                status = process.wait(60)
                if status == 0:
                    raise Failure("exit status 0")
                step = torch.load(path, weights_only=True)["global_step"]
                errors = process.errors()
                parts = [found.name for found in disk.rglob(".*.part*")]
            finally:
                if kind != "full":
                    subprocess.run(["umount", "-l", str(disk)], check=False)
        if len(errors) != 1:
            raise Failure(f"{len(errors)} lines of error: {process.tail()}")
        if parts:
            raise Failure(f"left behind: {parts}")
        return f"exit status {status}, last.ckpt whole (step {step}): {errors[0].removeprefix('dyvision: error: ')}"

    return case


def nothing_in_the_current_folder(bench: Bench) -> str:
    """Without a logger a run still has a folder of its own, a trial run writes nothing."""
    folder = bench.folder("own")
    mine = folder / "config.yaml"
    mine.write_text("mine\n")
    for options in (["--trainer.logger=false", "--trainer.max_epochs=1"], ["--trainer.fast_dev_run=true"]):
        process = start(bench.fit("classification", *options), folder)
        if process.wait() != 0:
            raise Failure(process.tail())
    found = sorted(path.name for path in folder.iterdir() if not path.name.startswith("log-"))
    if found != ["config.yaml", "runs"] or mine.read_text() != "mine\n":
        raise Failure(f"in the current folder: {found}")
    return f"runs: {sorted(path.name for path in (folder / 'runs/classification').iterdir())}"


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
