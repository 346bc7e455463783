"""The official CondInst mask head (``aim-uofa/AdelaiDet``, ``adet/modeling/condinst/dynamic_mask_head.py``) as ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dyvision.checkpoints.interface import bind_arguments, check_class
from dyvision.layers.condinst import SIZES_OF_INTEREST, DynamicMaskHead

#: names of the official options, and their values in the default configuration; ``disable_rel_coords`` is how the
#: official class keeps the opposite of ``relative_coordinates``
_DEFAULTS: dict[str, Any] = {
    **{"in_channels": 8, "channels": 8, "num_layers": 3, "relative_coordinates": True, "disable_rel_coords": None},
    **{"mask_feat_stride": 8, "mask_out_stride": 4, "sizes_of_interest": SIZES_OF_INTEREST[:-1]},
    "num_gen_params": None,
}
#: options of the official head's loss and of the choice of instances, which are the detector's
_REFUSED = {
    name: "it belongs to the detector's training, not to the mask head's computation"
    for name in ("max_proposals", "topk_proposals_per_im", "boxinst_enabled", "bottom_pixels_removed")
}
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
        ValueError: If the class is another one, it has no such option, or ``num_gen_params`` does not fit the others.
    """
    check_class(official_class, *_CLASSES)
    given = bind_arguments(official_class, arguments, _DEFAULTS, _REFUSED)
    disabled = given["disable_rel_coords"]
    # the official option has one size less than there are levels: the last level's is twice the one before
    sizes = list(given["sizes_of_interest"])
    head = DynamicMaskHead(
        given["in_channels"],
        given["channels"],
        given["num_layers"],
        coordinates=given["relative_coordinates"] if disabled is None else not disabled,
        feature_stride=given["mask_feat_stride"],
        output_stride=given["mask_out_stride"],
        sizes_of_interest=[*sizes, 2 * sizes[-1]],
    )
    if given["num_gen_params"] not in (None, head.num_parameters):
        raise ValueError(f"num_gen_params must be {head.num_parameters}, got {given['num_gen_params']}")
    return InstanceMasks(head)


def layer_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keep the sizes of interest; the official counter of iterations has no meaning here."""
    return {name: tensor for name, tensor in state.items() if not name.endswith("_iter")}


def apply_auxiliary(layer: nn.Module, auxiliary: Mapping[str, Tensor]) -> None:
    """Set each instance's image and level."""
    if isinstance(layer, InstanceMasks):
        layer.image, layer.level = auxiliary["im_inds"].long(), auxiliary["fpn_levels"].long()
