"""If these fail, rates are measured where nothing may be, are lost, or are taken from a file that nobody measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from dyvision.ops import calibration, rates
from dyvision.ops.rates import VARIABLE, calibrate, file_of_rates, find_rates
from dyvision.ops.work import Rates

SOME = Rates(1e-6, 1e-11, 1.1e-11, 1e-10, 1.2e-11, 2e-11, 1e-11, 3e-10)


@pytest.fixture
def measured(tmp_path, monkeypatch) -> list[int]:
    """A folder of its own, nothing known, and a measurement that takes no time; the threads of each one."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(rates, "_found", {})
    calls: list[int] = []

    def measure() -> Rates:
        calls.append(torch.get_num_threads())
        return SOME._replace(call=SOME.call * len(calls))

    monkeypatch.setattr(rates, "measure_rates", measure)
    return calls


def forget(monkeypatch) -> None:
    """What a new process knows."""
    monkeypatch.setattr(rates, "_found", {})


def test_they_are_measured_once_and_kept(measured, monkeypatch):
    first = find_rates()
    assert (first.source, first.rates) == ("measured", SOME) and first.note == str(file_of_rates())
    assert find_rates() == first
    forget(monkeypatch)
    later = find_rates(measure=False)
    assert (later.source, later.rates) == ("kept", SOME) and len(measured) == 1


def test_another_number_of_threads_has_other_rates(measured):
    before, file = find_rates().rates, file_of_rates()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert find_rates().rates != before and file_of_rates() != file
        assert measured == [threads, threads + 1]
    finally:
        torch.set_num_threads(threads)
    assert find_rates().rates == before


@pytest.mark.parametrize("key", ["processor", "threads", "torch", "instructions", "native"])
def test_another_machine_has_other_rates(key, measured, monkeypatch):
    find_rates()
    mine = rates.machine()
    monkeypatch.setattr(rates, "machine", lambda: {**mine, key: f"{mine[key]} or so"})
    assert find_rates(measure=False).source == "typical"


def test_calibrating_again_replaces_them(measured, monkeypatch):
    find_rates()
    again = calibrate(again=True)
    assert again.rates.call == pytest.approx(2 * SOME.call) and find_rates().rates == again.rates
    forget(monkeypatch)
    assert find_rates().rates == again.rates and len(measured) == 2


def good() -> dict:
    return {"machine": rates.machine(), "rates": SOME._asdict()}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x80\x04\x95pickle"),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_text(json.dumps(good())[:-20]),
        lambda path: path.write_text(json.dumps([1])),
        lambda path: path.write_text(json.dumps({**good(), "machine": {"processor": "another"}})),
        lambda path: path.write_text(json.dumps({**good(), "rates": 3})),
        lambda path: path.write_text(json.dumps({**good(), "rates": {}})),
        lambda path: path.write_text(json.dumps({**good(), "rates": {**SOME._asdict(), "call": float("nan")}})),
        lambda path: path.write_text(json.dumps({**good(), "rates": {**SOME._asdict(), "call": -1e-6}})),
        lambda path: path.write_text(json.dumps({**good(), "rates": {**SOME._asdict(), "memory": 1e300}})),
        lambda path: path.write_text(json.dumps({**good(), "rates": {**SOME._asdict(), "memory": "1e-11"}})),
        lambda path: path.write_text(json.dumps({**good(), "rates": {**SOME._asdict(), "memory": True}})),
        lambda path: path.write_text(json.dumps({**good(), "more": "x" * 2**17})),
    ],
)
def test_a_file_that_is_corrupt_or_foreign_is_replaced(spoil, measured, monkeypatch):
    path = file_of_rates()
    path.parent.mkdir(parents=True)
    spoil(path)
    assert find_rates() == (SOME, "measured", str(path))
    forget(monkeypatch)
    assert find_rates(measure=False) == (SOME, "kept", str(path))
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_or_a_folder_of_that_name_does_not_stop_it(measured, monkeypatch):
    path = file_of_rates()
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    assert find_rates().rates == SOME
    path.unlink()
    path.mkdir()
    forget(monkeypatch)
    found = find_rates()
    assert found.source == "measured" and found.note.startswith("not kept")


def refuse_writing(monkeypatch, error: OSError) -> None:
    def write(path: object, text: str) -> None:
        raise error

    monkeypatch.setattr(rates, "write_text", write)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system")])
def test_a_folder_that_cannot_be_written_is_no_error(error, measured, monkeypatch):
    refuse_writing(monkeypatch, error)
    found = find_rates()
    assert (found.rates, found.source) == (SOME, "measured") and found.note.startswith("not kept")
    assert find_rates() == found and len(measured) == 1
    assert calibrate(again=True).note.startswith("not kept")


def test_a_file_where_the_folder_should_be_is_no_error(measured, tmp_path):
    (tmp_path / "cache").write_text("")
    found = find_rates()
    assert (found.rates, found.source) == (SOME, "measured") and "not kept" in found.note and "\n" not in found.note


def test_a_user_without_home_is_no_error(measured, monkeypatch):
    monkeypatch.delenv(VARIABLE)

    def home() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", home)
    assert find_rates() == (SOME, "measured", "not kept: there is no home folder")


def test_where_the_file_is(measured, monkeypatch, tmp_path):
    assert file_of_rates().parent == tmp_path / "cache"
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(rates.platform, "system", lambda: "Linux")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert file_of_rates().parent == tmp_path / "xdg" / "dyvision"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert file_of_rates().parent == tmp_path / ".cache" / "dyvision"
    monkeypatch.setattr(rates.platform, "system", lambda: "Darwin")
    assert file_of_rates().parent == tmp_path / "Library" / "Caches" / "dyvision"


def test_the_first_of_several_processes_wins(measured, monkeypatch):
    """Another process keeps its rates while this one measures."""
    other = SOME._replace(product=2e-11)
    path = file_of_rates()

    def measure() -> Rates:
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"machine": rates.machine(), "rates": other._asdict()}))
        return SOME

    monkeypatch.setattr(rates, "measure_rates", measure)
    assert find_rates().rates == other
    assert os.listdir(path.parent) == [path.name]


def test_processes_that_start_at_once_agree(tmp_path):
    code = (
        "import os, time, torch\n"
        "from dyvision.ops import rates\n"
        "some = rates.Rates(*(1e-11 * (1 + os.getpid() % 97 / 100),) * 8)\n"
        "rates.measure_rates = lambda: time.sleep(0.2) or some\n"
        "open(f'{os.environ[\"READY\"]}/{os.getpid()}', 'w').close()\n"
        "while len(os.listdir(os.environ['READY'])) < 3: time.sleep(0.01)\n"
        "print(rates.find_rates().rates)"
    )
    (tmp_path / "ready").mkdir()
    environment = {**os.environ, VARIABLE: str(tmp_path / "cache"), "READY": str(tmp_path / "ready")}
    running = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    printed = {one.communicate(timeout=120)[0] for one in running}
    assert len(printed) == 1 and "Rates(" in printed.pop()
    assert len(os.listdir(tmp_path / "cache")) == 1


def test_nothing_is_measured_while_operations_are_recorded(measured):
    found = []

    def trace(x: torch.Tensor) -> torch.Tensor:
        found.append(find_rates())
        return x + 1

    torch.jit.trace(trace, torch.zeros(1), check_trace=False)
    torch.func.vmap(trace)(torch.zeros(2, 1))
    with FlopCounterMode(display=False):
        trace(torch.zeros(1))
    assert [known.source for known in found] == ["typical"] * 3 and not measured
    assert find_rates().source == "measured"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_nothing_is_measured_in_a_forked_process(measured):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, find_rates().source.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 100) == b"typical"
    os.close(reading), os.close(writing)
    assert find_rates().source == "measured"


class _Sources(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> str:
        return find_rates().note


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_nothing_is_measured_in_a_worker(context, measured):
    if context not in torch.multiprocessing.get_all_start_methods():
        pytest.skip("no such processes")
    (notes,) = DataLoader(_Sources(), num_workers=1, multiprocessing_context=context)
    assert notes[0].startswith("not measured: a ")


def test_a_disturbed_measurement_is_not_kept(measured, monkeypatch):
    monkeypatch.setattr(rates, "measure_rates", lambda: None)
    found = find_rates()
    assert found.source == "typical" and "busy" in found.note and found.rates == rates.typical_rates()
    assert not file_of_rates().exists()
    assert find_rates() is found  # not again by this process


def test_a_busy_processor_is_noticed(monkeypatch):
    """The process computes for a third of the time."""
    used = time.process_time
    monkeypatch.setattr(calibration.time, "process_time", lambda: used() / 3 / torch.get_num_threads())
    assert calibration.measure_rates() is None


def test_a_measurement_is_plausible_and_changes_nothing():
    state, threads, kind = torch.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    start = time.perf_counter()
    try:
        with torch.inference_mode():
            found = calibration.measure_rates()
    finally:
        torch.set_default_dtype(kind)
    took = time.perf_counter() - start
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads
    if found is None:
        pytest.skip("other work keeps the processor busy")
    assert rates._are_plausible(found) and took < 10
    assert found.product < found.call and found.convolution < found.depthwise * 10


def test_typical_rates_scale_with_the_threads():
    row = rates.typical_processors()[0]
    one, two = (rates.scaled(row, threads) for threads in (1, 2))
    assert one.call == two.call and one.product == pytest.approx(2 * two.product) and two.memory < one.memory
    assert rates.scaled(row, row["threads"]) == Rates(**row["rates"])
