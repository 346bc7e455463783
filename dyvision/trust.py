"""What a checkpoint's hyperparameters may name: dyvision's registries, and classes that the user names again.

Hyperparameters are plain values, but ``{"class_path": "subprocess.Popen", "init_args": ...}`` is plain, too. So what
names code, or a place that weights are fetched from, is looked up here before anything is imported.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from dyvision.moved import current_path
from dyvision.reading import check_plain, texts_in
from dyvision.text import printable, some

#: hyperparameter -> the package whose classes need no trust: the one that its names are looked up in, too
_PACKAGES = {
    "loss": "torch.nn.modules.loss",
    "lr_schedule": "torch.optim.lr_scheduler",
    "optimizer": "torch.optim",
    "train_transform": "albumentations",
    "eval_transform": "albumentations",
}
#: the package of dyvision whose classes and functions are heads and losses
_OWN = "dyvision.tasks.heads."
#: networks that timm reads from a folder or from the network
_REMOTE = ("hf-hub:", "hf_hub:", "local-dir:")
#: written by Lightning's command line; a checkpoint's class is chosen by who loads it
_LIGHTNINGS = ("_instantiator", "_class_path")
#: where weights come from or results go to: a checkpoint has its own weights, and does not choose where to write
_PLACES = {"pretrained": False, "backbone_weights": None, "teacher": None, "results_dir": None}
#: the same among the arguments of ``create_backbone`` and of timm
NESTED_PLACES = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")
#: where a data set and other images lie
_DATA_PLACES = ("root", "predict_root")


def hyperparameters_of(
    stored: Mapping[str, Any],
    where: str,
    trusted: Collection[str] = (),
    given: Collection[str] = (),
    option: str = "trust=[{quoted}]",
    prefix: str = "",
) -> dict[str, Any]:
    """The hyperparameters of a checkpoint that are used: those that the caller does not give, and none that name code.

    Args:
        stored: Hyperparameters as the checkpoint has them, plain values.
        where: The checkpoint, for messages.
        trusted: Dotted names (or names of networks such as ``hf-hub:...``) that the user allows.
        given: Names of the hyperparameters that the caller gives himself.
        option: How to allow a name, for the message, with ``{quoted}`` or ``{names}`` in place of the names.
        prefix: What stands before a hyperparameter in messages, such as ``"model."``.

    Returns:
        A copy without Lightning's own entries, and without places that weights are read from or results go to.

    Raises:
        ValueError: If it names code that is neither dyvision's nor trusted, or holds other than plain values.
    """
    kept = {name: value for name, value in stored.items() if name not in given and name not in _LIGHTNINGS}
    check_plain(kept, f"{where}: {prefix.rstrip('.') or 'hyper_parameters'}")
    ignored = [name for name, unset in _PLACES.items() if kept.get(name, unset) not in (unset, None)]
    kept = without_places(kept)
    arguments = kept.get("backbone_kwargs")
    if isinstance(arguments, Mapping):
        kept["backbone_kwargs"] = _without_places(arguments, "backbone_kwargs", ignored)
    if ignored:
        listed = ", ".join(f"{prefix}{name}" for name in ignored)
        said = f"{where}: {listed} of the checkpoint not used; give it yourself if you want it"
        warnings.warn(printable(said), stacklevel=3)
    unknown = [(name, code) for name, value in kept.items() for code in code_in(name, value) if code not in trusted]
    unknown = [(name, code) for name, code in unknown if not is_known(name, code)]
    if unknown:
        codes = list(dict.fromkeys(code for _, code in unknown))
        listed = ", ".join(dict.fromkeys(f"{prefix}{name} names {code!r}" for name, code in unknown))
        allow = option.format(names=",".join(codes), quoted=", ".join(map(repr, codes)))
        said = (
            f"{where}: {listed}, which is not part of dyvision and could be any program. If you know it and where this "
            f"checkpoint comes from, allow it by {allow}"
        )
        raise ValueError(printable(said))
    return kept


def code_in(name: str, value: Any) -> list[str]:
    """Dotted names of classes, and networks of elsewhere, in one hyperparameter.

    Args:
        name: Its name; pipelines (``*_transform``) have a grammar of their own.
        value: Plain values.
    """
    if name.endswith("_transform"):
        return list(_transforms(value))
    found = list(_class_paths(value))
    network = value.get("name") if name == "backbone_kwargs" and isinstance(value, Mapping) else value
    if name in ("backbone", "backbone_kwargs") and isinstance(network, str) and network.lower().startswith(_REMOTE):
        found.append(network)
    return found


def is_known(name: str, code: str) -> bool:
    """Whether a dotted name is one that needs no trust as this hyperparameter; imports nothing that it names."""
    package, last = _PACKAGES.get(name, ""), code.rpartition(".")[2]
    if package == "albumentations" and code == f"A.{last}":
        code = f"{package}.{last}"
    found = getattr(sys.modules.get(package), last, None)
    if isinstance(found, type) and last[:1] != "_":
        names = {f"{package}.{last}", f"{found.__module__}.{found.__qualname__}"}
        if getattr(sys.modules.get("torch.nn"), last, None) is found:
            names.add(f"torch.nn.{last}")
        if code in names:
            return True
    module = current_path(code).rpartition(".")[0]
    if not f"{module}.".startswith(_OWN):
        return False
    # defined there, and not imported there from elsewhere
    return str(getattr(getattr(sys.modules.get(module), last, None), "__module__", "")).startswith(_OWN)


def without_places(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters of a task for a file: without where its weights came from, and where its results go."""
    return {**hyperparameters, **{name: unset for name, unset in _PLACES.items() if name in hyperparameters}}


def without_folders(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters of a data module for a file that goes elsewhere: without where the data set lay.

    What was given as an absolute path (a list of samples, a file of annotations) keeps the part below the data set, or
    its name: so it is missed where it is not, instead of other samples being read.

    Example:
        >>> without_folders({"root": "/data/pets", "split_file": "/data/pets/lists/val.txt", "image_size": 64})
        {'split_file': 'lists/val.txt', 'image_size': 64}
    """
    root = str(hyperparameters.get("root"))
    kept = {name: value for name, value in hyperparameters.items() if name not in _DATA_PLACES}
    return {name: _below(value, root) if isinstance(value, str) else value for name, value in kept.items()}


def _below(text: str, root: str) -> str:
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind(text)
        if path.is_absolute():
            return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    return text


def name_unknown(stored: Mapping[str, Any], known: Collection[str], where: str, prefix: str = "") -> dict[str, Any]:
    """Leave out hyperparameters that do not exist (any more, or yet), and name them in a warning."""
    unknown = [name for name in stored if name not in known and name not in _LIGHTNINGS]
    if unknown:
        listed = some((f"{prefix}{name}" for name in unknown), 8)
        said = f"{where}: hyperparameters that this version does not have are ignored: {listed}"
        warnings.warn(printable(said), stacklevel=3)
    return {name: value for name, value in stored.items() if name not in unknown}


def _class_paths(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if "class_path" in value:
            yield str(value["class_path"])
        for below in value.values():
            yield from _class_paths(below)
    elif isinstance(value, list | tuple):
        for below in value:
            yield from _class_paths(below)


def _transforms(value: Any) -> Iterator[str]:
    """In a pipeline any string may be a class, as an item, as a key or as a value."""
    return (text for text in texts_in(value) if "." in text)


def _without_places(arguments: Mapping[str, Any], name: str, ignored: list[str]) -> dict[str, Any]:
    kept = {}
    for key, value in arguments.items():
        if key in NESTED_PLACES:
            if value not in (None, False):
                ignored.append(f"{name}.{key}")
        elif key == "model_kwargs" and isinstance(value, Mapping):
            kept[key] = _without_places(value, f"{name}.{key}", ignored)
        else:
            kept[key] = value
    return kept
