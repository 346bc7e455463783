"""What pretrained weights expect of images: mean, standard deviation, crop and interpolation of their network."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from dyvision.checkpoint_file import load_plain
from dyvision.file_kinds import is_safetensors

#: what detectors normalise with where nothing is said
_DETECTORS = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
#: arguments of data modules that say it
_FROM_DATA = ("mean", "std", "crop_ratio", "interpolation")


def default_preprocessing(name: str, pretrained: bool | str | PathLike[str] = True) -> dict[str, Any]:
    """What images have to go through for a network with pretrained weights.

    Args:
        name: Name of the backbone.
        pretrained: The file of its weights; a checkpoint of dyvision says itself what its images went through.

    Returns:
        ``mean`` and ``std`` (lists, of images in 0..1), ``crop_ratio`` (share of the shorter side that the centre crop
        keeps) and ``interpolation`` (``"bicubic"``), as timm's configuration of the network has them; empty where
        nothing is known, as of a network that is not timm's.

    Example:
        >>> from dyvision.backbones import default_preprocessing
        >>> default_preprocessing("tf_efficientnet_lite0")["mean"]
        [0.5, 0.5, 0.5]
    """
    if not isinstance(pretrained, bool) and (stored := _stored(pretrained)):
        return stored
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is None:
        return {}
    found = {
        "mean": [float(value) for value in config.mean],
        "std": [float(value) for value in config.std],
        "crop_ratio": float(config.crop_pct),
        "interpolation": config.interpolation,
    }
    if found["interpolation"] not in ("nearest", "bilinear", "bicubic", "lanczos"):  # "random" is one for training
        del found["interpolation"]
    return found


def _stored(path: str | PathLike[str]) -> dict[str, Any]:
    """The same from the arguments of the data module in a checkpoint of dyvision."""
    path = Path(path).expanduser()
    if not path.is_file() or is_safetensors(path):
        return {}
    content = load_plain(path, mmap=True)
    if not isinstance(content, Mapping):
        return {}
    found, model = preprocessing_of(content), content.get("hyper_parameters")
    if content.get("task") == "detection" and isinstance(model, Mapping):  # the detector normalises
        found |= {name: list(model.get(f"image_{name}") or default) for name, default in _DETECTORS.items()}
    return found


def preprocessing_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What the images of a checkpoint's training went through, as far as its data module's arguments say it."""
    data = checkpoint.get("datamodule_hyper_parameters")
    return {name: data[name] for name in _FROM_DATA if data.get(name) is not None} if isinstance(data, Mapping) else {}
