"""Threads: one pool with torch's, several callers at once, and processes that were forked."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from dyvision.ops import formulation, mixture_conv2d, native

pytestmark = pytest.mark.skipif(not native.available(), reason=f"native kernels: {native.reason()}")


def make(batch: int, seed: int) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    draw = lambda *size: torch.randn(*size, generator=g)  # noqa: E731
    return draw(batch, 40, 12, 12), draw(4, 50, 40, 3, 3), draw(batch, 4)


def convolve(tensors: tuple[torch.Tensor, ...]) -> torch.Tensor:
    with torch.inference_mode(), formulation("native"):
        return mixture_conv2d(*tensors, padding=1)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_the_number_of_threads_changes_no_number(two_threads):
    for batch in (1, 2, 3, 9):
        tensors = make(batch, batch)
        found = convolve(tensors)
        torch.set_num_threads(1)
        assert torch.equal(found, convolve(tensors))
        torch.set_num_threads(2)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads of a process are not listed here")
def test_no_second_pool_of_threads_is_made(two_threads):
    count = lambda: len(os.listdir("/proc/self/task"))  # noqa: E731
    torch.randn(512, 512) @ torch.randn(512, 512)
    torch.nn.functional.conv2d(*make(1, 0)[:1], torch.randn(50, 40, 3, 3))
    before = count()
    for batch in range(1, 9):
        convolve(make(batch, 0))
    assert count() == before


def test_several_callers_at_once(two_threads):
    cases = [make(1 + index % 3, index) for index in range(8)]
    expected = [convolve(case) for case in cases]
    wrong: list[int] = []

    def call(index: int) -> None:
        torch.set_num_threads(1 + index % 2)
        for _ in range(50):
            if not torch.equal(convolve(cases[index]), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=call, args=(index,)) for index in range(len(cases))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong and not any(thread.is_alive() for thread in threads)


class Convolved(Dataset):
    """Samples that are computed where they are loaded."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        torch.set_num_threads(self.threads)
        return convolve(make(2, index))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("threads", [1, 2])
def test_data_loader_workers_that_were_forked(two_threads, threads):
    expected = [convolve(make(2, index)) for index in range(6)]
    loader = DataLoader(Convolved(threads), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    for found, value in zip(loader, expected, strict=True):
        assert torch.equal(found, value)
    assert torch.equal(convolve(make(2, 0)), expected[0])


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="no safe fork here")
def test_a_child_computes_alone_and_does_not_wait_for_threads_that_are_not_there(two_threads):
    tensors = make(3, 0)
    expected = convolve(tensors)
    child = os.fork()
    if child == 0:
        # nothing of pytest's may run here
        os._exit(0 if torch.equal(convolve(tensors), expected) else 3)
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the child did not end")
