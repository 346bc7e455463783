"""What is wrong, in one line: the end of every command that could not do its work.

What happens while the trainer is running, and is nothing that the user could have got wrong, keeps its traceback: hours
of training are not to end in one line.
"""

from __future__ import annotations

import dis
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from dyvision.cli._workers import explain_worker
from dyvision.text import printable

#: printed as they are; everything else is named by its type, and DYVISION_DEBUG is pointed out
_PLAIN = (ValueError, OSError, FloatingPointError, ImportError)
_LONGEST = 400
#: seconds in which the first of several processes would end by the same error
_PATIENCE = 3.0

_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|unable to allocate|cannot allocate memory|bad_alloc", re.I
)
_AMOUNT = re.compile(r"(?:tried|unable) to allocate ([\d.]+ ?\w*)", re.I)
#: hooks that Lightning calls when its loops have ended: their errors are not to hide hours of training either
_AFTER_THE_LOOPS = ("on_fit_end", "on_exception")
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

#: what Lightning and torch say -> what to do; the options are those of the command line
_TRANSLATIONS: tuple[tuple[str, str], ...] = (
    (
        r"No supported gpu backend found|CUDAAccelerator.* can not run|No CUDA GPUs are available",
        "trainer.accelerator: there is no GPU here that PyTorch can use; give --trainer.accelerator=cpu or auto",
    ),
    (
        r"(\w+Accelerator)` can not run on your system",
        r"trainer.accelerator: \1 cannot run on this machine; give --trainer.accelerator=cpu or auto",
    ),
    (
        r"You requested gpu: \[?'?([\d, ]+)'?\]? ?But your machine only has: \[?([\d, ]*)\]?",
        r"trainer.devices: GPU \1 was asked for and this machine has [\2]; give --trainer.devices=1 or auto",
    ),
    (
        r"`?ModelCheckpoint\(monitor='([^']*)'\)`? could not find the monitored key in the returned metrics: (\[.*?\])",
        r"checkpoint.monitor='\1': there is no such metric; there are \2",
    ),
    (
        r"Early stopping conditioned on metric `([^`]*)` which is not available.*metrics are: ([^ ].*?)\.? *$",
        r"trainer.callbacks: EarlyStopping: monitor='\1': there is no such metric; there are \2",
    ),
    (
        r"`val_check_interval` \((\d+)\) must be less than or equal to the number of the training batches \((\d+)\).*",
        r"trainer.val_check_interval=\1: an epoch has \2 training batches; give at most that, or "
        "--trainer.check_val_every_n_epoch=null to count over epochs",
    ),
    (
        r"You selected an invalid strategy name: `strategy=(.*?)`.*",
        r"trainer.strategy=\1: no such strategy; give auto, ddp or fsdp",
    ),
    (r"^(-?\d+) is not in bounds, numpy accepts.*", r"seed_everything=\1: expected an integer in [0, 4_294_967_295]"),
    (r"^Checkpoint file not found: (.*)$", r"--ckpt_path \1: no such file"),
)


def report(error: BaseException) -> int:
    """Print why a command ended, to standard error.

    Args:
        error: What ended it.

    Returns:
        The exit status, 2.

    Raises:
        BaseException: The error itself, if the environment variable ``DYVISION_DEBUG`` is set.
    """
    if os.environ.get("DYVISION_DEBUG"):
        raise error
    if _first_process_ends():
        return 2
    if _is_running(error) and not _is_said(error):
        traceback.print_exception(error, file=sys.stderr)
        return 2
    if isinstance(error, OptionErrors):
        print("\n".join(f"dyvision: error: {line}" for line in error.lines), file=sys.stderr)
        return 2
    print(f"dyvision: error: {one_line(error)}", file=sys.stderr)
    if not _is_plain(error):
        print("(DYVISION_DEBUG=1 shows the traceback)", file=sys.stderr)
    return 2


@contextmanager
def naming(path: str | os.PathLike[str] | None) -> Iterator[None]:
    """Say of a ``ValueError`` in the block which file it is about, unless it says so itself."""
    try:
        yield
    except ValueError as error:
        raise error if str(path) in str(error) else ValueError(f"{path}: {error}") from error


class OptionErrors(ValueError):
    """Several options that are wrong.

    Attributes:
        lines: What is wrong with each.
    """

    def __init__(self, lines: list[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = [printable(line) for line in lines]


def _is_running(error: BaseException) -> bool:
    """Whether an error came out of the trainer's loops (training, evaluation, prediction), or of what follows them."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(
        str(frame.f_globals.get("__name__")).startswith("lightning.pytorch.loops")
        or frame.f_code.co_name == "_call_teardown_hook"
        or frame.f_locals.get("hook_name") in _AFTER_THE_LOOPS
        for frame in frames
    )


def _is_said(error: BaseException) -> bool:
    """Whether the message of an error is meant for the user.

    That of a file, a number that is not finite or memory is, whoever raised it. Any other is, if it was raised by a
    ``raise`` of dyvision: what Python or a library raises inside of it is a fault of the program.
    """
    if type(error).__module__.startswith("dyvision.") or _translated(_message(error)) is not None:
        return True
    if isinstance(error, (OSError, FloatingPointError)) or not isinstance(error, (ValueError, ImportError)):
        return _is_plain(error)
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or not str(last.tb_frame.f_globals.get("__name__")).startswith("dyvision."):
        return False
    instruction = last.tb_frame.f_code.co_code[last.tb_lasti]
    return dis.opname[instruction].startswith(("RAISE", "RERAISE"))


def _first_process_ends() -> bool:
    """Whether this is a further process, and the first one, which started it, ends as well: it says why.

    What is wrong with options or data is found by all processes; a broken file only by the one that reads it, while the
    others wait for it.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        return False
    first, end = os.getppid(), time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if os.getppid() != first:
            return True
        time.sleep(0.02)
    return False


def one_line(error: BaseException) -> str:
    """The message of an error as one line of at most some 400 characters, with the option that helps."""
    worker = explain_worker(error)
    if worker is not None:
        return worker
    message = _message(error)
    if _is_out_of_memory(error, message):
        return _memory(message)
    translated = _translated(message)
    if translated is not None:
        return _shorten(translated)
    if _is_plain(error) and message:
        return _shorten(message)
    kind = type(error).__name__
    return _shorten(f"{kind}: {message}" if message else kind)


def _message(error: BaseException) -> str:
    return printable(" ".join(_TERMINAL_CODES.sub("", _innermost(str(error))).split()))


def _translated(message: str) -> str | None:
    """What a message of Lightning or torch means on the command line, where that is known."""
    for pattern, replacement in _TRANSLATIONS:
        found = re.search(pattern, message)
        if found:
            return found.expand(replacement)
    return None


def _innermost(message: str) -> str:
    """What was raised in a data worker: torch wraps it in both tracebacks."""
    if "Original Traceback (most recent call last):" not in message:
        return message
    lines = message.rstrip().splitlines()
    start = max((number for number, line in enumerate(lines) if line[:1].isspace()), default=-1) + 1
    kind, colon, text = "\n".join(lines[start:]).partition(": ")
    return text if colon and " " not in kind else "\n".join(lines[start:])


def _is_plain(error: BaseException) -> bool:
    # by name: this module must not import Lightning
    named = type(error).__name__ == "MisconfigurationException"
    known = explain_worker(error) is not None or _is_out_of_memory(error, str(error))
    return named or known or isinstance(error, _PLAIN)


def _is_out_of_memory(error: BaseException, message: str) -> bool:
    said = isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(message) is not None
    return said or isinstance(error, MemoryError)


def _memory(message: str) -> str:
    where = "GPU" if re.search(r"cuda|\bGPU\b|\bMPS\b", message, re.I) else "main"
    amount = _AMOUNT.search(message)
    asked = f" ({_readable(amount[1])} more were asked for)" if amount else ""
    return (
        f"out of {where} memory{asked}: lower --data.batch_size (in evaluation --data.eval_batch_size; "
        "--trainer.accumulate_grad_batches keeps the size of a step), the size of the images, or --data.num_workers"
    )


def _readable(amount: str) -> str:
    number, _, unit = amount.partition(" ")
    if unit not in ("bytes", "") or not number.isdigit():
        return amount
    return f"{int(number) / 2**30:.1f} GiB"


def _shorten(message: str) -> str:
    """Cut the middle out of what is too long to be read: the start says what, the end what to do."""
    if len(message) <= _LONGEST:
        return message
    start, end = message[: _LONGEST - 140], message[-120:]
    # between words, unless one is as long as a line
    start = start.rpartition(" ")[0] if " " in start[-60:] else start
    end = end.partition(" ")[2] if " " in end[:60] else end
    return f"{start.rstrip()} ... {end.lstrip()}"
