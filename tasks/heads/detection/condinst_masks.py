"""What CondInst has beside the boxes: mask features, the locations that learn masks, and masks in image pixels.

Tian et al., ECCV 2020, https://arxiv.org/abs/2003.05664, section 3; official: ``aim-uofa/AdelaiDet``,
``adet/modeling/condinst/mask_branch.py`` and ``dynamic_mask_head.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation

from dyvision.layers.condinst import aligned_bilinear

#: pixels per step when masks are enlarged: 100 masks of a photograph at once would take gigabytes
_PIXELS = 2**25


class MaskBranch(nn.Module):
    """Mask features of whole images, at the size of the finest pyramid level.

    Each level goes through 3x3 conv-BN-ReLU, is enlarged and added; four more 3x3 conv-BN-ReLU and a 1x1 convolution
    without activation follow (as officially, but for the number of levels and convolutions, which are arguments).

    Args:
        in_channels: Channels of the pyramid.
        num_levels: Number of levels that are used, finest first; the paper's is 3 (P3, P4, P5).
        channels: Channels between the convolutions.
        num_convs: 3x3 convolutions after the sum.
        out_channels: Channels of the result.

    Raises:
        ValueError: If a number is too small.

    Shape:
        Maps ``[B, in_channels, H_l, W_l]`` to ``[B, out_channels, H_0, W_0]`` in float32.
    """

    def __init__(self, in_channels: int, num_levels: int, channels: int, num_convs: int, out_channels: int) -> None:
        for name, value, least in (
            ("mask_channels", channels, 1),
            ("mask_convs", num_convs, 0),
            ("mask_features", out_channels, 1),
        ):
            if value < least:
                raise ValueError(f"{name}={value}: expected at least {least}.")
        super().__init__()
        self.refine = nn.ModuleList(Conv2dNormActivation(in_channels, channels) for _ in range(num_levels))
        tower: list[nn.Module] = [Conv2dNormActivation(channels, channels) for _ in range(num_convs)]
        self.tower = nn.Sequential(*tower, nn.Conv2d(channels, out_channels, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                nn.init.kaiming_uniform_(module.weight, a=1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Compute the mask features from the pyramid; levels beyond ``num_levels`` are ignored."""
        height, width = maps[0].shape[-2:]
        total: Tensor | None = None
        for refine, level in zip(self.refine, maps, strict=False):
            refined = refine(level)
            factor = max(-(-height // level.shape[-2]), -(-width // level.shape[-1]))
            refined = aligned_bilinear(refined, factor)[..., :height, :width]
            total = refined if total is None else total + refined
        return self.tower(total).float()


def select_locations(objects: Tensor, scores: Tensor, count: int) -> Tensor:
    """Choose the locations of one image that learn masks: every object gets an equal share, its best ones.

    Args:
        objects: ``[L]``, index of the object each location is responsible for, -1 for none.
        scores: ``[L]``, how good a location is.
        count: Number of locations to choose; an object gets at least one, however many there are.

    Returns:
        Indices of locations, grouped by object.
    """
    positive = torch.where(objects >= 0)[0]
    best_first = positive[scores[positive].argsort(descending=True)]
    grouped = best_first[objects[best_first].argsort(stable=True)]
    _, sizes = torch.unique_consecutive(objects[grouped], return_counts=True)
    share = max(1, count // max(1, len(sizes)))
    starts = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    rank = torch.arange(len(grouped), device=grouped.device) - starts
    return grouped[rank < share]


def sample_targets(masks: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Sample ground truth where the predicted masks have their pixels: ``[2::4, 2::4]`` at stride 4.

    Args:
        masks: ``[N, H, W]``, 0 or 1, without the padding of the batch.
        stride: Pixels of the image per pixel of the prediction.
        size: ``(h, w)`` of the prediction, padding included.

    Returns:
        ``[N, h, w]`` in float32, 0 in the padding.
    """
    sampled = masks[:, stride // 2 :: stride, stride // 2 :: stride].float()
    return F.pad(sampled, (0, size[1] - sampled.shape[-1], 0, size[0] - sampled.shape[-2]))


def enlarge_masks(probabilities: Tensor, stride: int, resized: tuple[int, int], given: tuple[int, int]) -> Tensor:
    """Bring the masks of one image to its pixels, as officially: enlarge, cut the padding off, undo the resizing.

    Args:
        probabilities: ``[N, 1, h, w]`` in 0..1.
        stride: Pixels of the batch per pixel of the masks.
        resized: ``(H, W)`` of the image in the batch, without padding.
        given: ``(H, W)`` of the image the detector was given.

    Returns:
        ``[N, 1, H, W]`` in 0..1, for the given image.
    """
    result = probabilities.new_zeros(len(probabilities), 1, *given)
    pixels = probabilities.shape[-2] * probabilities.shape[-1] * stride**2
    step = max(1, _PIXELS // max(pixels, given[0] * given[1]))
    for start in range(0, len(probabilities), step):
        part = aligned_bilinear(probabilities[start : start + step], stride)[..., : resized[0], : resized[1]]
        if part.shape[-2:] != given:
            part = F.interpolate(part, size=given, mode="bilinear", align_corners=False)
        result[start : start + step] = part
    return result
