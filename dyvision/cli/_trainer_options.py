"""Ranges of ``trainer.*`` and ``checkpoint.*``: Lightning checks some of them late, some not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.plugins.environments import (
    LSFEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
)
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.accelerators import (
    AcceleratorRegistry,
    CUDAAccelerator,
    MPSAccelerator,
    XLAAccelerator,
)
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import StrategyRegistry

from dyvision.arguments import check_number, shown
from dyvision.cli._run import as_list
from dyvision.cli.configs import closest

_COUNT: dict[str, Any] = {"minimum": 1, "integer": True, "allow_none": True}
_NUMBERS: dict[str, dict[str, Any]] = {
    "accumulate_grad_batches": _COUNT,
    "check_val_every_n_epoch": _COUNT,
    "gradient_clip_val": {"minimum": 0, "allow_none": True},
    "log_every_n_steps": _COUNT,
    "min_epochs": _COUNT | {"minimum": 0},
    "min_steps": _COUNT | {"minimum": 0},
    "num_nodes": _COUNT,
    "num_sanity_val_steps": _COUNT | {"minimum": -1},
    "reload_dataloaders_every_n_epochs": _COUNT | {"minimum": 0},
}
#: share of an epoch if a float, number of batches if an integer
_PARTS = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches", "overfit_batches")
_CHOICES: dict[str, tuple[str, ...]] = {
    "gradient_clip_algorithm": ("norm", "value"),
    "profiler": ("simple", "advanced", "pytorch", "xla"),
}
#: classes that change nothing, and what jsonargparse makes of an object without a class path
_EMPTY = {"callbacks": "lightning.Callback", "plugins": "lightning.pytorch.plugins.Precision"}
_DURATION = re.compile(r"\d{2,}:\d{2}:\d{2}:\d{2}")


def check_trainer(options: Mapping[str, Any], command: str) -> None:
    """Check the trainer's options before it is built.

    Args:
        options: Parsed options of the section ``trainer``.
        command: ``fit``, ``validate``, ``test``, ``predict`` or ``quickstart``.

    Raises:
        ValueError: If a value is out of range, with the option and what it takes.
    """
    values = {name: value for name, value in options.items() if value is not None}
    for name, limits in _NUMBERS.items():
        check_number(f"trainer.{name}", values.get(name), **limits)
    for name in ("max_epochs", "max_steps"):
        if values.get(name, -1) != -1:
            least = 1 if command in ("fit", "quickstart") else 0
            _check(name, values[name], values[name] >= least, f"an integer of at least {least}, or -1 for no limit")
    for lower, upper in (("min_epochs", "max_epochs"), ("min_steps", "max_steps")):
        if lower in values and -1 < values.get(upper, -1) < values[lower]:
            raise ValueError(f"trainer.{lower}={values[lower]}: expected at most trainer.{upper}={values[upper]}")
    for name in _PARTS:
        _check_part(name, values.get(name), zero=not (name == "limit_train_batches" and command == "fit"))
    _check_part("val_check_interval", values.get("val_check_interval"), zero=False)
    for name, choices in _CHOICES.items():
        if isinstance(values.get(name), str) and values[name] not in choices:
            hint = closest(values[name], choices)
            _check(name, values[name], False, f"one of {', '.join(choices)}{hint}")
    for name in ("max_time", "val_check_interval"):
        _check_time(name, values.get(name))
    for name, empty in _EMPTY.items():
        if any(isinstance(given, Namespace) and given.class_path == empty for given in as_list(values.get(name))):
            base = empty.rpartition(".")[2]
            expected = f"{{class_path: NAME, init_args: {{...}}}} of a class that does something, not {base} itself"
            _check(name, {}, False, expected)
    _check_hardware(values)


def check_checkpoint(options: Mapping[str, Any]) -> None:
    """Check the options of the section ``checkpoint``.

    Raises:
        ValueError: If a value is out of range.
    """
    if options.get("mode", "max") not in ("min", "max"):
        raise ValueError(f"checkpoint.mode={options['mode']!r}: expected min or max")
    check_number("checkpoint.save_top_k", options.get("save_top_k"), minimum=-1, integer=True, allow_none=True)
    for name in ("every_n_train_steps", "every_n_epochs"):
        check_number(f"checkpoint.{name}", options.get(name), minimum=0, integer=True, allow_none=True)


class MonitorCheck(Callback):
    """Ends training at its start, not after its first epoch, if a callback waits for a metric that will not exist."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare ``monitor`` of the checkpoint and of early stopping with what the task will log.

        Raises:
            ValueError: If there is no such metric, with the closest ones.
        """
        names: list[str] = getattr(pl_module, "metric_names", list)()
        known = ["train/loss", "epoch", "step", *(f"val/{name}" for name in names)]
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:
            monitor = getattr(callback, "monitor", None)
            if not names or not isinstance(monitor, str) or monitor in known or monitor.startswith("train/"):
                continue
            option = "checkpoint" if isinstance(callback, ModelCheckpoint) else f"trainer.callbacks: {_name(callback)}"
            hint = closest(monitor.replace("_", "/"), known)
            listed = ", ".join(name for name in known[3:] if name.count("/") == 1)
            raise ValueError(f"{option}.monitor={monitor!r}: there is no such metric{hint}; there are {listed}")


def _name(callback: Callback) -> str:
    return type(callback).__name__


def _check(name: str, value: Any, correct: bool, expected: str) -> None:
    if not correct:
        raise ValueError(f"trainer.{name}={shown(value)}: expected {expected}")


def _check_part(name: str, value: Any, zero: bool) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return
    least = "0 and 1" if zero else "0 (not included) and 1"
    correct = value >= 0 if isinstance(value, int) else 0 <= value <= 1
    _check(name, value, correct and (zero or value > 0), f"a share between {least}, or an integer number of batches")


def _check_time(name: str, value: Any) -> None:
    expected = "days:hours:minutes:seconds with two digits each, such as 00:12:00:00"
    if isinstance(value, str):
        _check(name, value, _DURATION.fullmatch(value) is not None, expected)
    elif isinstance(value, Mapping):
        try:
            correct = timedelta(**value) > timedelta(0)
        except (TypeError, OverflowError):
            correct = False
        _check(name, value, correct, f"{expected}, or a mapping such as {{hours: 12, minutes: 30}}")


def _check_hardware(values: Mapping[str, Any]) -> None:
    several = values.get("num_nodes", 1) > 1 and "MASTER_ADDR" not in os.environ and not values.get("plugins")
    if several and not any(kind.detect() for kind in (SLURMEnvironment, LSFEnvironment, MPIEnvironment)):
        # Lightning would wait half an hour for machines that do not know of it
        expected = "1, or MASTER_ADDR and NODE_RANK in the environment of every machine (torchrun and SLURM set them)"
        _check("num_nodes", values["num_nodes"], False, expected)
    if values.get("barebones"):
        _check("barebones", True, False, "false: it leaves out the logs and checkpoints that a run is for")
    accelerator, strategy, devices = (values.get(name) for name in ("accelerator", "strategy", "devices"))
    names = ["auto", "gpu", *AcceleratorRegistry.available_accelerators()]
    if isinstance(accelerator, str) and accelerator.lower() not in names:
        _check("accelerator", accelerator, False, f"one of {', '.join(names)}{closest(accelerator, names)}")
    names = ["auto", *StrategyRegistry.available_strategies()]
    if isinstance(strategy, str) and strategy not in names:
        hint = closest(strategy, names) or "; usual ones are auto, ddp, fsdp"
        _check("strategy", strategy, False, f"the name of a strategy of Lightning{hint}")
    if _starts_copies(strategy):
        expected = "ddp or fsdp, whose processes run this command line themselves; this one is for notebooks, and "
        _check("strategy", strategy, False, f"{expected}what its copies of this process count and collect is lost")
    if devices is not None:
        _check_devices(devices, accelerator)


def _starts_copies(strategy: Any) -> bool:
    """Whether its processes are spawned or forked from this one, which does not have their state afterwards."""
    if isinstance(strategy, str):
        made = StrategyRegistry[strategy]["init_params"] if strategy in StrategyRegistry else {}
    else:
        made = getattr(strategy, "init_args", None) or {}
    return bool(made.get("start_method", "popen") != "popen")


def _check_devices(devices: Any, accelerator: Any) -> None:
    if _is_cpu(accelerator):
        expected = "how many processes on the CPU (at least 1), or auto"
        number = re.fullmatch(r"\s*0*[1-9]\d*\s*", devices) if isinstance(devices, str) else None
        _check("devices", devices, devices == "auto" or number is not None or _is_count(devices), expected)
        return
    expected = "how many processes or GPUs (at least 1; -1 or auto for all), or a list of GPU numbers such as [0,2]"
    if isinstance(devices, str) and devices != "auto":
        parts = devices.strip("[] ,").split(",")
        numbers = all(re.fullmatch(r"\s*-?\d+\s*", part) for part in parts)
        least = 0 if len(parts) > 1 or devices.startswith("[") or devices.endswith(",") else 1
        correct = numbers and (devices.strip() == "-1" or all(int(part) >= least for part in parts))
        _check("devices", devices, correct, expected)
    elif isinstance(devices, list):
        _check("devices", devices, bool(devices) and all(type(n) is int and n >= 0 for n in devices), expected)
    elif isinstance(devices, int):
        _check("devices", devices, devices == -1 or _is_count(devices), expected)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_cpu(accelerator: Any) -> bool:
    """Whether Lightning will choose the CPU."""
    if accelerator not in (None, "auto"):
        return isinstance(accelerator, str) and accelerator.lower() == "cpu"
    return not any(kind.is_available() for kind in (CUDAAccelerator, MPSAccelerator, XLAAccelerator))
