"""transformers: after ``import dyvision.adapters.transformers`` a network wherever it takes an ``AutoBackbone``.

``UperNetConfig(backbone_config=DyVisionBackboneConfig(network="resnet18", layer="dcd", out_indices=[1, 2, 3, 4]))``.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dyvision.adapters._keywords import NamesKeywords
from dyvision.adapters._packages import need
from dyvision.backbones import create_backbone
from dyvision.backbones.keywords import arguments_of_layer, keywords_of
from dyvision.layers.arguments import UnknownArgumentError
from dyvision.text import suggestion

__all__ = ("DyVisionBackbone", "DyVisionBackboneConfig")

_transformers = need("transformers", "hf")
_utils = need("transformers.backbone_utils", "hf")
_Config: Any = _transformers.PreTrainedConfig
_Model: Any = _transformers.PreTrainedModel
_ConfigMixin: Any = _utils.BackboneConfigMixin
_BackboneMixin: Any = _utils.BackboneMixin


#: share of a name that agrees with another (difflib) where it is that one, misspelt
_MISSPELT = 0.75


class DyVisionBackboneConfig(_ConfigMixin, _Config):
    """What a dyvision backbone is made of.

    Args:
        network: A name of :func:`dyvision.list_backbones`.
        layer: A name of :func:`dyvision.list_layers`.
        layer_kwargs: The layer's own arguments.
        policy: Which convolutions become dynamic; a name or patterns.
        num_channels: Channels of the input.
        output_stride: Reduction of the last level: 32, 16 or 8.
        out_features: Names of the levels to return.
        out_indices: Their numbers instead; by default the last level.

    Attributes:
        stage_names: The network's levels, finest first.

    Raises:
        ValueError: If there is no such network, layer or level, or if a layer's argument is not in ``layer_kwargs``.
    """

    model_type = "dyvision"

    def __init__(
        self,
        network: str = "resnet18",
        layer: str = "static",
        layer_kwargs: Mapping[str, Any] | None = None,
        policy: str | Sequence[str] | None = None,
        num_channels: int = 3,
        output_stride: int = 32,
        out_features: Sequence[str] | None = None,
        out_indices: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("stage_names", None)  # in a stored config; they follow from the network
        _check_layer(layer, kwargs)
        _check_close(kwargs)
        super().__init__(**kwargs)
        self.network, self.layer = network, layer
        self.layer_kwargs = dict(layer_kwargs or {})
        self.policy = policy if isinstance(policy, str) or policy is None else list(policy)
        self.num_channels, self.output_stride = num_channels, output_stride
        self.stage_names = [name for name, _ in _levels(network)]
        self.set_output_features_output_indices(
            out_features=None if out_features is None else list(out_features),
            out_indices=None if out_indices is None else list(out_indices),
        )

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As transformers has it; of the keywords, which replace entries, none may be misspelt."""
        _check_close(kwargs)
        return super().from_dict(config_dict, **kwargs)


class DyVisionBackbone(NamesKeywords, _BackboneMixin, _Model):
    """A dyvision backbone as transformers takes it.

    Args:
        config: Its description.
        pretrained: True for the published weights of the static network, or a file.
    """

    config_class = DyVisionBackboneConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    has_attentions = False

    @classmethod
    def keywords(cls) -> list[str]:
        """Those of the config, too: ``from_pretrained`` hands over what the config does not know."""
        return [*keywords_of(cls), *keywords_of(DyVisionBackboneConfig)]

    def __init__(self, config: DyVisionBackboneConfig, pretrained: bool | str = False) -> None:
        super().__init__(config)
        self.num_features = [channels for _, channels in _levels(config.network)]
        self._indices = [index % len(self.num_features) for index in config.out_indices]
        self.body = create_backbone(
            config.network,
            config.layer,
            # the levels below the last one cost nothing, and are the hidden states
            out_indices=tuple(range(max(self._indices) + 1)),
            output_stride=config.output_stride,
            in_chans=config.num_channels,
            pretrained=pretrained,
            policy=config.policy,
            layer_kwargs=config.layer_kwargs,
        )
        # KernelWarehouse's cells have a name in each layer, and are stored once
        self._tied_weights_keys = _other_names(self)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the layers have their own initialisation, which transformers would overwrite."""

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Names of what several layers share, and of which it is the same; without regard to word embeddings."""
        return dict(self._tied_weights_keys)

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Feature maps.

        Args:
            pixel_values: ``[B, C, H, W]``.
            output_hidden_states: Whether to return the maps of all levels up to the last one, too.
            return_dict: Whether to return a ``BackboneOutput`` and not a tuple.
            **kwargs: What transformers gives to all backbones.
        """
        config = self.config
        hidden = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        maps = tuple(self.body(pixel_values))
        features = tuple(maps[index] for index in self._indices)
        if not (config.return_dict if return_dict is None else return_dict):
            return (features, maps) if hidden else (features,)
        output = _transformers.modeling_outputs.BackboneOutput
        return output(feature_maps=features, hidden_states=maps if hidden else None)


def _check_layer(layer: str, others: Mapping[str, Any]) -> None:
    """Refuse a layer's own arguments among those of transformers, which would keep and not use them."""
    own = [name for name in arguments_of_layer(layer) if name in others]
    if own:
        given = {name: others[name] for name in own}
        raise ValueError(f"{', '.join(own)}: of the layer {layer!r}; give layer_kwargs={given!r}")


def _check_close(others: Mapping[str, Any]) -> None:
    """Refuse a misspelt argument among those of transformers, which would keep and not use it."""
    own = keywords_of(DyVisionBackboneConfig)
    of_transformers = {*dir(_Config), *vars(_Config())}
    for name in others:
        close = difflib.get_close_matches(name, own, 1, _MISSPELT)
        if close and name not in {*own, *of_transformers} and not name.startswith("_"):
            raise UnknownArgumentError(f"DyVisionBackboneConfig has no argument {name!r}{suggestion(close)}")


@functools.cache
def _levels(network: str) -> tuple[tuple[str, int], ...]:
    """Name and channels of every level of a network."""
    with torch.device("meta"):
        levels = create_backbone(network, out_indices="all").feature_info.info
    return tuple((level["module"], level["num_chs"]) for level in levels)


def _other_names(model: nn.Module) -> dict[str, str]:
    """The further names of parameters and buffers that have several, and the first of each."""
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(tensor), name) for name, tensor in named}
    return {name: other for name, other in names.items() if name != other}


_transformers.AutoConfig.register(DyVisionBackboneConfig.model_type, DyVisionBackboneConfig, exist_ok=True)
_transformers.AutoBackbone.register(DyVisionBackboneConfig, DyVisionBackbone, exist_ok=True)
