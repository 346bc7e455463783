"""What a checkpoint is evaluated on: data that is there, and images that it was not trained on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dyvision.cli.request import Request
from dyvision.data.errors import looked_up
from dyvision.tasks.preprocessing import undescribed

#: the commands that compare predictions with labels
_SCORING = ("fit", "validate", "test")


def check_evaluated(command: str, request: Request, data: Mapping[str, Any]) -> None:
    """Compare the data of a command with what its checkpoint says about its own.

    Args:
        command: The command.
        request: The command line, with the checkpoint.
        data: The parsed options of the data module.

    Raises:
        ValueError: If images of the training would be evaluated as new ones, the folder that the checkpoint names is
            not there, or an exported file does not say what its images went through.
    """
    made = request.checkpoint.get("data") or {}
    if request.checkpoint and command != "fit":
        _check_images(request, made, data)
    if "root" in made:
        _check_root(command, request, data)
    if made and command in _SCORING and (command != "test" or data.get("test_split") is None):
        _check_choice(command, request, made, data)


def _check_images(request: Request, made: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """What images go through has to be known: a network that sees others is wrong without an error."""
    typed = {name: request.value("data", name) for name in data}
    given = {name: value for name, value in typed.items() if value not in (None, "null")}
    if request.exported is not None:
        request.exported.check_described(data, given)
    elif not made:
        names = [name for name in undescribed(request.task, given) if name in data]
        if names:
            warnings.warn(
                f"{request.origin}: was trained without a data module of dyvision, so nothing says {', '.join(names)} "
                f"of its images and the defaults are taken; give {' '.join(f'--data.{name}' for name in names)}",
                stacklevel=3,
            )


def _check_root(command: str, request: Request, data: Mapping[str, Any]) -> None:
    given = "data.root" in request.typed
    given = given or any("root" in (content.get("data") or {}) for _, content in request.layers)
    needed = command != "predict" or data.get("predict_root") is None
    root = Path(str(data.get("root"))).expanduser()
    if given or not needed or root.is_dir():
        return
    raise ValueError(
        f"{request.origin}: there is no folder {root}{looked_up(root)} here; it is the data.root "
        "of the checkpoint: give --data.root=FOLDER, where the data is now"
    )


def _check_choice(command: str, request: Request, made: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """``val_fraction`` takes images out of training, which a checkpoint can only have left out if it knew of that."""
    names = ("val_fraction", "val_seed")
    if data.get("val_fraction") is None or data.get("train_split") != made.get("train_split", data.get("train_split")):
        return
    if all(data.get(name) == made.get(name, 0 if name == "val_seed" else None) for name in names):
        return
    where = made.get("root")  # unknown of an exported file
    split = f"the split {data.get('train_split')!r}{'' if where is None else f' of {where}'}"
    if made.get("val_fraction") is None:
        trained = f"was trained on all of {split} (without val_fraction)"
        hint = f"leave val_fraction out (--data.val_fraction null) to evaluate the split {data.get('val_split')!r}"
    else:
        own = ", ".join(f"{name}={made.get(name)}" for name in names)
        trained, hint = f"was trained on the rest of {split} by {own}", "leave both out: the checkpoint has its own"
    given = ", ".join(f"data.{name}={data.get(name)}" for name in names)
    message = (
        f"{given}: {request.origin} {trained}, so images that it was trained on would be evaluated as new ones; {hint}"
    )
    if command != "fit" and where is not None and _same(data.get("root"), where):
        raise ValueError(message)
    if command == "fit" or where is None or not Path(str(where)).expanduser().is_dir():  # moved, perhaps
        warnings.warn(message, stacklevel=2)


def _same(one: Any, other: Any) -> bool:
    return Path(str(one)).expanduser().resolve() == Path(str(other)).expanduser().resolve()
