"""mmsegmentation and mmdetection: dyvision's networks as ``backbone=dict(type="DyVisionBackbone", ...)`` of a config.

``custom_imports = dict(imports=["dyvision.adapters.openmmlab"])`` registers the class with mmengine, where both look
for what they have not themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

from torch import Tensor, nn

from dyvision.adapters._keywords import NamesKeywords
from dyvision.adapters._levels import modules_up_to
from dyvision.adapters._packages import need
from dyvision.backbones import create_backbone, load_backbone_weights
from dyvision.convert.policies import Policy
from dyvision.layers import CoefficientBranch
from dyvision.tasks.freezing import freeze_norm, freeze_parameters

__all__ = ("DyVisionBackbone",)

_BaseModule: Any = need("mmengine.model", "mmseg").BaseModule
_MODELS: Any = need("mmengine.registry", "mmseg").MODELS


@_MODELS.register_module()
class DyVisionBackbone(NamesKeywords, _BaseModule):
    """A backbone of dyvision for mmsegmentation, mmdetection and what else builds on mmengine.

    Coefficient branches are never frozen: pretrained weights have none.

    Args:
        name: A name of :func:`dyvision.list_backbones`, or any other that timm knows.
        layer: A name of :func:`dyvision.list_layers`.
        out_indices: Levels to return, counted as in timm's ``feature_info``; None all with a reduction of at least 4.
        output_stride: Reduction of the last level, 32, 16 or 8.
        in_channels: Channels of the images.
        layer_kwargs: The layer's own arguments.
        policy: Which convolutions become dynamic; see :func:`dyvision.dynamize`.
        drop_path_rate: Stochastic depth of the last block.
        pretrained: True downloads the published weights; a path loads a file of such weights.
        frozen_stages: The last level, counted as ``out_indices``, that is not trained, with all before it: 0 is the
            stem of a ResNet; -1 for none.
        norm_eval: Whether BatchNorms keep their running statistics in training.
        with_cp: Whether activations are computed again in the backward pass.
        init_cfg: mmengine's. ``dict(type="Pretrained", checkpoint=FILE)`` loads the weights of a backbone or of a
            checkpoint of dyvision, read as plain data.

    Attributes:
        out_channels: Channels of each map: ``in_channels`` of the neck or the head.
        out_strides: Reduction of each.

    Shape:
        ``[B, in_channels, H, W]`` to a tuple of ``[B, C_i, H / r_i, W / r_i]``.

    Raises:
        ValueError: If there is no such network, layer, level, stage or argument.
    """

    def __init__(
        self,
        name: str,
        layer: str = "static",
        out_indices: Sequence[int] | int | None = None,
        output_stride: int = 32,
        in_channels: int = 3,
        layer_kwargs: Mapping[str, Any] | None = None,
        policy: Policy | None = None,
        drop_path_rate: float = 0.0,
        pretrained: bool | str | PathLike[str] = False,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        # mmengine's configs have classes of their own for dictionaries and lists
        self.network = create_backbone(
            name,
            layer,
            out_indices if out_indices is None or isinstance(out_indices, int) else tuple(out_indices),
            output_stride,
            in_channels,
            drop_path_rate,
            pretrained,
            list(policy) if isinstance(policy, Sequence) and not isinstance(policy, str) else policy,
            dict(layer_kwargs or {}),
        )
        info = self.network.feature_info
        self.out_channels, self.out_strides = info.channels(), info.reduction()
        self.norm_eval, self.frozen_stages = norm_eval, frozen_stages
        if with_cp:
            self.network.set_grad_checkpointing()
        self._check_stages(name)
        freeze_parameters(self.network, (one for module in self._frozen() for one in module.parameters(recurse=False)))

    def init_weights(self) -> None:
        """Load what ``init_cfg`` names; without it the weights stay as they were made.

        Raises:
            ValueError: If the file has no weights of this backbone, or ``init_cfg`` is another initialisation.
        """
        if self.init_cfg:
            if self.init_cfg.get("type") != "Pretrained":
                raise ValueError(
                    f"init_cfg={dict(self.init_cfg)!r}: layers of dyvision initialise themselves; expected "
                    "dict(type='Pretrained', checkpoint=FILE)"
                )
            load_backbone_weights(self.network, self.init_cfg["checkpoint"])
        self._is_init = True

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of images ``[B, in_channels, H, W]``."""
        return tuple(self.network(x))

    def train(self, mode: bool = True) -> DyVisionBackbone:
        """Training or evaluation mode, frozen stages and, with ``norm_eval``, BatchNorms excepted."""
        super().train(mode)
        if self.norm_eval:
            freeze_norm(self.network)
        for module in self._frozen():
            module.training = False
        return self

    def _check_stages(self, name: str) -> None:
        count = len(self.network.feature_info.info)
        frozen = self.frozen_stages
        if not isinstance(frozen, int) or not -1 <= frozen < count:
            raise ValueError(f"frozen_stages={frozen!r}: {name} has the stages 0 to {count - 1}, and -1 is none")

    def _frozen(self) -> Iterator[nn.Module]:
        """The modules up to the end of the last frozen stage, in the order in which the network has them."""
        if self.frozen_stages < 0:
            return
        modules = modules_up_to(self.network, self.frozen_stages)
        branches = tuple(f"{name}." for name, module in modules.items() if isinstance(module, CoefficientBranch))
        for name, module in modules.items():
            if not f"{name}.".startswith(branches):
                yield module
