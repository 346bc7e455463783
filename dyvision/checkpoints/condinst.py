"""The official CondInst mask head (``aim-uofa/AdelaiDet``, ``adet/modeling/condinst/dynamic_mask_head.py``) as ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dyvision.layers.condinst import SIZES_OF_INTEREST, DynamicMaskHead

_CLASSES = ("DynamicMaskHead.mask_heads_forward_with_coords", "DynamicMaskHead")


class InstanceMasks(nn.Module):
    """A mask head with the image and the level of each instance fixed, as the official class reads them from elsewhere.

    Args:
        head: The mask head.
    """

    image: Tensor
    level: Tensor

    def __init__(self, head: DynamicMaskHead) -> None:
        super().__init__()
        self.head = head
        for name in ("image", "level"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.long), persistent=False)

    def forward(self, features: Tensor, parameters: Tensor, locations: Tensor) -> Tensor:
        """Compute the logits of the masks; see :class:`DynamicMaskHead`."""
        return self.head(features, parameters, locations, self.image, self.level)


def build_layer(official_class: str, arguments: dict[str, Any], state: dict[str, Any]) -> nn.Module:
    """Build our mask head for the official one.

    Args:
        official_class: ``"DynamicMaskHead"``, also with the name of its method.
        arguments: The official options.
        state: Not used.

    Raises:
        ValueError: If the class is another one, or ``num_gen_params`` does not fit the other options.
    """
    if official_class not in _CLASSES:
        raise ValueError(f"official_class must be one of {', '.join(_CLASSES)}, got {official_class!r}")
    # the official option has one size less than there are levels: the last level's is twice the one before
    sizes = list(arguments.get("sizes_of_interest", SIZES_OF_INTEREST[:-1]))
    head = DynamicMaskHead(
        arguments.get("in_channels", 8),
        arguments.get("channels", 8),
        arguments.get("num_layers", 3),
        coordinates=arguments.get("relative_coordinates", True),
        feature_stride=arguments.get("mask_feat_stride", 8),
        output_stride=arguments.get("mask_out_stride", 4),
        sizes_of_interest=[*sizes, 2 * sizes[-1]],
    )
    if arguments.get("num_gen_params", head.num_parameters) != head.num_parameters:
        raise ValueError(f"num_gen_params must be {head.num_parameters}, got {arguments['num_gen_params']}")
    return InstanceMasks(head)


def layer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keep the sizes of interest; the official counter of iterations has no meaning here."""
    return {name: tensor for name, tensor in state.items() if not name.endswith("_iter")}


def apply_auxiliary(layer: nn.Module, auxiliary: Mapping[str, Tensor]) -> None:
    """Set each instance's image and level."""
    if isinstance(layer, InstanceMasks):
        layer.image, layer.level = auxiliary["im_inds"].long(), auxiliary["fpn_levels"].long()
