"""``config.json``: what a network is made of, as plain values; and the network that it describes."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dyvision.arguments import shown
from dyvision.backbones import Backbone, create_backbone, create_model
from dyvision.backbones.recorded import arguments_of
from dyvision.building import LimitedMemory
from dyvision.checkpoint_file import checked, count, warn_of_newer
from dyvision.reading import check_plain, read_json
from dyvision.saving import write_text
from dyvision.tasks import BaseTask
from dyvision.tasks.opening import TASK_CLASSES
from dyvision.tasks.transfer import compare_weights
from dyvision.tensor_kinds import check_kinds
from dyvision.text import did_you_mean, one_line, printable, some
from dyvision.trust import NESTED_PLACES, hyperparameters_of, without_places
from dyvision.version import VERSION

CONFIG, WEIGHTS = "config.json", "model.safetensors"
CREATE: dict[str, Any] = {"model": create_model, "backbone": create_backbone}
#: a dynamic classifier that started from weights has a bias; a collapsed network is the static one
_VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"preserve_outputs": True},
    {"layer": "static", "layer_kwargs": None, "policy": None, "dynamic_classifier": None, "preserve_outputs": None},
)


def describe(model: nn.Module) -> dict[str, Any]:
    """What ``config.json`` says of a network.

    Raises:
        ValueError: If it was made or changed by other code, or an argument is no plain value.
    """
    config: dict[str, Any] = {"library": "dyvision", "dyvision_version": VERSION}
    if isinstance(model, BaseTask):
        if model.network is None:
            raise ValueError("save_pretrained: the task has no network yet; give num_classes, or fit it first")
        config |= {"kind": "task", "task": model.task, "arguments": without_places(model.hparams)}
    else:
        config |= {"kind": "backbone" if isinstance(model, Backbone) else "model", "arguments": _made_with(model)}
    config["arguments"] = {name: _json_value(name, value) for name, value in config["arguments"].items()}
    return config


def write_config(config: Mapping[str, Any], path: Path) -> None:
    """Write ``config.json``, whole or not at all.

    Raises:
        OSError: If it cannot be written.
    """
    write_text(path, json.dumps(config, indent=2) + "\n")


def read_config(path: Path) -> dict[str, Any]:
    """Read a config of any origin.

    Raises:
        ValueError: If it is damaged or not of dyvision; names the file and the field.
    """
    config = read_json(path)
    if not isinstance(config, dict) or "kind" not in config:
        found = some(map(printable, config)) or "nothing" if isinstance(config, dict) else f"a {type(config).__name__}"
        raise ValueError(f"{path}: not a config of dyvision (no 'kind', found {found}); use the library that wrote it")
    check_plain(config, str(path))
    kind, arguments, task = config["kind"], config.get("arguments"), config.get("task")
    if kind not in (*CREATE, "task"):
        raise ValueError(f"{path}: 'kind' is {shown(kind)}, expected 'model', 'backbone' or 'task'")
    if not isinstance(arguments, dict):
        raise ValueError(f"{path}: 'arguments' is {shown(arguments)}, expected a mapping of names to values")
    if kind == "task" and not isinstance(task, str):
        raise ValueError(f"{path}: 'task' is {shown(task)}, expected one of {', '.join(TASK_CLASSES)}")
    warn_of_newer(config, str(path), VERSION)
    return config


def rebuild(
    config: Mapping[str, Any],
    state: dict[str, Tensor],
    config_file: Path,
    weights_file: Path,
    trust: Collection[str],
    task_class: type[BaseTask] | None,
    given: Mapping[str, Any],
) -> nn.Module:
    """Build a network from its config, and load its weights.

    Args:
        config: Of :func:`read_config`.
        state: Its weights.
        config_file: Where the config was read, for messages.
        weights_file: Where the weights were read, for messages.
        trust: Names of code that are allowed.
        task_class: Class of a task of the user's own.
        given: Arguments of the user, which replace those of the config.

    Raises:
        ValueError: If the config names other code, describes no network, or one that the weights do not fit.
    """
    if config["kind"] == "task":
        cls = task_class or TASK_CLASSES.get(config["task"])
        if cls is None:
            hint = did_you_mean(config["task"], TASK_CLASSES)
            raise ValueError(
                f"{config_file}: 'task' is {shown(config['task'])}{hint}, expected one of {', '.join(TASK_CLASSES)}; "
                "the class of another one is given as task_class"
            )
        content = {
            "task": config["task"],
            "dyvision_version": config.get("dyvision_version"),
            "hyper_parameters": config["arguments"],
            "state_dict": state,
        }
        return cls.from_content(checked(content, weights_file), str(weights_file.parent), trust=trust, **given)
    where, stored = str(config_file), dict(config["arguments"])
    # the names under which a task has them, which are those that are looked up
    names = {"backbone": stored.pop("name", None), "backbone_kwargs": stored}
    kept = hyperparameters_of(names, where, trust)
    try:
        with LimitedMemory(count(state), where):
            model: nn.Module = CREATE[config["kind"]](**{"name": kept["backbone"], **kept["backbone_kwargs"], **given})
    except (OSError, ImportError):
        raise
    # values of the wrong type fail anywhere on the way to a network
    except Exception as error:
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {one_line(error)[:300]}"
        if where in said:
            raise
        raise ValueError(f"{where}: no network can be built from its 'arguments' ({printable(said)})") from error
    target = model.state_dict()
    if difference := compare_weights(state, target):
        network = f"the network that {CONFIG} describes"
        if given:
            network += f" with {', '.join(given)} as given here; without, they fit (then model.reset_classifier(...))"
        raise ValueError(printable(f"{weights_file} {difference}: not those of {network}"))
    check_kinds(state, target, str(weights_file))
    model.load_state_dict(state)
    return model


def _made_with(model: nn.Module) -> dict[str, Any]:
    """Arguments that make this network again, which is tried.

    Raises:
        ValueError: If there are none.
    """
    made = arguments_of(model)
    if made is None:
        raise ValueError(
            f"save_pretrained: this {type(model).__name__} was not made by dyvision.create_model, create_backbone or a "
            "task, so no config describes it; save its state dict with safetensors"
        )
    if isinstance(made.get("model_kwargs"), dict):
        made["model_kwargs"] = {k: v for k, v in made["model_kwargs"].items() if k not in NESTED_PLACES}
    arguments = {name: _json_value(name, value) for name, value in made.items()}
    create = create_backbone if isinstance(model, Backbone) else create_model
    difference = ""
    for changes in _VARIANTS:
        candidate = {name: value for name, value in {**arguments, **changes}.items() if value is not None}
        with torch.random.fork_rng(devices=[]):
            twin: nn.Module = create(**candidate)
        difference = difference or compare_weights(model.state_dict(), twin.state_dict())
        if not compare_weights(model.state_dict(), twin.state_dict()):
            return candidate
    raise ValueError(
        f"save_pretrained: this {type(model).__name__} was changed after it was made (it {difference}), so no config "
        "describes it; save its state dict with safetensors"
    )


def _json_value(name: str, value: Any) -> Any:
    """An argument as JSON has it: tuples are lists.

    Raises:
        ValueError: If it would not come back as it is.
    """
    try:
        stored = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        stored = error
    if stored != _with_lists(value):
        raise ValueError(f"save_pretrained: {name}={shown(value)} is no plain value (numbers, text, lists, mappings)")
    return stored


def _with_lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_lists(below) for key, below in value.items()}
    return [_with_lists(below) for below in value] if isinstance(value, list | tuple) else value
