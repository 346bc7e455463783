"""The hyperparameters that every task has: their defaults, what they mean, and their ranges."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import lightning as L

from dyvision.arguments import check_flag, check_number, check_numbers, shown
from dyvision.signatures import SharesArguments, constructor_signature


class TaskArguments(SharesArguments, L.LightningModule):
    """Saves its arguments, and those of the subclass that is being built, as hyperparameters.

    A subclass declares its own arguments, and those of these whose default it changes, and hands all others on.

    Args:
        backbone: Name of a backbone (:func:`dyvision.list_backbones`, or any timm name).
        layer: Its convolutions (:func:`dyvision.list_layers`); ``"static"`` is the ordinary network.
        num_classes: Number of classes (detection: without background); None takes it from the data.
        layer_kwargs: Arguments of the layer.
        policy: Which convolutions are dynamic: a policy's name or glob patterns; by default the method's own.
        pretrained: True for published ImageNet weights, or a file of such weights.
        backbone_weights: Checkpoint of a classifier or another task, whose backbone weights are taken over; by a
            classifier all weights but those of its last layer.
        backbone_kwargs: Further arguments of :func:`dyvision.create_backbone` (classification:
            :func:`dyvision.create_model`), such as ``preserve_outputs`` or ``model_kwargs``.
        in_chans: Channels of the images.
        drop_path_rate: Stochastic depth, in [0, 1).
        freeze_backbone: Train only the head and the backbone's coefficient branches; kernels, norms and their
            statistics stay as they are.
        freeze: Stages of the backbone that are frozen in the same way: names of its modules or wildcard patterns over
            them, separated by commas or in a list (``"stem,layer1"``).
        freeze_norm: Keep the running statistics of the backbone's BatchNorm as they are (usual with pretrained weights
            and few images per process); coefficient branches still update theirs.
        class_names: Names of the classes; from the data if None.
        class_colors: ``[r, g, b]`` of each class; from the data if None.
        class_ids: The data set's own number of each class (COCO's category ids), which saved results have; from the
            data if None.
        optimizer: ``"adamw"``, ``"sgd"``, the name of any class of ``torch.optim``, or a dict with arguments; fused
            where torch has that, unless the dict has ``fused`` or ``foreach``.
        optimizer_in_backward: Apply each gradient as soon as it is there and free it, which saves the memory of all
            gradients; not with gradient clipping or accumulation, 16-mixed, or several processes.
        lr: Learning rate at its highest.
        weight_decay: Of everything but norms, biases and coefficient branches.
        backbone_lr_scale: Factor on ``lr`` for the backbone, of a classifier everything but its last layer.
        head_lr_scale: Factor on ``lr`` for the rest.
        lr_schedule: ``"cosine"``, ``"poly"``, ``"multistep"``, ``"constant"``, or a dict with arguments;
            its ``total_steps`` fixes the length for a run that stops earlier and goes on later.
        warmup_steps: Steps of linear warm-up; a fraction of all steps if a float below 1.
        ema_decay: Evaluate an exponential moving average of the weights, with this decay (0.999 is usual).
        anneal_temperature: Lower the temperature of softmax layers during training (the DyConv paper's schedule); a
            dict has arguments of :class:`dyvision.tasks.callbacks.TemperatureAnnealing`, False leaves it to you.
        channels_last: Keep maps in ``torch.channels_last`` order: the same results, often faster.
    """

    def __init__(
        self,
        backbone: str = "mobilenetv2_100",
        layer: str = "static",
        *,
        num_classes: int | None = None,
        layer_kwargs: dict[str, Any] | None = None,
        policy: str | list[str] | None = None,
        pretrained: bool | str = False,
        backbone_weights: str | None = None,
        backbone_kwargs: dict[str, Any] | None = None,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        freeze_backbone: bool = False,
        freeze: str | list[str] | None = None,
        freeze_norm: bool = False,
        class_names: list[str] | None = None,
        class_colors: list[list[int]] | None = None,
        class_ids: list[int] | None = None,
        optimizer: str | dict[str, Any] = "adamw",
        optimizer_in_backward: bool = False,
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        backbone_lr_scale: float = 1.0,
        head_lr_scale: float = 1.0,
        lr_schedule: str | dict[str, Any] = "cosine",
        warmup_steps: int | float = 0.05,
        ema_decay: float | None = None,
        anneal_temperature: bool | dict[str, Any] = True,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        taken = constructor_signature(type(self)).parameters
        # Lightning looks through the constructors that are running: this one's arguments, then the subclass', which win
        self.save_hyperparameters(ignore=[name for name in signature(TaskArguments).parameters if name not in taken])


def check_shared_arguments(hparams: Mapping[str, Any]) -> None:
    """Check what does not depend on the task, before anything is built.

    Learning rate, optimiser and schedule are checked where they are built (``dyvision.tasks.optim``), names where they
    are looked up.

    Args:
        hparams: Hyperparameters of a task.

    Raises:
        ValueError: If a value is of the wrong type or out of range.
    """
    check_number("in_chans", hparams["in_chans"], minimum=1, maximum=4096, integer=True)
    check_number("drop_path_rate", hparams["drop_path_rate"], minimum=0, below=1)
    check_number("num_classes", hparams["num_classes"], minimum=1, maximum=1_000_000, integer=True, allow_none=True)
    for name in ("backbone", "layer"):
        if not isinstance(hparams[name], str) or not hparams[name]:
            raise ValueError(f"{name}={shown(hparams[name])}: expected a name; see 'dyvision list {name}s'")
    for name in ("layer_kwargs", "backbone_kwargs"):
        value = hparams.get(name)
        if value is not None and (not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value)):
            raise ValueError(f"{name}={shown(value)}: expected a mapping from argument names to values")
    for name in ("channels_last", "freeze_norm", "optimizer_in_backward"):
        if name in hparams:
            check_flag(name, hparams[name])
    frozen = hparams.get("freeze")
    names = [frozen] if isinstance(frozen, str) else frozen
    if frozen is not None and not (isinstance(names, list) and names and all(isinstance(one, str) for one in names)):
        raise ValueError(f"freeze={shown(frozen)}: expected names of stages, such as 'stem,layer1', or a list of them")
    annealing = hparams["anneal_temperature"]
    if not isinstance(annealing, (bool, Mapping)):
        raise ValueError(f"anneal_temperature={shown(annealing)}: expected true, false, or a mapping of arguments")
    _check_classes(hparams)


def plain_value(value: Any, name: str) -> Any:
    """A hyperparameter as plain types, which a checkpoint loads without running code.

    Raises:
        ValueError: If it is something else; the message begins with its name.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: plain_value(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_value(item, name) for item in value]
    raise ValueError(
        f"{name}={value!r}: expected numbers, strings, lists or dictionaries (a checkpoint keeps them); anything else "
        "can be given as {'class_path': ..., 'init_args': {...}} or in a subclass"
    )


def _check_classes(hparams: Mapping[str, Any]) -> None:
    names, colors, ids = (hparams[name] for name in ("class_names", "class_colors", "class_ids"))
    if names is not None and (not isinstance(names, list) or not all(isinstance(name, str) for name in names)):
        raise ValueError(f"class_names={shown(names)}: expected a list of names")
    if ids is not None and ids != []:
        check_numbers("class_ids", ids, integer=True)
        if len(set(ids)) < len(ids):
            raise ValueError(f"class_ids={shown(ids)}: expected each number once")
    if colors is not None and not isinstance(colors, list):
        raise ValueError(f"class_colors={shown(colors)}: expected a list of [red, green, blue]")
    for position, color in enumerate(colors or ()):
        check_numbers(f"class_colors[{position}]", color, length=3, minimum=0, maximum=255, integer=True)
    count = hparams["num_classes"]
    for name, values in (("class_names", names), ("class_colors", colors), ("class_ids", ids)):
        if count is not None and values and len(values) != count:
            raise ValueError(f"{name} has {len(values)} entries for num_classes={count}")
