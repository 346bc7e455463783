"""ShuffleNetV2 (Ma et al. 2018, arXiv 1807.11164): torchvision's network with timm's feature contract.

timm has no ShuffleNet. The modules and their names are torchvision's, so its weights load; added are ``in_chans``,
``output_stride`` by dilation, dropout before the classifier, and the feature maps.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import adapt_input_conv
from torch import nn
from torch.utils.checkpoint import checkpoint_sequential
from torchvision import models as torchvision_models

from dyvision.backbones.dilation import dilate_stages
from dyvision.backbones.features import resolve_out_indices
from dyvision.backbones.registry import register_backbone

# width: output channels of stem, stages 2 to 4 and head (table 5), torchvision's name
_WIDTHS = {
    "050": ((24, 48, 96, 192, 1024), "shufflenet_v2_x0_5"),
    "100": ((24, 116, 232, 464, 1024), "shufflenet_v2_x1_0"),
    "150": ((24, 176, 352, 704, 1024), "shufflenet_v2_x1_5"),
    "200": ((24, 244, 488, 976, 2048), "shufflenet_v2_x2_0"),
}
_REPEATS = (4, 8, 4)
_STAGES = ("stage2", "stage3", "stage4")


class ShuffleNetV2(torchvision_models.ShuffleNetV2):
    """torchvision's ShuffleNetV2 with feature maps.

    Args:
        width: ``"050"``, ``"100"``, ``"150"`` or ``"200"``.
        num_classes: Outputs of the classifier; 0 gives pooled features.
        in_chans: Channels of the input.
        output_stride: Stride of the last feature map, 8, 16 or 32. Stages that would exceed it keep the resolution and
            are dilated instead; with the same weights they compute the same values at the positions both have.
        drop_rate: Dropout before the classifier.
    """

    def __init__(
        self, width: str, num_classes: int = 1000, in_chans: int = 3, output_stride: int = 32, drop_rate: float = 0.0
    ) -> None:
        channels, source = _WIDTHS[width]
        super().__init__(list(_REPEATS), list(channels), num_classes=max(num_classes, 1))
        if in_chans != 3:
            self.conv1[0] = nn.Conv2d(in_chans, channels[0], 3, 2, 1, bias=False)
        modules = ("conv1", "maxpool", *_STAGES)
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": c, "reduction": r, "module": module}
            for c, r, module in zip((channels[0], *channels[:4]), (2, 4, 8, 16, 32), modules, strict=True)
        ]
        dilate_stages([(name, getattr(self, name)) for name in _STAGES], 4, output_stride, self.feature_info)
        self.num_features = channels[4]
        self.drop_rate = drop_rate
        self.grad_checkpointing = False
        self.pretrained_cfg: dict[str, Any] = {
            "architecture": f"shufflenetv2_{width}",
            "source": source,
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "first_conv": "conv1.0",
            "classifier": "fc",
        }
        self.reset_classifier(num_classes)

    def get_classifier(self) -> nn.Module:
        """The last linear layer (or the identity)."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one; 0 classes by the identity."""
        self.num_classes = num_classes
        fc: nn.Module = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()
        self.fc = fc

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of storing them."""
        self.grad_checkpointing = enable

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Last feature map before pooling, ``[B, 1024 or 2048, H / r, W / r]``."""
        return self.conv5(self.forward_intermediates(x, indices=[4])[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, num_classes]``."""
        pooled = self.forward_features(x).mean((2, 3))
        return self.fc(nn.functional.dropout(pooled, self.drop_rate, self.training))

    def forward_intermediates(
        self, x: torch.Tensor, indices: int | list[int] | None = None, intermediates_only: bool = True
    ) -> list[torch.Tensor]:
        """Feature maps of the levels in ``indices``, by depth (timm's contract)."""
        taken = self._levels(indices)
        maps = []
        for level, info in enumerate(self.feature_info[: max(taken) + 1]):
            stage = getattr(self, info["module"])
            if self.grad_checkpointing and self.training and info["module"] in _STAGES:
                x = checkpoint_sequential(stage, len(stage), x, use_reentrant=False)
            else:
                x = stage(x)
            if level in taken:
                maps.append(x)
        return maps

    def prune_intermediate_layers(
        self, indices: int | list[int], prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the levels in ``indices`` do not need; returns them counted from 0."""
        taken = self._levels(indices)
        for info in self.feature_info[max(taken) + 1 :]:
            setattr(self, info["module"], nn.Sequential())
        if prune_head:
            self.conv5 = nn.Sequential()
            self.reset_classifier(0)
        return taken

    def _levels(self, indices: int | list[int] | None) -> list[int]:
        levels = len(self.feature_info)
        reductions = [info["reduction"] for info in self.feature_info]
        return list(resolve_out_indices(levels if indices is None else indices, reductions, type(self).__name__))

    def load_torchvision_weights(self) -> None:
        """Download torchvision's ImageNet weights; classifier and input are adapted as timm does."""
        weights = torchvision_models.get_model_weights(self.pretrained_cfg["source"])["IMAGENET1K_V1"]
        state = dict(weights.get_state_dict(progress=False, check_hash=True))
        state["conv1.0.weight"] = adapt_input_conv(self.conv1[0].in_channels, state["conv1.0.weight"])
        kept = self.state_dict()
        if self.num_classes != 1000:
            state.update({key: kept[key] for key in ("fc.weight", "fc.bias") if key in kept})
        self.load_state_dict({key: value for key, value in state.items() if key in kept})


def _register(width: str, *names: str) -> None:
    def build(pretrained: bool = False, drop_path_rate: float = 0.0, **kwargs: Any) -> ShuffleNetV2:
        if drop_path_rate:
            raise ValueError(f"{names[0]} has no residual connections: drop_path_rate must be 0, not {drop_path_rate}")
        model = ShuffleNetV2(width, **kwargs)
        if pretrained:
            model.load_torchvision_weights()
        return model

    for name in names:
        register_backbone(name, listed=name == names[0])(build)


for _width, (_, _torchvision_name) in _WIDTHS.items():
    _register(_width, f"shufflenetv2_{_width}", _torchvision_name)
