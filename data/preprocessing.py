"""What a backbone's pretrained weights expect of images: taken from the task where the user has not said it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

import cv2
import lightning as L

from dyvision.data.errors import did_you_mean
from dyvision.data.pipeline import IMAGENET_MEAN, IMAGENET_STD

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

    def take_preprocessing(self) -> None:
        """Take what is None from the task, tell it, and keep all as numbers."""
        model = getattr(self.trainer, "lightning_module", None)
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

    def _told(self, taken: list[str], offered: Mapping[str, Any]) -> str:
        def shown(name: str) -> str:
            value = getattr(self, name)
            text = " ".join(f"{number:g}" for number in value) if isinstance(value, tuple) else str(value)
            return f"{name} {text}"

        own = [name for name in self.from_backbone if name not in taken and name in offered]
        given = f"; as given: {', '.join(map(shown, own))}" if own else ""
        return f"images as {offered.get('source', 'the weights')} expects them: {', '.join(map(shown, taken))}{given}"


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
