"""The end of a command that could not do its work: one line, whatever was raised."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dyvision.cli.errors import one_line, report
from dyvision.cli.parser import parse_command


class MisconfigurationException(Exception):
    """Lightning's, by name: the line is made without importing Lightning."""


WORKER = """Caught DataError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "somewhere/worker.py", line 309, in _worker_loop
    data = fetcher.fetch(index)
dyvision.data.errors.DataError: a/b.jpg: the image cannot be decoded; replace or remove the file.
"""


def test_a_worker_s_traceback_is_left_out() -> None:
    assert one_line(ValueError(WORKER)) == "a/b.jpg: the image cannot be decoded; replace or remove the file."


def test_other_kinds_are_named_and_debugging_is_pointed_out(capsys, monkeypatch) -> None:
    monkeypatch.delenv("DYVISION_DEBUG", raising=False)
    assert report(KeyError("x")) == 2
    assert capsys.readouterr().err.splitlines() == [
        "dyvision: error: KeyError: 'x'",
        "(DYVISION_DEBUG=1 shows the traceback)",
    ]
    assert report(MisconfigurationException("`devices`\n  is wrong")) == 2
    assert capsys.readouterr().err.splitlines() == ["dyvision: error: `devices` is wrong"]


def test_debugging_shows_the_traceback(monkeypatch) -> None:
    monkeypatch.setenv("DYVISION_DEBUG", "1")
    with pytest.raises(ValueError, match="wrong"):
        report(ValueError("wrong"))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 53687091200 "
                      "bytes. Error code 12"), ("main memory", "50.0 GiB", "--data.batch_size")),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 79 GiB in all."),
         ("GPU memory", "20.00 GiB", "--data.batch_size")),
        (MemoryError(), ("main memory", "--data.batch_size")),
        (MemoryError("Unable to allocate 9.31 GiB for an array"), ("main memory", "9.31 GiB")),
    ],
)  # fmt: skip
def test_memory_names_the_options_that_help(error, words) -> None:
    assert all(word in one_line(error) for word in words), one_line(error)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("No supported gpu backend found!", ("trainer.accelerator", "cpu")),
        ("`ModelCheckpoint(monitor='val_loss')` could not find the monitored key in the returned metrics: ['val/top1', "
         "'epoch']. HINT: Did you call `log('val_loss', value)`?", ("checkpoint.monitor='val_loss'", "'val/top1'")),
        ("`val_check_interval` (1000) must be less than or equal to the number of the training batches (4). "
         "If you want to disable validation ...", ("trainer.val_check_interval=1000", "4")),
    ],
)  # fmt: skip
def test_lightning_s_messages_name_the_option(said, words) -> None:
    line = one_line(MisconfigurationException(said))
    assert all(word in line for word in words) and "HINT" not in line


def test_a_long_message_keeps_its_start_and_its_end() -> None:
    line = one_line(ValueError(f"beginning {'x' * 5000} do this"))
    assert len(line) <= 400 and line.startswith("beginning") and line.endswith("do this")


def test_a_further_process_leaves_the_line_to_the_first(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    parents = iter([10, 10, 1])
    monkeypatch.setattr("dyvision.cli.errors.os.getppid", lambda: next(parents))
    assert report(ValueError("seen by all")) == 2
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("dyvision.cli.errors._PATIENCE", 0.1)
    monkeypatch.setattr("dyvision.cli.errors.os.getppid", lambda: 10)
    assert report(ValueError("only seen here")) == 2
    assert "only seen here" in capsys.readouterr().err


def test_a_long_message_is_cut_between_words() -> None:
    words = [f"word{number}" for number in range(200)]
    start, _, end = one_line(ValueError(" ".join(words))).partition(" ... ")
    assert set(start.split()) | set(end.split()) <= set(words)
    assert len(start.split()) > 20 and len(end.split()) > 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("export a.ckpt --imgsz 64", "--imgsz 64 (did you mean '--image-size'?); see dyvision export --help"),
        ("compare a --jsn=b", "--jsn=b (did you mean '--json'?); see dyvision compare --help"),
        ("export a.ckpt --int8", "--int8 (did you mean '--quantize int8'?); see dyvision export --help"),
        ("export a.ckpt --onnx", "--onnx (did you mean '--format onnx'?); see dyvision export --help"),
        ("export a.ckpt --foo", "--foo; see dyvision export --help"),
        ("data check a --formt coco", "--formt coco (did you mean '--format'?); see dyvision data check --help"),
        ("export a.ckpt format=onnx", "format=onnx; see dyvision export --help"),
    ],
)
def test_what_a_command_does_not_know_names_its_closest_option(words, message) -> None:
    with pytest.raises(ValueError) as caught:
        parse_command(words.split())
    assert str(caught.value) == f"unrecognized arguments: {message}"
