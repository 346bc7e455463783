"""Networks that call ONNX Runtime, in the place of a task's own; what a file of any origin returns is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import clip_boxes_to_image

from dyvision.export import OnnxModel


class OnnxNetwork(nn.Module):
    """Normalised images to logits, by a file that may take bytes, and may give what is made of logits.

    Args:
        file: Runs the file.
        num_classes: Number of classes.
        mean: What the images are normalised with; for a file that takes bytes.
        std: The same.
        axes: Number of axes of the logits; None for any.
    """

    def __init__(
        self,
        file: OnnxModel,
        num_classes: int,
        mean: Tensor | None = None,
        std: Tensor | None = None,
        axes: int | None = None,
    ) -> None:
        super().__init__()
        self.file, self.num_classes, self.mean, self.std, self.axes = file, num_classes, mean, std, axes

    def given(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """What the file is given for normalised images ``[C, H, W]`` of one size: themselves, or bytes."""
        batch = (images if isinstance(images, Tensor) else torch.stack(list(images))).detach().float().cpu()
        if self.file.dtype == torch.uint8 and self.mean is not None and self.std is not None:
            return _bytes(batch * self.std + self.mean)
        return batch

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images ``[B, C, H, W]``; of a file with label maps 1 for the class of each pixel, else 0."""
        ((name, found),) = self.file(self.given(images)).items()
        _check_finite(self.file, name, found)
        if name == "label_map":
            self._check_label_map(found, images.shape)
            return F.one_hot(found.long(), self.num_classes).movedim(-1, 1).float().to(images.device)
        axes = self.axes or found.ndim
        if found.ndim != axes or found.ndim < 2 or found.shape[1] != self.num_classes:
            wanted = ", ".join(["B", str(self.num_classes), "H", "W"][: max(2, axes)])
            raise ValueError(
                f"{self.file.path}: gives {name} of shape {list(found.shape)} for num_classes={self.num_classes}, "
                f"expected [{wanted}]; export it again"
            )
        if name == "probabilities":
            found = found.float().clamp(min=torch.finfo(torch.float32).tiny).log()
        return found.float().to(images.device)

    def _check_label_map(self, found: Tensor, shape: Sequence[int]) -> None:
        size = [shape[0], *shape[2:]]
        if list(found.shape) != size:
            raise ValueError(
                f"{self.file.path}: gives a label map of shape {list(found.shape)}, expected {size}; export it again"
            )
        if found.numel() and not 0 <= int(found.min()) <= int(found.max()) < self.num_classes:
            raise ValueError(
                f"{self.file.path}: gives classes {int(found.min())} to {int(found.max())} for "
                f"num_classes={self.num_classes}; export it again"
            )


class OnnxDetector(nn.Module):
    """Detections of a file, with the interface of a detector.

    Args:
        file: Runs the file.
        num_classes: Number of classes.
        pads: Whether smaller images are padded to the file's size, as in a batch with larger ones; a detector that
            resizes images would scale them differently then.
        fill: What they are padded with, per channel: the mean, which is 0 once it is normalised.
    """

    predicts_masks = False

    def __init__(self, file: OnnxModel, num_classes: int, pads: bool, fill: Tensor) -> None:
        super().__init__()
        self.file, self.num_classes, self.pads, self.fill = file, num_classes, pads, fill.reshape(-1, 1, 1)

    def given(self, images: Sequence[Tensor]) -> Tensor:
        """What the file is given for images ``[C, H_i, W_i]`` in 0..1: one batch of its size, perhaps of bytes."""
        batch = torch.stack([self._padded(image.detach().float().cpu()) for image in images])
        return _bytes(batch) if self.file.dtype == torch.uint8 else batch

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """``boxes``, ``labels`` and ``scores`` of each image ``[C, H_i, W_i]`` in 0..1."""
        found = self.file(self.given(images))
        self._check(found)
        detections = []
        for number, image in enumerate(images):
            count = int(found["count"][number])
            one = {name: found[name][number, :count].to(image.device) for name in ("boxes", "labels", "scores")}
            self._check_objects(one)
            boxes = clip_boxes_to_image(one["boxes"], (image.shape[-2], image.shape[-1]))
            inside = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
            detections.append({**{name: value[inside] for name, value in one.items()}, "boxes": boxes[inside]})
        return detections

    def _check(self, found: Mapping[str, Tensor]) -> None:
        """Whether the outputs are what a detector's are: of any origin, so of any shape and type."""
        slots = found["scores"].shape[1] if found["scores"].ndim == 2 else 0
        shapes: dict[str, list[int]] = {"boxes": [slots, 4], "scores": [slots], "labels": [slots], "count": []}
        for name, shape in shapes.items():
            output, integer = found[name], name in ("labels", "count")
            if list(output.shape[1:]) != shape or output.is_floating_point() == integer:
                raise ValueError(
                    f"{self.file.path}: gives {name} of shape {list(output.shape)} and type "
                    f"{str(output.dtype).removeprefix('torch.')}, expected {['B', *shape]} of "
                    f"{'integers' if integer else 'numbers'}; export it again"
                )
        count = found["count"]
        if len(count) and not 0 <= int(count.min()) <= int(count.max()) <= slots:
            raise ValueError(
                f"{self.file.path}: counts {int(count.min())} to {int(count.max())} objects an image and has room for "
                f"{slots}; export it again"
            )

    def _check_objects(self, one: Mapping[str, Tensor]) -> None:
        labels, scores = one["labels"], one["scores"]
        for name in ("boxes", "scores"):
            _check_finite(self.file, name, one[name])
        if len(labels) and not 1 <= int(labels.min()) <= int(labels.max()) <= self.num_classes:
            raise ValueError(f"{self.file.path}: gives labels outside 1..{self.num_classes}; export it again")
        if not bool(((scores >= 0) & (scores <= 1)).all()):
            raise ValueError(f"{self.file.path}: gives scores outside 0..1; export it again")

    def _padded(self, image: Tensor) -> Tensor:
        height, width = (size or 0 for size in self.file.shape[2:])
        down, right = height - image.shape[-2], width - image.shape[-1]
        if (down or right) and (not self.pads or down < 0 or right < 0):
            most, smaller = "", ""  # a detector that resizes would scale what is padded differently
            if self.pads:
                most, smaller = "at most ", f"give --data.image_size {min(height, width)} (the longer side), or "
            raise ValueError(
                f"{self.file.path}: takes images of {most}{height}x{width} pixels (height x width), got "
                f"{image.shape[-2]}x{image.shape[-1]}: {smaller}export it with another --image-size"
            )
        padded = self.fill.expand(len(image), height, width).clone()
        padded[:, : image.shape[-2], : image.shape[-1]] = image
        return padded


def _check_finite(file: OnnxModel, name: str, output: Tensor) -> None:
    if output.is_floating_point() and not bool(output.isfinite().all()):
        raise ValueError(
            f"{file.path}: gives {name} that are not finite (NaN or infinite): its weights are damaged, or the "
            "training had diverged; export another checkpoint"
        )


def _bytes(images: Tensor) -> Tensor:
    return (images * 255).round().clamp(0, 255).to(torch.uint8)
