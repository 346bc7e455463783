"""Class names, colours and ids: they come with the data and stay with the checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from dyvision.arguments import check_numbers, shown


def merge_classes(hparams: Mapping[str, Any], datamodule: object | None, compare: bool = True) -> dict[str, Any]:
    """Compare a task's classes with those of its data.

    What the task already knows (from its arguments or its checkpoint) is kept; the rest is taken from the data.

    Args:
        hparams: Hyperparameters with ``num_classes``, ``class_names``, ``class_colors`` and ``class_ids``.
        datamodule: Anything with attributes of these names, None or empty where unknown; or None.
        compare: Warn of other names than the data's. Names of a checkpoint are :func:`check_names`'s.

    Returns:
        The four values; ``num_classes`` is an int.

    Raises:
        ValueError: If the numbers of classes differ, the classes are the same ones in another order, a list has the
            wrong length, or nobody knows the number.
    """
    own = {name: hparams.get(name) for name in ("num_classes", "class_names", "class_colors", "class_ids")}
    data = {name: getattr(datamodule, name, None) for name in own}
    source = type(datamodule).__name__
    if data["num_classes"] is None and data["class_names"]:
        data["num_classes"] = len(data["class_names"])
    if own["num_classes"] is None and data["num_classes"] is None:
        raise ValueError(
            "num_classes is not known: give num_classes=N, or train with a data module that has num_classes "
            f"({'there is none' if datamodule is None else f'{source} has none'})"
        )
    if own["num_classes"] is not None and data["num_classes"] not in (None, own["num_classes"]):
        raise ValueError(
            f"num_classes={own['num_classes']} of the task disagrees with the data: {source} has "
            f"{data['num_classes']} classes. Leave num_classes out (it is taken from the data), or give the data the "
            "classes that the checkpoint was trained on"
        )
    count = int(own["num_classes"] or data["num_classes"] or 0)
    names, from_data = own["class_names"], data["class_names"]
    if names and from_data and list(names) != list(from_data):
        where = _difference(list(names), list(from_data))
        if sorted(names) == sorted(from_data):
            raise ValueError(
                f"class_names has the classes of {source} in another order ({where}); results would be wrong"
            )
        if compare:
            warnings.warn(
                f"class_names differs from the names in {source} ({where}); the task's names are kept", stacklevel=3
            )
    merged: dict[str, Any] = {"num_classes": count}
    for name in ("class_names", "class_colors", "class_ids"):
        values = own[name] or data[name] or None
        if values is not None and len(values) != count:
            raise ValueError(f"{name} has {len(values)} entries for num_classes={count}")
        merged[name] = None if values is None else [_of_python(value) for value in values]
    return merged


def check_names(trained: Sequence[str], datamodule: object | None, where: str, renamed: bool = False) -> None:
    """Check that a trained network meets the classes it was trained on.

    Args:
        trained: What its data called them.
        datamodule: The data that it is evaluated on, or goes on with.
        where: The checkpoint, for messages.
        renamed: Whether the user gave other names than the checkpoint's.

    Raises:
        ValueError: If the data has others, or the same in another order.
    """
    found = list(getattr(datamodule, "class_names", None) or [])
    if sorted(found) == sorted(trained) and list(trained) != found:
        raise ValueError(
            f"{where}: the classes of {type(datamodule).__name__} are in another order than in training "
            f"({_difference(list(trained), found)}); results would be wrong"
        )
    if found and list(trained) != found and not renamed:
        raise ValueError(
            f"{where}: it was trained on other classes than those of {type(datamodule).__name__} "
            f"({_difference(list(trained), found)}), so its results would mean nothing. Give it the data it was made "
            "for; if only the names are others, --model.class_names null takes the data's; to train on new classes, "
            "start a run with --model.backbone_weights"
        )


def _difference(names: list[str], from_data: list[str]) -> str:
    position = next((i for i, pair in enumerate(zip(names, from_data, strict=False)) if pair[0] != pair[1]), len(names))
    ours, theirs = names[position : position + 1], from_data[position : position + 1]
    return f"class {position} is {ours} in the task, {theirs} in the data"


def _of_python(value: Any) -> Any:
    if isinstance(value, str):
        return str(value)
    return [int(item) for item in value] if isinstance(value, (list, tuple)) else int(value)


def check_class_weights(weights: Any, num_classes: int | None = None) -> None:
    """Check the weights of classes in a loss.

    Args:
        weights: What was given; None for none.
        num_classes: How many there have to be, if known.

    Raises:
        ValueError: If one is negative or not finite, all are 0, or the number is wrong.
    """
    if weights is None:
        return
    check_numbers("class_weights", weights, minimum=0, maximum=1e6)
    if not any(weights):
        raise ValueError(f"class_weights={shown(weights)}: expected at least one above 0")
    if num_classes is not None and len(weights) != num_classes:
        raise ValueError(f"class_weights has {len(weights)} entries for num_classes={num_classes}")
