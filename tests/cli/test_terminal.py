"""If these fail, a terminal's encoding, or a reader that leaves early, ends a command."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dyvision.cli._workers import explain_worker

COMMAND = [sys.executable, "-c", "import sys; from dyvision.cli import main; sys.exit(main())"]
NARROW = {"LC_ALL": "C", "PYTHONUTF8": "0", "TERM": "dumb", "COLUMNS": "40"}
TEXT = "━━ 3.4 → 5 µ • ⠋ näive 人門 \udcff"
WRITE = [
    sys.executable,
    "-c",
    "from dyvision.cli._terminal import prepare_streams; import rich; prepare_streams()\n"
    f"print({TEXT!a}); rich.print({'[b]λ[/b] ─'!a})\n"
    "for i in range(100000): print(i)",
]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_character_finds_a_form(encoding: str) -> None:
    environment = {**os.environ, **NARROW, "PYTHONIOENCODING": encoding}
    done = subprocess.run(WRITE, capture_output=True, env=environment, timeout=100)
    assert done.returncode == 0, done.stderr
    first = done.stdout.decode(encoding).splitlines()[0]
    expected = {
        "ascii": r"-- 3.4 -> 5 u * * n\xe4ive \u4eba\u9580 \udcff",
        "latin-1": r"-- 3.4 -> 5 µ * * näive \u4eba\u9580 \udcff",
        "utf-8": r"━━ 3.4 → 5 µ • ⠋ näive 人門 \udcff",
    }
    assert first == expected[encoding]


@pytest.mark.parametrize("arguments", [["list", "layers"], ["list", "configs"], ["--help"], ["reproduce", "--help"]])
def test_commands_on_a_terminal_without_characters(arguments: list[str]) -> None:
    environment = {**os.environ, **NARROW, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, env=environment, timeout=100)
    assert done.returncode == 0 and done.stdout and not done.stderr


@pytest.mark.parametrize("command", [[*COMMAND, "list", "configs"], WRITE], ids=["list", "long"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_is_no_error(command: list[str], unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=100) in (0, 141)


def test_without_standard_output() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "list", "layers"], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0 and not done.stderr


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("DataLoader worker (pid 12) is killed by signal: Killed. ", "memory ran out: lower data.num_workers"),
        ("DataLoader worker (pid(s) 1, 2) exited unexpectedly", "lower data.num_workers"),
        ("DataLoader worker (pid 3) is killed by signal: Bus error. It is possible that ...", "shared memory"),
        ("DataLoader worker (pid 3) is killed by signal: Segmentation fault. ", "set data.num_workers to 0"),
        ("mat1 and mat2 shapes cannot be multiplied", None),
    ],
)
def test_what_is_said_about_a_worker_that_died(message: str, told: str | None) -> None:
    explained = explain_worker(RuntimeError(message))
    assert (explained is None) if told is None else (explained is not None and told in explained)
