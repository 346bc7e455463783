"""Made-up configuration files: each builds a task, data and a trainer, or ends in one line; some are trained with.

``dyvision config check`` finds nothing wrong in those that build.

    python -m benchmarks.fuzz configs [--examples 2000]

hypothesis changes one to three places of a quickstart config: mostly an option gets a value near its kind (between a
third and a half of the files are right then), sometimes any value, or a key is misspelt or left out.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from benchmarks.fuzz.option_values import ODD_VALUES, near, number_of_classes, options
from benchmarks.fuzz.runner import Kind
from dyvision.cli.checking import check_config
from dyvision.cli.configs import find_config
from dyvision.cli.errors import report
from dyvision.cli.task_table import TASKS
from dyvision.cli.trainer import TaskCLI, read_request, run_trainer
from dyvision.data import write_sample_data

LONGEST = 400


@functools.cache
def small_config(task: str) -> dict[str, Any]:
    """The quickstart config of a task with a tiny network and tiny images; its data are in ``sample``."""
    content = yaml.safe_load(find_config(f"{task}/quickstart.yaml").read_text(encoding="utf-8"))
    content["sample_data"] = None
    content["model"]["backbone"] = "test_resnet"
    content["data"] |= {"root": f"sample/{TASKS[task].sample_format}", "batch_size": 2}
    if task != "detection":
        name, size = ("crop_size", [32, 32]) if task == "segmentation" else ("image_size", 32)
        content["data"][name] = size
    return content


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a nested config, as the keys that lead to it."""
    if path:
        yield path
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def _misspelt(draw: st.DrawFn, key: object) -> str:
    text = str(key)
    cut = draw(st.integers(0, len(text)))
    return text[:cut] + draw(st.sampled_from(["x", "", "_", text[:1]])) + text[cut + 1 :]


@st.composite
def configs(draw: st.DrawFn) -> tuple[dict[str, Any], bool]:
    """A quickstart config with one to three changes, and whether to train with it."""
    task = draw(st.sampled_from(list(TASKS)))
    content = copy.deepcopy(small_config(task))
    # without a number the network is built when the data are there, not before
    content["model"]["num_classes"] = draw(st.sampled_from([None, number_of_classes(task)]))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 2, 3]))):
        action = draw(st.sampled_from(["near"] * 7 + ["any", "place", "misspelt", "left out"]))
        if action in ("near", "any"):
            known = options(task)
            section = draw(st.sampled_from(["model"] * 4 + ["data"] * 4 + ["trainer"] * 3 + ["checkpoint", "last"]))
            if isinstance(content.setdefault(section, {}), dict):
                option = known[section][draw(st.sampled_from(sorted(known[section])))]
                values = near(option, task) if action == "near" else st.sampled_from(ODD_VALUES)
                content[section][option.name] = copy.deepcopy(draw(values))
            continue
        *way, key = draw(st.sampled_from(list(places(content))))
        parent = functools.reduce(lambda inner, step: inner[step], way, content)
        if action == "place":
            parent[key] = copy.deepcopy(draw(st.sampled_from(ODD_VALUES)))
        elif isinstance(parent, dict):
            kept = parent.pop(key)
            if action == "misspelt":
                parent[_misspelt(draw, key)] = kept
    return content, draw(st.sampled_from([False] * 19 + [True]))


def check(example: tuple[dict[str, Any], bool], folder: Path) -> str:
    """Build everything that a config describes, read its data, and perhaps take a step.

    Returns:
        ``"accepted"`` or ``"refused"``, or how a step ended.

    Raises:
        AssertionError: If the end is neither a run nor one line.
    """
    content, train = example
    if not (folder / "sample").is_dir():
        write_sample_data(
            folder / "sample", train_scenes=4, val_scenes=2, train_crops=6, val_crops=4, size=64, crop_size=32
        )
    Path(folder, "changed.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    arguments = ["--config=changed.yaml", "--trainer.default_root_dir=runs", "--trainer.accelerator=cpu"]
    with _quietly_in(folder):
        errors = check_config("changed.yaml")
        if any("\n" in error or not error.startswith("changed.yaml") for error in errors):
            raise AssertionError(f"not one line about the file: {errors}")
        try:
            built = TaskCLI("fit", read_request(arguments))
            if errors and built.model.network is not None:  # else it is built, and refused, when the data are there
                raise AssertionError(f"'config check' finds errors in a config that works: {errors}")
            try:
                built.datamodule.setup("fit")
                train = train and _is_small(built)
            finally:
                if built.run is not None:
                    built.run.release(built.trainer)
        except Exception as error:
            return _refused(error)
        if not train:
            return "accepted"
        try:
            run_trainer("fit", [*arguments, "--trainer.fast_dev_run=true"])
        except Exception as error:
            return f"{_refused(error)} in training"
    return "accepted and trained"


def _is_small(built: TaskCLI) -> bool:
    """Whether a step takes a moment: in this process, with few data workers and the tiny network."""
    alone = built.trainer.world_size == 1 and built.datamodule.num_workers <= 2
    return alone and built.model.hparams["backbone"] == "test_resnet"


def _refused(error: Exception) -> str:
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        report(error)
    lines = said.getvalue().splitlines()
    # a second line says that it is a fault of ours
    right = len(lines) == 1 and 20 < len(lines[0]) <= LONGEST + len("dyvision: error: ")
    if not right:
        raise AssertionError(f"{type(error).__name__}: {error}") from error
    return "refused"


@contextlib.contextmanager
def _quietly_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
        os.chdir(before)


CONFIGS = Kind(configs(), check, seconds=120)
