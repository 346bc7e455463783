"""What a backbone's pretrained weights expect of images: taken from the task where the user has not said it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import cv2
import lightning as L
import numpy as np

from dyvision.data.errors import did_you_mean
from dyvision.data.pipeline import IMAGENET_MEAN, IMAGENET_STD, Normalize

_LOGGER = logging.getLogger("dyvision.data")

#: what images go through where neither the user nor the weights say anything
_DEFAULTS: dict[str, Any] = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "crop_ratio": 0.875, "interpolation": None}

#: names as timm and Pillow have them
_INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}


class PreprocessingMixin(L.LightningDataModule):
    """Arguments that are taken from the task if they are None, when data module and task meet in ``setup``.

    What was taken stands in the hyperparameters, as numbers: a checkpoint predicts with what it was trained with.
    """

    #: the arguments of a data module that a task may decide
    from_backbone: ClassVar[tuple[str, ...]] = ()

    def build_pipelines(self) -> None:
        """Build the transforms from the attributes of the names in ``from_backbone``."""

    def set_preprocessing(self, given: Mapping[str, Any], offered: Mapping[str, Any] | None = None) -> None:
        """Set the attributes: what was given, else what is offered, else ImageNet's.

        Args:
            given: The constructor's arguments.
            offered: What the task's weights expect.

        Raises:
            ValueError: If there is no interpolation of that name.
        """
        for name in self.from_backbone:
            value = given.get(name)
            value = {**_DEFAULTS, **(offered or {})}[name] if value is None else value
            setattr(self, name, tuple(value) if isinstance(value, (list, tuple)) else value)
        interpolation_options(getattr(self, "interpolation", None))
        self.build_pipelines()

    def statistics(self) -> tuple[list[float], list[float]] | None:
        """Mean and standard deviation of each channel that images are normalised with; None if they are not."""
        made = getattr(self, "_to_tensor", lambda: None)()
        return (list(made.mean), list(made.std)) if isinstance(made, Normalize) else None

    def take_preprocessing(self, model: Any = None) -> None:
        """Take what is None from the task, tell it, and keep all as numbers.

        Args:
            model: The task; that of the trainer by default.

        Raises:
            ValueError: If the task's network takes images that are normalised otherwise.
        """
        model = getattr(self.trainer, "lightning_module", None) if model is None else model
        offered: Mapping[str, Any] = getattr(model, "preprocessing", None) or {}
        open_names = [name for name in self.from_backbone if self.hparams.get(name, "") is None]
        taken = [name for name in open_names if name in offered]
        if taken:
            self.set_preprocessing(self.hparams, offered)
        for name in open_names:
            value = getattr(self, name)
            self.hparams[name] = list(value) if isinstance(value, tuple) else value
        if taken:
            _LOGGER.info("%s", self._told(taken, offered))
        required: Mapping[str, Any] | None = getattr(model, "required_statistics", None)
        if required is not None:
            self._compare(required)

    def _compare(self, required: Mapping[str, Any]) -> None:
        own = self.statistics()
        wanted = [required["mean"], required["std"]]
        if own is None or np.allclose(own, wanted, atol=1e-4):
            return
        given, others = (f"mean {_numbers(mean)} and std {_numbers(std)}" for mean, std in (own, wanted))
        raise ValueError(
            f"data.mean, data.std: {required['source']} takes images normalised with {others}, and those of the data "
            f"are normalised with {given}; leave both out"
        )

    def _told(self, taken: list[str], offered: Mapping[str, Any]) -> str:
        def shown(name: str) -> str:
            value = getattr(self, name)
            text = _numbers(value) if isinstance(value, tuple) else str(value)
            return f"{name} {text}"

        own = [name for name in self.from_backbone if name not in taken and name in offered]
        given = f"; as given: {', '.join(map(shown, own))}" if own else ""
        return f"images as {offered.get('source', 'the weights')} expects them: {', '.join(map(shown, taken))}{given}"


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{number:g}" for number in values)


def interpolation_options(name: str | None) -> dict[str, Any]:
    """Arguments of albumentations' resizing transforms.

    Pillow's filters, which these names mean, average where they shrink an image; OpenCV's do not, so its ``INTER_AREA``
    takes their place there. Without a name it is OpenCV's linear one in both directions.

    Raises:
        ValueError: If there is none of that name.
    """
    if name is None:
        return {}
    if name not in _INTERPOLATIONS:
        close = did_you_mean(str(name), _INTERPOLATIONS)
        raise ValueError(f"interpolation={name!r}: expected one of {', '.join(_INTERPOLATIONS)}.{close}")
    averages = {} if name == "nearest" else {"area_for_downscale": "image"}
    return {"interpolation": _INTERPOLATIONS[name], **averages}
