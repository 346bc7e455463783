"""Time and memory of a training step by the way in which the optimiser computes.

Each row is a process of its own: fused, one parameter after the other, ``foreach``, and fused within the backward pass
(``optimizer_in_backward``). Peak memory is what the process holds at its highest beyond what it held before the network
was made (of Linux; on a GPU what PyTorch allocated); times are medians of the fastest round, with the range of its
middle half.

    python benchmarks/optimizers.py --network resnet18 --layer dyconv --optimizer adamw sgd
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader, Dataset

from dyvision.tasks import ClassificationTask

WAYS: dict[str, dict[str, Any]] = {
    "for-loop": {"fused": False, "foreach": False},
    "foreach": {"fused": False, "foreach": True},
    "fused": {"fused": True},
    "fused, in backward": {"fused": True, "in_backward": True},
    "for-loop, in backward": {"fused": False, "foreach": False, "in_backward": True},
}
WARMUP = 2


class _Images(Dataset[dict[str, Any]]):
    def __init__(self, size: int, count: int) -> None:
        self.size, self.count = size, count
        self.image = torch.randn(3, size, size)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.image, "label": index % 10}


class _Times(Callback):
    """From the start of one batch to its end: forward, loss, backward, optimiser."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._began = 0.0

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self._synchronise(trainer)
        self._began = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._synchronise(trainer)
        self.times.append(time.perf_counter() - self._began)

    @staticmethod
    def _synchronise(trainer: L.Trainer) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()


def _resident(name: str) -> int:
    """Bytes: ``VmRSS`` now, ``VmHWM`` at most (``ru_maxrss`` would begin with what the parent process had)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def measure(way: str, optimizer: str, options: argparse.Namespace) -> dict[str, float]:
    """Train for some steps.

    Returns:
        ``median``, ``low`` and ``high`` in seconds per step, ``memory`` and ``parameters`` in bytes.
    """
    torch.set_num_threads(options.threads)
    arguments = dict(WAYS[way])
    in_backward = arguments.pop("in_backward", False)
    bank = {"bank": options.bank, "rank": options.rank} if options.bank else {}
    kwargs = {"num_kernels": options.kernels, **bank} if options.layer != "static" else None
    gpu = torch.cuda.is_available()
    before = _resident("VmRSS")
    task = ClassificationTask(
        options.network, options.layer, num_classes=10, layer_kwargs=kwargs, warmup_steps=0,
        optimizer={"name": optimizer, **arguments}, optimizer_in_backward=in_backward,
    )  # fmt: skip
    times = _Times()
    trainer = L.Trainer(
        max_steps=options.steps + WARMUP, accelerator="auto", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[times],
    )  # fmt: skip
    trainer.fit(task, DataLoader(_Images(options.size, options.batch * (options.steps + WARMUP)), options.batch))
    low, median, high = statistics.quantiles(times.times[WARMUP:], n=4)
    memory = torch.cuda.max_memory_allocated() if gpu else _resident("VmHWM") - before
    parameters = sum(parameter.numel() * parameter.element_size() for parameter in task.network.parameters())
    return {"median": median, "low": low, "high": high, "memory": memory, "parameters": parameters}


def main() -> None:
    """Measure all ways, several rounds, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--layer", default="dyconv")
    parser.add_argument("--kernels", type=int, default=4)
    parser.add_argument("--bank", help="of layers that have one: full or tucker")
    parser.add_argument("--rank", type=float, help="of a factorised bank, a share of the channels")
    parser.add_argument("--optimizer", nargs="+", default=["adamw", "sgd"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options)))
        return
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": str(options.threads)}
    for _ in range(options.rounds):
        for optimizer in options.optimizer:
            for way in options.ways:
                command = [sys.executable, __file__, *sys.argv[1:], "--one", way, optimizer]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                found.setdefault((optimizer, way), []).append(json.loads(done.stdout.splitlines()[-1]))
                print(optimizer, way, found[optimizer, way][-1], file=sys.stderr, flush=True)
    print("| optimiser | way | ms per step | peak memory, MB | times the parameters |\n|---|---|---|---|---|")
    for (optimizer, way), rows in found.items():
        best = min(rows, key=lambda row: row["median"])
        memory = statistics.median(row["memory"] for row in rows)
        spread = f"{1000 * best['median']:.0f} [{1000 * best['low']:.0f}-{1000 * best['high']:.0f}]"
        print(f"| {optimizer} | {way} | {spread} | {memory / 1e6:.0f} | {memory / best['parameters']:.2f} |")


if __name__ == "__main__":
    main()
