"""What weights expect of images: of a checkpoint its own data's numbers, of pretrained weights their network's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dyvision.backbones.preprocessing import default_preprocessing, preprocessing_of


def expected_preprocessing(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """What the weights that training starts from expect of images.

    Args:
        hparams: Hyperparameters of a task.

    Returns:
        ``mean``, ``std``, ``crop_ratio``, ``interpolation``, as far as they are known, and ``source``, what to call the
        weights; empty if training starts from nothing, or from ``backbone_weights``, which may be of any data.
    """
    pretrained = (hparams.get("backbone_kwargs") or {}).get("pretrained", hparams.get("pretrained"))
    if not pretrained:
        return {}
    found = default_preprocessing(hparams["backbone"], pretrained)
    return found | {"source": f"pretrained {hparams['backbone']}"} if found else {}


def stored_preprocessing(checkpoint: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What the images of a checkpoint's training went through; as :func:`expected_preprocessing`."""
    stored = preprocessing_of(checkpoint)
    return stored | {"source": where} if stored else {}
