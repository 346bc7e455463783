"""Runs that are killed, stopped, or end early, and what is left of them."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Callable

import torch
from _processes import start
from _small_runs import SAVE_EACH_STEP, Bench, Failure, checkpoint, outcome, require_equal, wait_for_writes


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
