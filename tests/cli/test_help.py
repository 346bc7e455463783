"""Help without a task, names without imports, completion: what the shell and the newcomer see first."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from jsonargparse import ArgumentParser

from dyvision.backbones import list_policies
from dyvision.cli import main
from dyvision.cli.common_options import TRAINER_COMMANDS, common_options
from dyvision.cli.listing import names_of
from dyvision.cli.task_parser import TaskParser, integers_first, task_parser
from dyvision.cli.task_table import TASKS
from dyvision.cli.typed import TypedOptions
from dyvision.layers import list_layers
from dyvision.tasks.heads import list_heads


def test_names_are_those_of_the_registries() -> None:
    assert names_of("layers") == list_layers()
    assert names_of("policies") == list_policies()
    heads = [f"{task}/{name}" for task in ("segmentation", "detection") for name in list_heads(task)]
    assert names_of("heads") == heads


@pytest.mark.parametrize("command", TRAINER_COMMANDS)
def test_help_without_a_task(command, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: dyvision {command}" in text and "--data.root" in text
    assert all(f"dyvision {command} --help --task {task}" in text for task in TASKS)
    assert max(map(len, text.splitlines())) <= 80


def test_help_fits_into_80_columns(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize("task", TASKS)
def test_the_common_options_exist(task) -> None:
    known = {"config", *TaskParser("fit", task).known_options()}
    for command in TRAINER_COMMANDS:
        missing = [name for name, _, _ in common_options(command) if name not in known]
        assert missing in ([], ["model.head"]) and (task == "classification" or not missing)


def test_help_with_a_task_has_every_option(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--help", "--task=classification"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert all(f"--{name}" in text for name in TaskParser("fit", "classification").known_options() if "." in name)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_options_and_names(shell, capsys) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in ("quickstart", "model.layer", "odconv", "predict_root", "cityscapes_dcd"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes(capsys) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    ask = """
    offer() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _shtab_dyvision; echo "${COMPREPLY[@]}"; }
    offer dyvision qui; offer dyvision fit --model.freeze_n; offer dyvision fit --model.layer kern
    offer dyvision config show detection/coco_dr
    """
    done = subprocess.run(["bash", "-c", script + ask], capture_output=True, text=True, timeout=60)
    expected = ["quickstart", "--model.freeze_norm", "kernelwarehouse", "detection/coco_drconv.yaml"]
    assert done.stdout.split("\n")[:4] == expected, done.stderr


@pytest.mark.parametrize(
    ("arguments", "pairs", "words"),
    [
        (["--a", "1", "--b=2", "-c", "x"], [("a", "1"), ("b", "2"), ("config", "x")], []),
        (["--a", "-1", "--a=-2"], [("a", "-1"), ("a", "-2")], []),
        (["--a", "--b"], [("a", None), ("b", None)], []),
        (["x", "--help", "y", "--a="], [("help", None), ("a", "")], ["x", "y"]),
        (["--a", "b=c", "d=e"], [("a", "b=c")], ["d=e"]),
    ],
)
def test_a_command_line_is_read_once(arguments, pairs, words) -> None:
    typed = TypedOptions.read(arguments)
    assert (typed.pairs, typed.words) == (pairs, words)
    assert TypedOptions.read(typed.arguments()).pairs == pairs


def test_whole_numbers_are_integers_whatever_was_imported_first() -> None:
    """``limit_train_batches=1`` is one batch, ``1.0`` all of them."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--limit", type=float | int | None)
    integers_first(parser)
    found = [parser.parse_args([f"--limit={text}"]).limit for text in ("1", "1.0", "0.5", "null")]
    assert found == [1, 1.0, 0.5, None] and [type(value) for value in found[:2]] == [int, float]
    trainer = task_parser("fit", "segmentation")
    assert type(trainer.parse_args(["--data.root=x", "--trainer.limit_val_batches=1"]).trainer.limit_val_batches) is int
