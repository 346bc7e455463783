"""What weights expect of images: of a checkpoint its own data's numbers, of pretrained weights their network's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dyvision.backbones.preprocessing import default_preprocessing, preprocessing_of
from dyvision.channels import of_channels

#: what brings every image to one size; what says no interpolation means the default
_OF_ONE_SIZE = ("image_size", "crop_ratio")


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


def undescribed(task: str, said: Mapping[str, Any]) -> list[str]:
    """The arguments of a data module that decide what a network sees, of those that nothing says.

    Args:
        task: Name of the task; a detector normalises and resizes itself.
        said: The arguments that are known.
    """
    names = {"segmentation": ["mean", "std"], "classification": ["mean", "std", *_OF_ONE_SIZE]}.get(task, [])
    if said.get("eval_transform") is not None:  # says how images get their size
        names = [name for name in names if name not in _OF_ONE_SIZE]
    return [name for name in names if name not in said]


def statistic_of(data: Mapping[str, Any], name: str, channels: int) -> list[float] | None:
    """``mean`` or ``std`` of each channel of the images, as arguments of a data module say it; None if they do not."""
    found = data.get(name)
    return None if found is None else list(of_channels(found, channels))


def stored_preprocessing(checkpoint: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What the images of a checkpoint's training went through; as :func:`expected_preprocessing`."""
    stored = preprocessing_of(checkpoint)
    return stored | {"source": where} if stored else {}
