"""If these failed, two processes would report other metrics than one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch import distributed

from dyvision.tasks import SegmentationTask

BACKBONE = "mobilenetv2_035"


def evaluate(rank: int, world: int, meeting_point: str) -> dict[str, float]:
    torch.set_num_threads(1)
    if world > 1:
        distributed.init_process_group("gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=world)
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
    if world > 1:
        distributed.destroy_process_group()
    return {name: value.item() for name, value in values.items()}


@pytest.mark.slow
def test_two_processes_report_what_one_does(tmp_path):
    results = {}
    for world in (1, 2):
        # this file as a script
        commands = [[sys.executable, __file__, str(rank), str(world), str(tmp_path / "meet")] for rank in range(world)]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
        for rank, process in enumerate(processes):
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0
            results[world, rank] = json.loads(output.splitlines()[-1])
    assert results[1, 0]["mIoU"] > 0
    assert results[2, 0] == results[2, 1]
    assert results[2, 0] == pytest.approx(results[1, 0], rel=1e-6)


if __name__ == "__main__":
    print(json.dumps(evaluate(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))
