"""An official network from nothing but its weights."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from torch import Tensor, nn

from dyvision.backbones.published.kernelwarehouse import VARIANTS, add_warehouses
from dyvision.checkpoints.load import SOURCES, check_source, guess_source, load_official, read_official
from dyvision.checkpoints.networks import build_network
from dyvision.checkpoints.static_networks import static_network

#: what the names of a family's parameters begin with, and a name by which :func:`build_network` knows it
_FAMILIES = {
    "layer1.0.": "ResNet",
    "features.0.0.": "MobileNetV2",
    "downsample_layers.": "ConvNeXt",
    "first_conv.": "ShuffleNetV2",
}


def create_official(
    source_weights: Mapping[str, Any] | str | PathLike[str],
    source: str | None = None,
    name: str | None = None,
    **arguments: Any,
) -> nn.Module:
    """Build the network that official weights are of, at any width, and load them.

    Depths, widths, classes and what the layers' arguments have to be follow from names and shapes.

    Args:
        source_weights: As for :func:`load_official`.
        source: Whose names; None: as the names say.
        name: The official function or class, for what shapes do not tell: timm's networks
            (``"tf_efficientnet_cc_b0_4e"``).
        **arguments: Of the official constructor, for what shapes do not tell: dropout, ``inverted_residual_setting``,
            KernelWarehouse's sharing of cells if it is none of the published ones.

    Returns:
        The network in evaluation mode.

    Raises:
        ValueError: If the weights are of no network that is known here, with the reason.

    Example:
        >>> from dyvision.checkpoints import create_official
        >>> model = create_official("dcd_mobilenetv2_035.pth", "dcd")
    """
    state = read_official(source_weights)
    source = guess_source(state) if source is None else source
    if source is None:
        raise ValueError(f"whose weights these are is not clear from the names; give source, of {', '.join(SOURCES)}")
    check_source(source)
    if source == "timm":
        if name is None:
            raise ValueError("timm's networks need their name: create_official(..., name='tf_efficientnet_cc_b0_4e')")
        model = build_network(source, name, arguments, {}, state)
    else:
        family = next((kind for start, kind in _FAMILIES.items() if any(key.startswith(start) for key in state)), None)
        if family is None:
            raise ValueError(
                f"these {source} weights are of no network that is known here: none of their names starts with "
                f"{' or '.join(_FAMILIES)}"
            )
        if source == "kernelwarehouse" and "cell_num_ratio" not in arguments:
            return _published_warehouses(state, family, arguments)
        temperature = {"temperature": 1.0} if source == "dyconv" else {}  # annealed at the end of the training
        model = build_network(source, name or family, arguments, temperature, state)
    load_official(model, state, source)
    return model.eval()


def _published_warehouses(state: dict[str, Tensor], family: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Which of the published variants it is, the sizes of the warehouses say."""
    for name, variant in VARIANTS.items():
        if family.lower() not in name.replace("_", ""):
            continue
        model = static_network("kernelwarehouse", family, arguments, state)
        try:
            add_warehouses(model, variant)
            load_official(model, state, "kernelwarehouse")
        except ValueError:
            continue
        return model.eval()
    raise ValueError(
        "these kernelwarehouse weights are those of none of the published budgets; give the arguments of the official "
        "constructor: cell_num_ratio, cell_inplane_ratio, cell_outplane_ratio, sharing_range"
    )
