"""Made-up configuration files: each builds a task, data and a trainer, or ends in one line.

    python benchmarks/fuzz.py configs [--examples 2000]

hypothesis changes up to three places of a quickstart config: values become odd ones, keys are misspelt, doubled or left
out. A traceback, a crash or a hang is a fault; a failing file is made as small as it can be.
"""

from __future__ import annotations

import copy
import faulthandler
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dyvision.cli._configs import find_config
from dyvision.cli._errors import one_line
from dyvision.cli._trainer import TaskCLI, read_request

TASKS = ("classification", "segmentation", "detection")
#: seconds after which an example counts as hanging
LIMIT = 120
LONGEST = 400

ODD_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 0.5, 1.5, -0.5, 1e-30, 1e18, -1e18, 2**31, 2**32, 2**63, float("nan"),
    float("inf"), float("-inf"), "", " ", "abc", "1", "0.1", "1e3", "0,1", "true", "None", "~", "*", "../..", "\u4eba",
    "a.b.C", "os.system", "[1, 2]", "{a: 1}", [], [None], [0], [1, 2], [1, 2, 3], ["a", "b"], [[1, 2], [3]],
    [float("nan")] * 3, {}, {"a": 1}, {1: 2}, {"name": "adamw"}, {"name": 3}, {"class_path": "a.b.C"},
    {"class_path": "torch.nn.Linear", "init_args": {}}, {"class_path": 3}, {"init_args": {"a": 1}},
    {"name": "fcn", "a": 1},
]  # fmt: skip
#: options that no quickstart config sets
FURTHER: dict[str, list[str]] = {
    "model": ["weight_decay", "lr_schedule", "warmup_steps", "ema_decay", "anneal_temperature", "in_chans", "policy",
              "drop_path_rate", "num_classes", "class_names", "class_ids", "class_colors", "layer_kwargs",
              "backbone_kwargs", "pretrained", "backbone_weights", "label_smoothing", "mixup_alpha", "class_weights",
              "ignore_index", "output_stride", "aux_head", "loss", "inference", "min_size", "max_size", "image_mean",
              "image_std", "score_threshold", "nms_threshold", "detections_per_image"],
    "data": ["eval_batch_size", "seed", "mean", "std", "eval_transform", "train_transform", "drop_last", "predict_root",
             "train_split", "val_split", "classes", "label_table", "ignore_ids", "scale_range", "image_size"],
    "trainer": ["max_steps", "max_time", "devices", "strategy", "precision", "logger", "callbacks", "profiler",
                "limit_train_batches", "val_check_interval", "accumulate_grad_batches", "gradient_clip_algorithm",
                "overfit_batches", "fast_dev_run", "plugins", "min_epochs", "deterministic", "detect_anomaly"],
    "checkpoint": ["mode", "monitor", "save_top_k", "every_n_epochs", "filename", "dirpath"],
}  # fmt: skip


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a nested config, as the keys that lead to it."""
    if path:
        yield path
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """A quickstart config with up to three changes."""
    task = draw(st.sampled_from(TASKS))
    content = copy.deepcopy(yaml.safe_load(find_config(f"{task}/quickstart.yaml").read_text(encoding="utf-8")))
    # small, and without drawing data
    content["model"]["backbone"] = "mobilenetv2_035"
    content["model"]["num_classes"] = draw(st.sampled_from([None, 3]))
    content["sample_data"] = None
    for _ in range(draw(st.integers(1, 3))):
        value = copy.deepcopy(draw(st.sampled_from(ODD_VALUES)))
        if draw(st.booleans()):
            section = draw(st.sampled_from(sorted(FURTHER)))
            if isinstance(content.setdefault(section, {}), dict):
                content[section][draw(st.sampled_from(FURTHER[section]))] = value
            continue
        *way, key = draw(st.sampled_from(list(places(content))))
        parent = content
        for step in way:
            parent = parent[step]
        action = draw(st.sampled_from(("value", "value", "value", "misspelt", "left out")))
        if action == "value":
            parent[key] = value
        elif isinstance(parent, dict):
            kept = parent.pop(key)
            if action == "misspelt":
                text = str(key)
                cut = draw(st.integers(0, len(text)))
                parent[text[:cut] + draw(st.sampled_from(["x", "", "_", text[:1]])) + text[cut + 1 :]] = kept
    return content


def check(content: dict[str, Any], folder: Path) -> str:
    """Build everything that a config describes, without training.

    Returns:
        ``"accepted"`` or ``"refused"``.

    Raises:
        AssertionError: If the end is neither a built run nor one line.
    """
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    arguments = [f"--config={path}", f"--trainer.default_root_dir={folder / 'runs'}", "--trainer.accelerator=cpu"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            built = TaskCLI("fit", read_request(arguments))
            if built.run is not None:
                built.run.release(built.trainer)
    except (ValueError, OSError, ImportError) as error:
        line = one_line(error)
        assert line.strip() and "\n" not in line and len(line) <= LONGEST, line
        return "refused"
    except Exception as error:
        # told in one line, too, but as what it is: a fault of ours, unless Lightning says that it is the user's
        assert type(error).__name__ == "MisconfigurationException", f"{type(error).__name__}: {error}"
        return "refused"
    return "accepted"


def fuzz_configs(examples: int = 2000, seconds: int = LIMIT) -> dict[str, int]:
    """Check that many files.

    Returns:
        How many were accepted and refused.
    """
    counts = {"accepted": 0, "refused": 0}
    with tempfile.TemporaryDirectory() as folder:

        @settings(
            max_examples=examples, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(configs())
        def one(content: dict[str, Any]) -> None:
            faulthandler.dump_traceback_later(seconds, exit=True)
            try:
                counts[check(content, Path(folder))] += 1
            finally:
                faulthandler.cancel_dump_traceback_later()

        one()
    return counts
