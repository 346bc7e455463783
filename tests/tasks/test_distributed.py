"""If these failed, two processes would report other metrics than one."""

from __future__ import annotations

import pytest
import torch
from torch import distributed, multiprocessing

from dyvision.tasks import SegmentationTask

BACKBONE = "mobilenetv2_035"


def evaluate(rank: int, world: int, port: int, results) -> None:
    torch.set_num_threads(1)
    if world > 1:
        address = f"tcp://127.0.0.1:{port}"
        distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    torch.manual_seed(0)
    task = SegmentationTask(backbone=BACKBONE, head="fcn", num_classes=3).eval()
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(5, 3, 33, 40, generator=generator)
    masks = torch.randint(3, (5, 33, 40), generator=generator)
    masks[2] = 255
    # five images on two processes: the sampler fills the second one up with a repeated image, marked as not valid
    mine = [index for index in range(5) if index % world == rank]
    valid = [True] * len(mine)
    if world > 1 and len(mine) < 3:
        mine, valid = [*mine, 0], [*valid, False]
    batch = {"image": images[mine], "mask": masks[mine], "valid": torch.tensor(valid), "path": ["x"] * len(mine)}
    with torch.no_grad():
        task._step(batch, "val")
    values = {**task.metrics["val"].compute(), "loss": task.losses["val"].compute()}
    results[world, rank] = {name: value.item() for name, value in values.items()}
    if world > 1:
        distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_report_what_one_does():
    with multiprocessing.Manager() as manager:
        results = manager.dict()
        import socket

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for world in (1, 2):
            multiprocessing.spawn(evaluate, (world, port, results), nprocs=world)
        results = dict(results)
    assert results[1, 0]["mIoU"] > 0
    assert results[2, 0] == results[2, 1]
    assert results[2, 0] == pytest.approx(results[1, 0], rel=1e-6)
