"""From what a detector returns to what a user saves: original pixels, original category ids, binary masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

#: pixels per step when masks are resized: 100 masks of a photograph at once would take gigabytes
_PIXELS = 2**25


def to_original(
    found: Mapping[str, Tensor], given: tuple[int, int], original: tuple[int, int], class_ids: Sequence[int]
) -> dict[str, Tensor]:
    """Map the detections of one image to the image as it is stored.

    The evaluation pipeline may resize images; boxes and masks are scaled back. (One that crops, pads or flips could not
    be undone from the sizes alone; the data module refuses it.)

    Args:
        found: ``boxes`` ``[N, 4]`` (xyxy), ``labels`` ``[N]`` in 1..num_classes, ``scores`` ``[N]`` and perhaps
            ``masks`` ``[N, 1, H, W]`` in 0..1, in pixels of the given image.
        given: ``(H, W)`` of the image the detector saw.
        original: ``(H, W)`` of the stored image.
        class_ids: Category id of each class.

    Returns:
        ``boxes``, ``labels``, ``category_ids``, ``scores`` and perhaps ``masks`` ``[N, H, W]`` (bool).
    """
    (height, width), (new_height, new_width) = given, original
    boxes = found["boxes"].float()
    scale = boxes.new_tensor([new_width / width, new_height / height]).repeat(2)
    limit = boxes.new_tensor([new_width, new_height]).repeat(2)
    labels = found["labels"]
    ids = torch.as_tensor(list(class_ids), dtype=torch.int64, device=labels.device)
    result = {
        "boxes": torch.minimum((boxes * scale).clamp(min=0), limit),
        "labels": labels,
        "category_ids": ids[labels - 1],
        "scores": found["scores"].float(),
    }
    if "masks" in found:
        result["masks"] = _resize_masks(found["masks"], (new_height, new_width))
    return result


def _resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(masks.shape[-2:]) == size:
        return masks[:, 0] > 0.5
    resized = torch.zeros(len(masks), *size, dtype=torch.bool, device=masks.device)
    step = max(1, _PIXELS // (size[0] * size[1]))
    for start in range(0, len(masks), step):
        part = F.interpolate(masks[start : start + step].float(), size=size, mode="bilinear", align_corners=False)
        resized[start : start + step] = part[:, 0] > 0.5
    return resized
