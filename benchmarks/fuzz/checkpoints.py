"""Checkpoints with made-up hyperparameters: each is loaded, or refused in one sentence, and none of them runs code.

    python -m benchmarks.fuzz checkpoints [--examples 2000]

Up to three hyperparameters of a checkpoint of each task become other values: names of code in every place, files of
weights, odd numbers. A module that nothing of dyvision's imports stands for one that a stranger would have imported.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from benchmarks.fuzz.runner import Kind
from dyvision.tasks import ClassificationTask, DetectionTask, SegmentationTask

TASKS = {task.task: task for task in (ClassificationTask, SegmentationTask, DetectionTask)}
#: what the command line prints as one line without a traceback
SENTENCES = (ValueError, OSError, ImportError)

_CODE_NAMES = (
    "subprocess.Popen", "os.system", "builtins.eval", "importlib.import_module", "torch.load", "torch.hub.load",
    "antigravity.fly", "this.s", "idlelib.run.main", "turtledemo.bytedesign.main", "torch.nn.Identity", "torch.nn.Nix",
    "torch.optim.SGD", "torch.optim.Optimizer", "pathlib.Path", "shutil.rmtree", "torch.nn", "", ".", "a.", ".a",
    "dyvision.saving.write_text", "dyvision.tasks.losses.OHEMLoss", "albumentations.HorizontalFlip",
)  # fmt: skip
_KEYS = (
    "name", "class_path", "init_args", "type", "channels", "in_index", "args", "checkpoint_path", "pretrained", "x",
    "_scope_", "pretrained_cfg", "file", "model_kwargs", "init_cfg", "checkpoint", "norm_cfg", "threshold", "momentum",
)  # fmt: skip
#: modules that nothing of ours imports; a checkpoint that names one must not have it imported
_FOREIGN = ("antigravity", "this", "turtledemo", "idlelib")
_STARTED = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.startfile", "pty.spawn", "os.remove")


@functools.cache
def made() -> dict[str, dict[str, Any]]:
    """A small checkpoint of each task."""
    checkpoints = {}
    for name, task in TASKS.items():
        model = task(backbone="test_resnet", num_classes=2)
        checkpoints[name] = {
            "task": name,
            "pytorch-lightning_version": "2.6.0",
            "hyper_parameters": dict(model.hparams),
            "state_dict": model.state_dict(),
        }
    return checkpoints


def values() -> st.SearchStrategy[Any]:
    """Plain values: of the right kind by chance, of any other mostly."""
    numbers = st.sampled_from([0, 1, -1, 2, 3, 8, 255, 10**6, 10**9, 2**63, 10**30, 0.0, 0.5, -0.5, 1e300])
    texts = st.sampled_from(
        ["", "x", "fcn", "deeplabv3", "dcd", "static", "../../x", "/etc/passwd", "local-dir:/tmp", "hf-hub:a/b", "[/b]"]
    )
    code_name = st.sampled_from(_CODE_NAMES)
    plain = st.one_of(
        st.none(), st.booleans(), numbers, texts, code_name, st.floats(), st.integers(), st.text(max_size=8)
    )
    keys = st.sampled_from(_KEYS)
    nested = st.recursive(
        plain, lambda below: st.lists(below, max_size=3) | st.dictionaries(keys, below, max_size=3), max_leaves=6
    )
    code = st.builds(
        lambda name, arguments: {"class_path": name, "init_args": arguments},
        st.sampled_from(_CODE_NAMES),
        st.dictionaries(keys, plain, max_size=2),
    )
    return nested | code


@st.composite
def replacements(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A task, and hyperparameters to replace."""
    names = sorted({name for content in made().values() for name in content["hyper_parameters"]})
    task = draw(st.sampled_from(sorted(TASKS)))
    return task, draw(st.dictionaries(st.sampled_from([*names, "new"]), values(), max_size=3))


def check(example: tuple[str, dict[str, Any]], folder: Path) -> str:
    """Load a checkpoint with these hyperparameters.

    Returns:
        ``"accepted"`` or ``"refused"``.

    Raises:
        AssertionError: If it ran code, or ended in something else.
    """
    task, replaced = example
    content = {**made()[task], "hyper_parameters": {**copy.deepcopy(made()[task]["hyper_parameters"]), **replaced}}
    path = folder / "fuzz.ckpt"
    torch.save(content, path)
    with starts_nothing(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            TASKS[task].load_from_checkpoint(path)
        except SENTENCES as error:
            assert str(error).strip(), f"{type(error).__name__} without a text"
            return "refused"
    return "accepted"


@contextlib.contextmanager
def starts_nothing() -> Iterator[None]:
    """Check that the block starts no program, removes no file and imports nothing foreign.

    Raises:
        AssertionError: If it does.
    """
    started: list[str] = []
    _WATCHING.append(started)
    try:
        yield
    finally:
        _WATCHING.remove(started)
    assert not started, f"ran {started}"


#: lists that the events of running code go to, while a block is watched
_WATCHING: list[list[str]] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _WATCHING:
        return
    foreign = event == "import" and str(arguments[0]).split(".")[0] in _FOREIGN
    if foreign or event in _STARTED:
        _WATCHING[-1].append(f"{event} {arguments[0]!r}")


sys.addaudithook(_audit)

CHECKPOINTS = Kind(replacements(), check)
