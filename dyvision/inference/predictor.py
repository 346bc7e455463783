"""Images of any kind through a task: the transforms, the batches and the step that ``dyvision predict`` has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dyvision.arguments import check_number
from dyvision.data.base import VisionDataModule
from dyvision.data.errors import DataError
from dyvision.data.listing import find_images
from dyvision.data.loaders import collate
from dyvision.inference.results import Classes, Classification, Detections, Result, Segmentation
from dyvision.tasks import BaseTask
from dyvision.tasks.callbacks.classes import shown_classes

#: one image: a file, a picture of Pillow's, ``[H, W, 3]`` or ``[H, W]`` of uint8, or ``[3, H, W]`` as a tensor
ImageLike: TypeAlias = str | Path | Image.Image | NDArray[Any] | Tensor


class Predictor:
    """Predicts with a task and the transforms of a data module.

    Args:
        task: Trained.
        data: Data module of its training, or one with the same transforms; its files are not looked at. What it leaves
            to the weights (``mean=None``) it takes from the task.

    Raises:
        ValueError: If the two are of different tasks, or the task is run by a file that was made for images which are
            normalised otherwise.
    """

    def __init__(self, task: BaseTask, data: VisionDataModule) -> None:
        if task.task != data.task:
            raise ValueError(f"{type(data).__name__} is for {data.task}, and this task is for {task.task}")
        self.task, self.data = task, data
        data.take_channels(task.hparams.get("in_chans"))
        data.take_preprocessing(task)

    def __call__(self, images: ImageLike | Sequence[ImageLike], batch_size: int | None = None) -> Any:
        """Predict.

        Args:
            images: One image or a list: paths, pictures of Pillow's, numpy arrays (uint8, ``[H, W, 3]`` in RGB, or
                ``[H, W]``) or tensors (``[3, H, W]`` or ``[1, H, W]``, uint8, or floating point in 0..1). A folder is
                the list of all images below it; an array or tensor with another axis in front is a list, too.
            batch_size: Images at a time; that of the training's evaluation by default.

        Returns:
            For one image a :class:`~dyvision.inference.Classification`, a :class:`~dyvision.inference.Segmentation` or
            :class:`~dyvision.inference.Detections`, for a list a list of them. Boxes are in pixels of the given image,
            label maps of its size.

        Raises:
            DataError: If an image cannot be read; the message names it.
            ValueError: If something is no image, or ``batch_size`` is out of range.
        """
        check_number("batch_size", batch_size, minimum=1, integer=True, allow_none=True)
        single, sources = _sources(images)
        size = batch_size or self.data.eval_batch_size or self.data.batch_size
        results: list[Result] = []
        for start in range(0, len(sources), size):
            results += self._predict(sources[start : start + size], start)
        return results[0] if single else results

    def _predict(self, sources: Sequence[ImageLike], start: int) -> list[Result]:
        names = [_name(source, start + number) for number, source in enumerate(sources)]
        by_name = dict(zip(names, sources, strict=True))
        read = partial(self._read, by_name)
        dataset = self.data.images_to_predict([Path(name) for name in names], reader=read)
        samples = [dataset[number] for number in range(len(names))]
        broken = next((sample["failed"] for sample in samples if "failed" in sample), None)
        if broken is not None:
            raise DataError(broken)
        for sample, name in zip(samples, names, strict=True):
            sample["path"] = name
        trained = self.task.training
        self.task.eval()
        try:
            with torch.inference_mode():
                batch = move_data_to_device(collate(samples), self.task.device)
                found = self.task.predict_step(batch, 0)
        finally:
            self.task.train(trained)
        return list(self._results(found, [partial(read, name) for name in names]))

    def _read(self, sources: Mapping[str, ImageLike], name: str | Path, labelled: bool = False) -> NDArray[np.uint8]:
        source = sources[str(name)]
        if isinstance(source, (str, Path)):
            return self.data.read_image(source)
        return self.data.reader.convert(as_picture(source, str(name)), str(name))

    def _results(self, found: Mapping[str, Any], readers: Sequence[Callable[[], Any]]) -> Iterator[Result]:
        hparams = self.task.hparams
        classes = Classes(*shown_classes(hparams, hparams.num_classes, self.task.task == "detection"))
        for number, (path, read) in enumerate(zip(found["path"], readers, strict=True)):
            if "probabilities" in found:
                yield Classification(path, classes, read, found["probabilities"][number].cpu())
            elif "label_maps" in found:
                yield Segmentation(path, classes, read, found["label_maps"][number].cpu())
            else:
                one = found["predictions"][number]
                masks = one.get("masks")
                yield Detections(path, classes, read, one["boxes"], one["labels"], one["scores"], masks)


def as_picture(source: Any, name: str) -> Image.Image:
    """An image in memory as one of Pillow's.

    Args:
        source: As :data:`ImageLike`, but no path.
        name: What to call it in messages.

    Raises:
        ValueError: If it is of another type or shape.
    """
    if isinstance(source, Image.Image):
        return source
    expected = "uint8 [H, W, 3] or [H, W] as an array, [3, H, W] or [1, H, W] as a tensor of uint8 or of 0..1"
    if isinstance(source, Tensor):
        pixels = source.detach().cpu()
        if pixels.ndim == 3 and pixels.shape[0] in (1, 3):
            pixels = pixels.permute(1, 2, 0)
        elif pixels.ndim != 2:
            raise ValueError(f"{name}: a tensor {list(source.shape)}; expected {expected}")
        if pixels.is_floating_point():
            if not bool(((pixels >= 0) & (pixels <= 1)).all()):
                raise ValueError(f"{name}: a tensor with values outside 0..1; expected {expected}, not normalised")
            pixels = (pixels * 255).round().to(torch.uint8)
        source = pixels.numpy()
    if not isinstance(source, np.ndarray):
        raise ValueError(f"{name}: a {type(source).__name__}; expected a path, a picture of Pillow's, or {expected}")
    array = source[:, :, 0] if source.ndim == 3 and source.shape[2] == 1 else source
    right = array.dtype == np.uint8 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3))
    if not right or array.size == 0:
        raise ValueError(f"{name}: an array of {source.dtype} {list(source.shape)}; expected {expected}")
    return Image.fromarray(np.ascontiguousarray(array))


def _sources(images: Any) -> tuple[bool, list[Any]]:
    """Whether it is one image, and the images."""
    if isinstance(images, (str, Path)):
        if not str(images):  # a path of no letters would be the current folder
            raise ValueError("an empty text; expected the path of an image or of a folder of images")
        path = Path(images).expanduser()
        return (False, list(find_images(path))) if path.is_dir() else (True, [path])
    if isinstance(images, (np.ndarray, Tensor)):
        return (False, list(images)) if images.ndim == 4 else (True, [images])
    if isinstance(images, Sequence) and not isinstance(images, (bytes, bytearray, memoryview)):
        return False, list(images)
    return True, [images]


def _name(source: Any, number: int) -> str:
    """What stands for an image in messages and results."""
    if isinstance(source, (str, Path)):
        return str(Path(source).expanduser())
    return f"image {number}"
