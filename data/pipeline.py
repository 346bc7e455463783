"""A seeded pipeline: image, mask, boxes and instance masks through the same random transforms, then to tensors."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dyvision.arguments import check_numbers
from dyvision.channels import of_channels
from dyvision.data.errors import DataError
from dyvision.data.loaders import IGNORE_INDEX
from dyvision.data.transforms import A, TransformSpec, build_transforms
from dyvision.text import one_line

#: Statistics of ImageNet's training set in 0..1, which most pretrained weights expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

TaskName = Literal["classification", "segmentation", "detection"]

# A box that lost nine tenths of its area to a crop no longer shows its object
_MIN_VISIBILITY = 0.1
_MIN_SIDE = 0.5
# pixels are in 0..1 when they are normalised; statistics of 0..255 would leave nothing of an image
_LARGEST_STATISTIC = 10
#: largest side of an image that an argument may ask for
LARGEST_SIDE = 32_768


class Transformed(NamedTuple):
    """What a pipeline returns.

    Attributes:
        image: uint8 ``[H, W, 3]``.
        mask: integers ``[H, W]``, if a mask was given.
        boxes: float32 ``[M, 4]`` xyxy in pixels of ``image``, clipped to it, if boxes were given.
        kept: int64 ``[M]``, which of the given boxes these are.
        masks: uint8 ``[M, H, W]``, in step with ``boxes``, if masks were given.
    """

    image: NDArray[np.uint8]
    mask: NDArray[Any] | None
    boxes: NDArray[np.float32] | None
    kept: NDArray[np.int64] | None
    masks: NDArray[np.uint8] | None


class Pipeline:
    """Transforms of one split.

    Args:
        spec: The list from YAML; see ``dyvision.data.transforms``.
        task: Which labels have to come along. For segmentation, areas outside the image get label 255.
        where: Name of the argument, for messages.

    Attributes:
        only_resizes: Whether the image always stays whole and in place: what is seen in the result can be brought back
            to the stored image by resizing.

    Raises:
        ValueError: If the list is wrong, or a transform moves pixels but cannot move this task's labels.
    """

    def __init__(self, spec: Sequence[TransformSpec], task: TaskName, where: str = "transforms") -> None:
        transforms = build_transforms(spec, where, IGNORE_INDEX if task == "segmentation" else None)
        if task != "classification":
            _check_targets(transforms, where, "BBOXES" if task == "detection" else "MASK")
        boxes = None
        if task == "detection":
            boxes = A.BboxParams(
                format="pascal_voc",
                label_fields=["instance"],
                clip=True,
                filter_invalid_bboxes=True,
                min_visibility=_MIN_VISIBILITY,
                min_width=_MIN_SIDE,
                min_height=_MIN_SIDE,
            )
        with warnings.catch_warnings():
            # a pipeline that only changes colours has nothing to do to boxes, and that is fine
            warnings.filterwarnings("ignore", message="Got processor for bboxes")
            self._compose = A.Compose(transforms, bbox_params=boxes) if transforms else None
        self._has_boxes = boxes is not None
        self.where = where
        self._moving = list(_moving(transforms))
        self.only_resizes = not self._moving

    def require_only_resizes(self, why: str) -> None:
        """Checks that what is found in a transformed image can be brought back to the stored one.

        Args:
            why: What needs that.

        Raises:
            ValueError: If a transform crops, pads, flips or moves pixels in another way, naming it.
        """
        if not self.only_resizes:
            raise ValueError(
                f"{self.where}: {why}, and {', '.join(self._moving)} cannot be undone; give transforms that only "
                "resize (Resize, LongestMaxSize, SmallestMaxSize) or change colours."
            )

    def __call__(
        self,
        image: NDArray[np.uint8],
        seed: int,
        mask: NDArray[Any] | None = None,
        boxes: NDArray[np.float32] | None = None,
        masks: NDArray[np.uint8] | None = None,
        path: str = "",
    ) -> Transformed:
        """Transforms one sample.

        Args:
            image: uint8 ``[H, W, 3]``.
            seed: Seed of everything random in this call.
            mask: Integers ``[H, W]``.
            boxes: ``[N, 4]`` xyxy in pixels, inside the image, of positive size.
            masks: uint8 ``[N, H, W]``, one per box. An instance whose mask becomes empty goes with its box.
            path: Name of the file, for messages.

        Raises:
            DataError: If a transform fails on this image, naming both.
        """
        if self._compose is None:
            kept = None if boxes is None else np.arange(len(boxes))
            return Transformed(image, mask, boxes, kept, masks)
        # One stream for the whole pipeline. Compose.set_random_seed would give every transform the same seed, hence the
        # same first number: a flip and a colour change of equal probability would always come together.
        self._compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        data: dict[str, Any] = {"image": image}
        if mask is not None:
            data["mask"] = mask
        if self._has_boxes:
            # albumentations wants boxes from everybody once it is told about them; images to predict on have none
            given = np.zeros((0, 4), dtype=np.float32) if boxes is None else boxes
            data["bboxes"], data["instance"] = given, np.arange(len(given))
        if masks is not None and len(masks):
            data["masks"] = masks
        try:
            result = self._compose(**data)
        except Exception as error:  # whatever a transform raises, the file's name has to be told
            reason = one_line(error)
            raise DataError(
                f"{self.where} failed on {path or 'an image'} of height {image.shape[0]} and width {image.shape[1]}: "
                f"{reason}"
            ) from error
        return self._collect(result, boxes, masks, path)

    def _collect(self, result: dict[str, Any], boxes: Any, masks: Any, path: str) -> Transformed:
        image = result["image"]
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise DataError(
                f"{self.where}: the pipeline turned {path or 'an image'} into {image.dtype} {list(image.shape)}; it "
                "has to stay uint8 with three channels (normalisation follows by itself)."
            )
        if boxes is None:
            return Transformed(image, result.get("mask"), None, None, None)
        kept = np.asarray(result["instance"], dtype=np.int64).reshape(-1)
        new_boxes = np.asarray(result["bboxes"], dtype=np.float32).reshape(-1, 4)
        if masks is None:
            return Transformed(image, None, new_boxes, kept, None)
        new_masks = np.asarray(result["masks"])[kept] if len(masks) else np.zeros((0, *image.shape[:2]), np.uint8)
        visible = new_masks.any(axis=(1, 2))
        return Transformed(image, None, new_boxes[visible], kept[visible], new_masks[visible])


def _moving(transforms: Sequence[Any]) -> Iterator[str]:
    """Names of the transforms that do not leave an image whole and in place."""
    for transform in transforms:
        if isinstance(transform, A.BaseCompose):
            yield from _moving(transform.transforms)
        elif not isinstance(transform, (A.ImageOnlyTransform, A.Resize, A.LongestMaxSize, A.SmallestMaxSize, A.NoOp)):
            yield type(transform).__name__


def _check_targets(transforms: Sequence[Any], where: str, target: str) -> None:
    for transform in transforms:
        if isinstance(transform, A.BaseCompose):
            _check_targets(transform.transforms, where, target)
        elif isinstance(transform, A.DualTransform):
            targets = transform._targets if isinstance(transform._targets, tuple) else (transform._targets,)
            if target not in {item.name for item in targets}:
                what = "boxes" if target == "BBOXES" else "masks"
                raise ValueError(
                    f"{where}: {type(transform).__name__} cannot move {what} along; use another transform."
                )


def to_tensor(image: NDArray[np.uint8], channels: int = 3) -> Tensor:
    """uint8 ``[H, W, 3]`` to float32 ``[channels, H, W]`` in 0..1; one channel is the luminance."""
    if channels == 1:  # transforms see RGB whatever the network gets
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8)[:, :, None]
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).to(torch.float32).div_(255)


class Normalize:
    """Pixels to a tensor with the given channel statistics.

    Args:
        mean: Per channel, in 0..1.
        std: Per channel, in 0..1, positive.
        channels: 3, or 1 for grey images. Of three statistics the luminance's are taken for these.

    Attributes:
        mean: Per channel of the tensor.
        std: Per channel of the tensor.

    Raises:
        ValueError: If there is not one of each per channel, one is not finite or not meant for 0..1, or a deviation is
            not positive.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], channels: int = 3) -> None:
        length = 1 if channels == 1 and isinstance(mean, Sequence) and len(mean) == 1 else 3
        check_numbers("mean", mean, length=length, minimum=-_LARGEST_STATISTIC, maximum=_LARGEST_STATISTIC)
        check_numbers("std", std, length=length, above=0, maximum=_LARGEST_STATISTIC)
        self.channels = channels
        self.mean, self.std = of_channels(mean, channels), of_channels(std, channels)
        self._mean = torch.tensor(self.mean, dtype=torch.float32).view(channels, 1, 1)
        self._std = torch.tensor(self.std, dtype=torch.float32).view(channels, 1, 1)

    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        """uint8 ``[H, W, 3]`` to float32 ``[channels, H, W]``."""
        return to_tensor(image, self.channels).sub_(self._mean).div_(self._std)
