"""A trained network as a student sees it: its logits of the student's classes, for images as the student has them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dyvision.arguments import check_numbers, shown
from dyvision.channels import of_channels
from dyvision.checkpoint_file import read_checkpoint
from dyvision.tasks.base import BaseTask
from dyvision.text import printable, some

_LOGGER = logging.getLogger(__name__)

#: what a teacher was trained with is of no use here, and may be code that nobody needs to trust
_TRAINING = {"optimizer": "adamw", "lr_schedule": "constant", "loss": "cross_entropy", "class_weights": None}


class Statistics(NamedTuple):
    """What images are normalised with.

    Attributes:
        mean: Per channel, of images in 0..1.
        std: Per channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __str__(self) -> str:
        return ", ".join(f"{name} {' '.join(f'{one:g}' for one in getattr(self, name))}" for name in self._fields)


class Teacher(nn.Module):
    """A task whose images are normalised as in its own training, and whose classes are in the student's order.

    Args:
        task: Trained; becomes one for evaluation, without gradients.
        classes: For each class of the student its number in the teacher's logits; None if these are the same.
        given: What the student's images are normalised with.
        expected: What the teacher's were; the images stay as they are if one of the two is None.
    """

    scale: Tensor
    shift: Tensor
    order: Tensor

    def __init__(
        self,
        task: nn.Module,
        classes: Sequence[int] | None = None,
        given: Statistics | None = None,
        expected: Statistics | None = None,
    ) -> None:
        super().__init__()
        self.task = task
        self.converts = given is not None and expected is not None and given != expected
        self.reorders = classes is not None
        of_images, of_teacher = given or Statistics((0.0,), (1.0,)), expected or Statistics((0.0,), (1.0,))
        columns = [torch.tensor(one, dtype=torch.float64)[:, None, None] for one in (*of_images, *of_teacher)]
        mean, std, own_mean, own_std = columns
        self.register_buffer("scale", (std / own_std).float())
        self.register_buffer("shift", ((mean - own_mean) / own_std).float())
        self.register_buffer("order", torch.tensor(classes if classes is not None else [], dtype=torch.long))
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes, ...]`` of the student's classes, float32, for the student's images."""
        reference = next(self.task.parameters())
        if (reference.device, reference.dtype) != (images.device, images.dtype):
            self.to(images.device)
            self.task.to(images.dtype)  # the two factors stay float32
        if self.converts:
            images = (images * self.scale + self.shift).to(images.dtype)
        logits: Tensor = self.task(images).float()
        return logits.index_select(1, self.order) if self.reorders else logits


def load_teacher(path: str, student: BaseTask, data: object | None) -> Teacher:
    """Open a teacher's checkpoint, and say what has to be converted.

    Args:
        path: The file.
        student: Whose hyperparameters have its classes already.
        data: The student's data module, or None.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint of the student's task, or does not know its classes or channels.
    """
    replaced: dict[str, Any] = {name: value for name, value in _TRAINING.items() if name in student.hparams}
    try:
        made = read_checkpoint(Path(path), mmap=True).get("task")
        if made is not None and made != student.task:
            raise ValueError(
                f"{path}: of task {shown(made)}, and the student is for {student.task!r}; give a teacher of that task"
            )
        task = type(student).load_from_checkpoint(path, map_location="cpu", **replaced)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"model.teacher {error}") from error
    except ValueError as error:
        raise ValueError(f"model.teacher {error}") from error
    channels, wanted = task.hparams.in_chans, student.hparams.in_chans
    if channels != wanted:
        raise ValueError(
            f"model.teacher {path}: its in_chans is {channels}, that of the student {wanted}; give a teacher that was "
            "trained on the same kind of images"
        )
    classes = _classes(path, task, student, data)
    given, expected = _of_data(data), _of_teacher(path, task)
    _LOGGER.info("teacher: %s (%s, %s)", printable(path), task.hparams["backbone"], task.hparams["layer"])
    if classes is not None:
        _LOGGER.info(
            "teacher: of its %d classes those of the student, by their names, in its order", task.hparams["num_classes"]
        )
    if given is None and expected is not None:
        warnings.warn(
            f"model.teacher {path}: trained on images normalised with {expected}; what the student's are normalised "
            "with is not known (its data module has no statistics()), so they are taken to be the same",
            stacklevel=2,
        )
    elif expected is None and given is not None:
        warnings.warn(
            f"model.teacher {path}: does not say what its images were normalised with; taken to be as the student's, "
            f"{given}",
            stacklevel=2,
        )
    elif given != expected:
        _LOGGER.info("teacher: sees images normalised with %s, as in its training; the student %s", expected, given)
    return Teacher(task, classes, given, expected)


def _of_data(data: object | None) -> Statistics | None:
    asked = getattr(data, "statistics", None)
    found = asked() if callable(asked) else None
    return None if found is None else Statistics(*(tuple(map(float, values)) for values in found))


def _of_teacher(path: str, task: BaseTask) -> Statistics | None:
    found = task.preprocessing
    if not all(name in found for name in Statistics._fields):
        return None
    values = [of_channels(found[name], task.hparams.in_chans) for name in Statistics._fields]
    for name, numbers in zip(Statistics._fields, values, strict=True):
        above = 0 if name == "std" else None
        check_numbers(f"model.teacher {path}: {name}", numbers, length=task.hparams.in_chans, above=above)
    return Statistics(*values)


def _classes(path: str, task: BaseTask, student: BaseTask, data: object | None) -> list[int] | None:
    """For each class of the student its number among the teacher's; None if they are the same ones."""
    wanted, count = student.hparams["num_classes"], task.hparams["num_classes"]
    # what the data calls the classes comes first: the user may have named those of one of the two in another way
    own = [list(one) for one in (getattr(data, "class_names", None), student.hparams.get("class_names")) if one]
    known = [list(one) for one in (task.data_names, task.hparams.get("class_names")) if one]
    for names in own:
        for others in known:
            places = _places(names, others)
            if places is not None:
                return None if places == list(range(count)) else places
    same = "give a teacher that was trained on the same classes"
    if own and known:
        missing = [name for name in own[0] if name not in known[0]] or own[0]
        raise ValueError(
            f"model.teacher {path}: its class_names are {_shown(known[0])}, those of the student {_shown(own[0])}; it "
            f"does not know {_shown(missing)}: {same}, or more; if only the names are others, give the student the "
            "teacher's by --model.class_names"
        )
    if wanted != count:
        raise ValueError(
            f"model.teacher {path}: its num_classes is {count}, that of the student {wanted}, and their names are not "
            f"known of both; {same}"
        )
    return None


def _places(names: Sequence[str], others: Sequence[str]) -> list[int] | None:
    """Where each name is among others; None if one is not there, or is not the name of one class only."""
    if list(names) == list(others):
        return list(range(len(others)))
    where: Mapping[str, int] = {name: number for number, name in enumerate(others)}
    if len(where) < len(others) or len(set(names)) < len(names) or not where.keys() >= set(names):
        return None
    return [where[name] for name in names]


def _shown(names: Sequence[str]) -> str:
    return some(map(printable, names), 8)
