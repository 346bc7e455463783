"""If these failed, several processes would report or write something else than one."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from dyvision.data.samplers import EvalSampler

_spec = importlib.util.spec_from_file_location("coco_scenes", Path(__file__).with_name("coco_scenes.py"))
_scenes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_scenes)
make_truth, make_batch, evaluator = _scenes.make_truth, _scenes.make_batch, _scenes.evaluator


def _evaluate_sets(rank: int, world: int, port: int, folder: str) -> None:
    """Sets of 1, 2 and 7 images, dealt out as the sampler of the data modules does."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if world > 1:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=world, timeout=timedelta(seconds=120))
    try:
        for count in (1, 2, 7):
            detections, targets = make_batch(make_truth(count))
            ours = evaluator()
            for key in EvalSampler(range(count)):
                ours.update([detections[key.position]], [targets[key.position]], [key.valid])
            values = {name: float(value) for name, value in ours.compute().items()}
            ours.save(f"{folder}/{world}-{count}", "val")
            with open(f"{folder}/{world}-{count}-{rank}.json", "w") as file:
                json.dump([values, ours.per_class], file)
    finally:
        if world > 1:
            torch.distributed.destroy_process_group()


@pytest.mark.skipif(sys.platform != "linux", reason="forks: a process that imports everything takes many seconds")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_one_two_and_three_processes_agree_on_small_sets(tmp_path):
    for world in (1, 2, 3):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = (world, port, str(tmp_path))
        torch.multiprocessing.start_processes(_evaluate_sets, arguments, nprocs=world, start_method="fork")
    for count in (1, 2, 7):
        values = [
            (tmp_path / f"{world}-{count}-{rank}.json").read_text() for world in (1, 2, 3) for rank in range(world)
        ]
        assert len(set(values)) == 1
        for kind in ("bbox", "segm"):  # byte for byte: the order of the images, too
            files = [
                (tmp_path / f"{world}-{count}" / f"coco_results_val_{kind}.json").read_bytes() for world in (1, 2, 3)
            ]
            assert files[0] == files[1] == files[2] and len(files[0]) > 2


def _evaluate_share(rank: int, world: int, port: int, folder: str, fail: bool) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world, timeout=timedelta(seconds=60))
    try:
        detections, targets = make_batch(make_truth())
        ours = evaluator()
        if fail:  # a category id that is not a number breaks the evaluation in the first process
            targets[0]["annotations"] = [{"id": 1, "category_id": 3, "bbox": "wrong"}]
        ours.update(detections[rank::world], targets[rank::world])
        if world == 2 and rank == 1:  # the sampler's padding: 7 images for 2 processes
            ours.update(detections[:1], targets[:1], valid=[False])
        try:
            result = {name: float(value) for name, value in ours.compute().items()}
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
        with open(f"{folder}/{rank}.json", "w") as file:
            json.dump({"result": result, "files": len(ours.save(f"{folder}/{rank}", "val"))}, file)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("fail", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_processes_get_what_one_gets(tmp_path, fail):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_evaluate_share, (2, port, str(tmp_path), fail), nprocs=2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    if fail:
        assert isinstance(first["result"], str)
        assert second["result"].startswith("RuntimeError: the first process failed")
        return
    alone = evaluator()
    alone.update(*make_batch(make_truth()))
    assert first["result"] == second["result"] == {name: float(value) for name, value in alone.compute().items()}
    assert (first["files"], second["files"]) == (2, 0)
