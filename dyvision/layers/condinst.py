"""CondInst's dynamic mask head: a small network per instance, whose parameters another network predicts.

Tian et al., "Conditional Convolutions for Instance Segmentation", ECCV 2020, arXiv 2003.05664, section 3. Official:
``aim-uofa/AdelaiDet``, ``adet/modeling/condinst/dynamic_mask_head.py``. It is no drop-in for a convolution: the kernels
belong to instances, not to images, so it is not in the registry of layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyvision.layers._base import check_positive
from dyvision.layers._constants import WithConstants
from dyvision.ops import dynamic_conv2d

#: size of an instance, in pixels, that a level of the pyramid (P3 to P7) is responsible for
SIZES_OF_INTEREST = (64, 128, 256, 512, 1024)


def layer_widths(in_channels: int, channels: int, num_layers: int) -> list[tuple[int, int]]:
    """Inputs and outputs of each 1x1 convolution of the head; the last one has a single output."""
    widths = [in_channels] + [channels] * (num_layers - 1) + [1]
    return list(itertools.pairwise(widths))


def count_parameters(widths: Sequence[tuple[int, int]]) -> int:
    """Count the numbers that make one instance's head."""
    return sum(inputs * outputs + outputs for inputs, outputs in widths)


def split_parameters(parameters: Tensor, widths: Sequence[tuple[int, int]]) -> tuple[list[Tensor], list[Tensor]]:
    """Cut the predicted numbers into kernels and biases: first all kernels, then all biases.

    Args:
        parameters: ``[N, P]``.
        widths: As of :func:`layer_widths`.

    Returns:
        Per layer a kernel ``[N, out, in, 1, 1]``, and a bias ``[N, out]``.

    Raises:
        ValueError: If P is not what the widths need.
    """
    expected = count_parameters(widths)
    if parameters.ndim != 2 or parameters.shape[1] != expected:
        raise ValueError(f"parameters must be [N, {expected}], got {list(parameters.shape)}")
    sizes = [inputs * outputs for inputs, outputs in widths] + [outputs for _, outputs in widths]
    pieces = parameters.split(sizes, 1)
    kernels = [
        piece.reshape(-1, outputs, inputs, 1, 1)
        for piece, (inputs, outputs) in zip(pieces[: len(widths)], widths, strict=True)
    ]
    return kernels, list(pieces[len(widths) :])


def relative_coordinates(locations: Tensor, sizes: Tensor, height: int, width: int, stride: int) -> Tensor:
    """Compute the distance of every pixel to each instance, in units of the instance's size of interest.

    Args:
        locations: ``[N, 2]``, x and y in pixels of the image.
        sizes: ``[N]``, in pixels.
        height: Of the mask features.
        width: Of the mask features.
        stride: Pixels of the image per pixel of the mask features.

    Returns:
        ``[N, 2, height, width]``, location minus pixel, x first.
    """
    vertical, horizontal = (
        torch.arange(length, device=locations.device) * stride + stride // 2 for length in (height, width)
    )
    x = (locations[:, 0, None] - horizontal) / sizes[:, None]
    y = (locations[:, 1, None] - vertical) / sizes[:, None]
    return torch.stack((x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)), 1)


def aligned_bilinear(x: Tensor, factor: int) -> Tensor:
    """Enlarge ``[N, C, H, W]`` by an integer factor such that pixel ``i`` stays at ``factor * i + factor // 2``.

    Raises:
        ValueError: If the factor is not a positive int.
    """
    check_positive("factor", factor)
    if factor == 1:
        return x
    height, width = x.shape[-2:]
    x = F.pad(x, (0, 1, 0, 1), mode="replicate")
    x = F.interpolate(x, (factor * height + 1, factor * width + 1), mode="bilinear", align_corners=True)
    x = F.pad(x, (factor // 2, 0, factor // 2, 0), mode="replicate")
    return x[:, :, : factor * height, : factor * width]


def dice_loss(probabilities: Tensor, targets: Tensor) -> Tensor:
    """``1 - 2 sum(p t) / (sum p^2 + sum t^2 + 1e-5)`` per instance.

    Args:
        probabilities: ``[N, ...]`` in [0, 1], after the sigmoid.
        targets: The same shape, 0 or 1.

    Returns:
        ``[N]``; the official loss is their mean.
    """
    if probabilities.shape != targets.shape:
        raise ValueError(
            f"targets {list(targets.shape)} must have the shape of probabilities {list(probabilities.shape)}"
        )
    p, t = probabilities.flatten(1).float(), targets.flatten(1).float()
    return 1 - 2 * (p * t).sum(1) / (p.square().sum(1) + t.square().sum(1) + 1e-5)


class MaskController(nn.Conv2d):
    """Predicts the parameters of one mask head per location: a 3x3 convolution on the box head's features.

    Args:
        in_channels: Channels of the features.
        head: The head that will use them.

    Shape:
        ``[B, C, H, W]`` to ``[B, head.num_parameters, H, W]``.
    """

    def __init__(self, in_channels: int, head: DynamicMaskHead) -> None:
        super().__init__(in_channels, head.num_parameters, 3, padding=1)

    def reset_parameters(self) -> None:
        """N(0, 0.01), bias 0."""
        nn.init.normal_(self.weight, std=0.01)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class DynamicMaskHead(WithConstants):
    """Masks of instances, each computed by a network of its own: 1x1 convolutions with ReLU between them.

    It has no parameters. Its input are the mask features of the instance's image and, by default, two coordinates
    relative to the instance.

    Args:
        in_channels: Channels of the mask features.
        channels: Channels between the convolutions.
        num_layers: Number of convolutions.
        coordinates: Whether there are relative coordinates.
        feature_stride: Pixels of the image per pixel of the mask features.
        output_stride: Pixels of the image per pixel of the result.
        sizes_of_interest: Unit of the coordinates for each level of the pyramid.

    Raises:
        ValueError: If a number is not positive, or ``output_stride`` does not divide ``feature_stride``.

    Example:
        >>> head = DynamicMaskHead()
        >>> head.num_parameters
        169
        >>> image, level = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2])
        >>> head(torch.randn(2, 8, 12, 10), torch.randn(3, 169), torch.rand(3, 2) * 80, image, level).shape
        torch.Size([3, 1, 24, 20])
    """

    constants = saved_constants = ("sizes_of_interest",)
    sizes_of_interest: Tensor

    def __init__(
        self,
        in_channels: int = 8,
        channels: int = 8,
        num_layers: int = 3,
        coordinates: bool = True,
        feature_stride: int = 8,
        output_stride: int = 4,
        sizes_of_interest: Sequence[int] = SIZES_OF_INTEREST,
    ) -> None:
        super().__init__()
        for name, value in (
            ("in_channels", in_channels),
            ("channels", channels),
            ("num_layers", num_layers),
            ("feature_stride", feature_stride),
            ("output_stride", output_stride),
        ):
            check_positive(name, value)
        if feature_stride % output_stride:
            raise ValueError(f"output_stride must divide feature_stride={feature_stride}, got {output_stride}")
        self.coordinates, self.feature_stride, self.output_stride = coordinates, feature_stride, output_stride
        self.widths = layer_widths(in_channels + 2 * coordinates, channels, num_layers)
        self._sizes = tuple(sizes_of_interest)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the constants anew."""
        held = dict(self._held(self.constants))
        device = held["sizes_of_interest"].device if held else torch.get_default_device()
        self.set_constant("sizes_of_interest", torch.tensor(self._sizes, device="cpu"), device)

    @property
    def num_parameters(self) -> int:
        """How many numbers make one instance's head."""
        return count_parameters(self.widths)

    def forward(self, features: Tensor, parameters: Tensor, locations: Tensor, image: Tensor, level: Tensor) -> Tensor:
        """Compute the logits of the masks.

        Args:
            features: Mask features ``[B, C, H, W]``.
            parameters: ``[N, num_parameters]``, from the controller at the instances' locations.
            locations: ``[N, 2]``, x and y in pixels of the image.
            image: ``[N]``, the index of each instance's image in the batch.
            level: ``[N]``, the index of its level of the pyramid, 0 for P3.

        Returns:
            ``[N, 1, f H, f W]`` with ``f = feature_stride / output_stride``; N may be zero.
        """
        kernels, biases = split_parameters(parameters, self.widths)
        factor = self.feature_stride // self.output_stride
        height, width = features.shape[-2:]
        if len(parameters) == 0:
            # zero with a gradient: a batch without instances still has to reach every parameter
            empty = features.new_zeros(0, 1, factor * height, factor * width)
            return empty + 0 * (features.sum() + parameters.sum())
        x = features[image]
        if self.coordinates:
            sizes = self.sizes_of_interest.to(locations)[level]
            place = relative_coordinates(locations, sizes, height, width, self.feature_stride)
            x = torch.cat((place.to(x.dtype), x), 1)
        for number, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
            x = dynamic_conv2d(x if number == 0 else torch.relu(x), kernel.to(x.dtype), bias)
        return aligned_bilinear(x, factor)
