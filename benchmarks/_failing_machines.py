"""Runs that lose what they need while they train: the disk, the data, a worker, shared memory."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from _processes import Process, start
from _small_runs import FORMATS, SAVE_EACH_STEP, Bench, Failure, Skipped, checkpoint, wait_for_writes

#: a run that loses something has to end within so many seconds
_SECONDS = 60
_MOUNT_NAMESPACE = 0x00020000  # CLONE_NEWNS; os.unshare came with Python 3.12


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


def loses_data(how: str, *options: str, task: str = "classification") -> Callable[[Bench], str]:
    """The data folder vanishes in an epoch (``"gone"``), or images turn bad (``"bad"``) or into pipes (``"pipe"``)."""

    def case(bench: Bench) -> str:
        folder = bench.folder(how)
        data = folder / "data"
        shutil.copytree(bench.root / "data" / FORMATS[task], data)
        process = start(
            bench.fit(task, SAVE_EACH_STEP, f"--data.root={data}", "--trainer.max_epochs=200", *options), folder
        )
        path = checkpoint(folder, task)
        if not wait_for_writes(process, path, 2):
            raise Failure(f"it ended early: {process.tail()}")
        if how == "gone":
            data.rename(folder / "elsewhere")
        else:
            for image in sorted(path for path in data.rglob("*") if path.suffix in (".jpg", ".png"))[::4]:
                image.unlink()
                if how == "pipe":
                    os.mkfifo(image)
                else:
                    image.write_bytes(b"no image")
        return _one_line(process, path)

    return case


def loses_a_worker(bench: Bench) -> str:
    """A process that loads data is killed."""
    folder = bench.folder("worker")
    arguments = bench.fit("classification", SAVE_EACH_STEP, "--data.num_workers=2", "--trainer.max_epochs=200")
    process = start(arguments, folder)
    path = checkpoint(folder, "classification")
    if not wait_for_writes(process, path, 2):
        raise Failure(f"it ended early: {process.tail()}")
    try:
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    except OSError as error:
        process.send(signal.SIGKILL, group=True)
        process.wait()
        raise Skipped("no list of child processes here") from error
    os.kill(int(workers[0]), signal.SIGKILL)
    return _one_line(process, path)


def without_shared_memory(bench: Bench) -> str:
    """A run goes on with workers on a machine whose shared memory is 64 KB."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        raise Skipped("only root may mount a small /dev/shm")
    folder = bench.folder("shm")
    options = ("--data.image_size=64", "--trainer.max_epochs=1")
    process = start(bench.fit("classification", *options), folder)
    if process.wait() != 0:
        raise Failure(process.tail())
    path = checkpoint(folder, "classification")
    more = ("--trainer.max_epochs=3", "--data.num_workers=2", f"--ckpt_path={path}")
    text = _one_line(start(bench.fit("classification", *options, *more), folder, _little_shared_memory), path)
    if "num_workers" not in text:
        raise Failure(f"the option that helps is not named: {text}")
    return text


def _little_shared_memory() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_MOUNT_NAMESPACE) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/dev/shm"], check=True)


def _one_line(process: Process, path: Path) -> str:
    """The run ended with a status, in time, with one line of error; the last checkpoint loads."""
    status = process.wait(_SECONDS)
    if status == 0:
        raise Failure("exit status 0")
    step = torch.load(path, weights_only=True)["global_step"]
    errors = process.errors()
    if len(errors) != 1 or "Traceback" in process.text():
        raise Failure(f"{len(errors)} lines of error: {process.tail()}")
    return f"exit status {status}, last.ckpt whole (step {step}): {errors[0].removeprefix('dyvision: error: ')}"
