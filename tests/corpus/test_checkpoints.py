"""Files given as ``--ckpt_path`` or as weights that are no checkpoints, or not of this task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch


def spoilt(content: Any, kind: str) -> Any:
    """A checkpoint with one thing changed; ``kind`` says which."""
    weights = content["state_dict"]
    first = next(iter(weights))
    foreign = {f"a_module_of_another_program.with.long_names.{number}": torch.zeros(2) for number in range(300)}
    changes: dict[str, Any] = {
        "no weights": {"state_dict": None},
        "weights are a list": {"state_dict": [1, 2]},
        "empty weights": {"state_dict": {}},
        "weights of another shape": {"state_dict": {**weights, first: torch.zeros(1, 2, 3)}},
        "one weight missing": {"state_dict": {k: v for k, v in weights.items() if k != first}},
        "one weight too many": {"state_dict": {**weights, "network.extra": torch.zeros(1)}},
        "foreign weights": {"state_dict": foreign},
        "weights are text": {"state_dict": {**weights, first: "hello"}},
        "NaN weights": {"state_dict": {**weights, first: torch.full_like(weights[first], float("nan"))}},
        "hyperparameters are a list": {"hyper_parameters": [1]},
        "hyperparameters are text": {"hyper_parameters": "hello"},
        "unknown backbone": {"hyper_parameters": {**content["hyper_parameters"], "backbone": "no_such_net"}},
        "unknown layer": {"hyper_parameters": {**content["hyper_parameters"], "layer": "no_such_layer"}},
        "lr is text": {"hyper_parameters": {**content["hyper_parameters"], "lr": "fast"}},
        "num_classes is text": {"hyper_parameters": {**content["hyper_parameters"], "num_classes": "two"}},
        "unknown task": {"task": "pose"},
        "task is a number": {"task": 3},
        "data hyperparameters are a list": {"datamodule_hyper_parameters": [1]},
    }
    return {**content, **changes[kind]}


#: how the file is spoilt, words of the line
CHANGED = {
    "no weights": ("ckpt",),
    "weights are a list": ("ckpt",),
    "empty weights": ("stranger.ckpt", "lacks 314 of 314", "another checkpoint"),
    "foreign weights": ("stranger.ckpt", "lacks 314 of 314", "300 of other names", "another checkpoint"),
    "weights of another shape": ("stranger.ckpt", "1 of another shape", "[1, 2, 3]"),
    "one weight missing": ("stranger.ckpt", "lacks 1 of 314", "network.conv_stem.weight"),
    "one weight too many": ("stranger.ckpt", "1 of other names", "network.extra"),
    "weights are text": ("checkpoint|ckpt",),
    "NaN weights": ("nan|finite",),
    "hyperparameters are a list": ("ckpt",),
    "hyperparameters are text": ("ckpt",),
    "unknown backbone": ("no_such_net",),
    "unknown layer": ("no_such_layer",),
    "lr is text": ("lr",),
    "num_classes is text": ("num_classes",),
    "unknown task": ("pose",),
    "task is a number": ("task",),
    "data hyperparameters are a list": ("ckpt",),
}


def save(kind: str, path: Path, good: Path) -> None:
    """Write a file of a kind that is no checkpoint of ours."""
    weights = torch.load(good, weights_only=True)["state_dict"]
    contents: dict[str, Any] = {
        "list": [1, 2],
        "tensor": torch.zeros(3),
        "number": 3,
        "text": "hello",
        "empty mapping": {},
        "plain weights": {name.removeprefix("network."): value for name, value in weights.items()},
        "state dict inside": {"model": weights},
        "lightning of another project": {"state_dict": weights, "hyper_parameters": {"a": 1}, "epoch": 1,
                                          "pytorch-lightning_version": "2.5.0"},
    }  # fmt: skip
    if kind in contents:
        torch.save(contents[kind], path)
    elif kind == "empty file":
        path.write_bytes(b"")
    elif kind == "text file":
        path.write_text("not a checkpoint\n")
    elif kind == "half a file":
        path.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    elif kind == "folder":
        path.mkdir()


FILES = (
    *("list", "tensor", "number", "text", "empty mapping", "plain weights", "state dict inside"),
    *("lightning of another project", "empty file", "text file", "half a file", "folder", "missing"),
)


def evaluate(command: str, task: str, path: Path, corpus: Path) -> list[str]:
    """A command line that uses a checkpoint."""
    return [
        command, f"--task={task}", f"--ckpt_path={path}", f"--data.root={corpus / task}", "--data.num_workers=0",
        "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("command", ["validate", "fit"])
def test_no_checkpoint(command, kind, checkpoints, corpus, tmp_path, refused) -> None:
    path = tmp_path / "stranger.ckpt"
    save(kind, path, checkpoints["classification"])
    refused(evaluate(command, "classification", path, corpus), "stranger.ckpt", "ckpt_path")


def test_plain_weights_point_to_the_option(checkpoints, corpus, tmp_path, refused) -> None:
    path = tmp_path / "weights.pth"
    save("plain weights", path, checkpoints["classification"])
    refused(evaluate("validate", "classification", path, corpus), "weights.pth", "--model.backbone_weights")


@pytest.mark.parametrize("kind", CHANGED)
def test_changed_checkpoint(kind, checkpoints, corpus, tmp_path, refused) -> None:
    path = tmp_path / "stranger.ckpt"
    good = torch.load(checkpoints["classification"], weights_only=True)
    torch.save(spoilt(good, kind), path)
    line = refused(evaluate("validate", "classification", path, corpus)).lower()
    assert all(any(part in line for part in word.split("|")) for word in CHANGED[kind]), line


@pytest.mark.parametrize("made", ["classification", "detection"])
def test_of_another_task(made, checkpoints, corpus, refused) -> None:
    refused(evaluate("validate", "segmentation", checkpoints[made], corpus), made, "segmentation")


def test_without_optimizer(checkpoints, corpus, tmp_path, refused) -> None:
    path = tmp_path / "light.ckpt"
    content = torch.load(checkpoints["classification"], weights_only=True)
    torch.save({name: value for name, value in content.items() if name not in ("optimizer_states", "loops")}, path)
    refused(
        [*evaluate("fit", "classification", path, corpus), "--trainer.max_epochs=3"], "light.ckpt", "backbone_weights"
    )


def test_optimizer_state_of_another_shape(checkpoints, corpus, tmp_path, refused) -> None:
    path = tmp_path / "stranger.ckpt"
    content = torch.load(checkpoints["classification"], weights_only=True)
    content["optimizer_states"][0]["state"][0]["exp_avg"] = torch.zeros(3, 3)
    torch.save(content, path)
    command = [*evaluate("fit", "classification", path, corpus), "--trainer.max_epochs=3"]
    refused(command, "stranger.ckpt", "exp_avg", "network.", "[3, 3]", "backbone_weights")


@pytest.mark.parametrize("option", ["backbone_weights", "pretrained"])
@pytest.mark.parametrize("task", ["classification", "segmentation", "detection"])
def test_foreign_weights_are_named(option, task, tmp_path, refused_in_fit) -> None:
    torch.save({f"of_another.program.{n}": torch.zeros(2) for n in range(300)}, tmp_path / "weights.pth")
    refused_in_fit(task, [f"--model.{option}={tmp_path / 'weights.pth'}"], "weights.pth", "missing", "check")


def test_other_architecture(checkpoints, corpus, refused) -> None:
    command = evaluate("validate", "classification", checkpoints["classification"], corpus)
    refused([*command, "--model.backbone=mobilenetv2_050"], "mobilenetv2_035", "mobilenetv2_050")


def test_other_number_of_classes(checkpoints, corpus, tmp_path, refused) -> None:
    import shutil

    root = Path(shutil.copytree(corpus / "classification", tmp_path / "three"))
    for split in ("train", "val"):
        shutil.copytree(root / split / "cat", root / split / "emu")
    command = evaluate("validate", "classification", checkpoints["classification"], corpus)
    refused([*command, f"--data.root={root}"], "classes", "3", "2")


@pytest.mark.parametrize("kind", ["list", "number", "empty file", "text file", "half a file", "folder", "missing"])
@pytest.mark.parametrize("option", ["backbone_weights", "pretrained", "teacher"])
def test_no_weights(option, kind, checkpoints, tmp_path, refused_in_fit) -> None:
    path = tmp_path / "weights.pth"
    save(kind, path, checkpoints["classification"])
    refused_in_fit("classification", [f"--model.{option}={path}"], "weights.pth")
