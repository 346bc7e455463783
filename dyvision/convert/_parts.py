"""What networks put on top of a backbone: pyramids, necks, decoders and heads, found by names and classes.

Papers on dynamic convolution replace the convolutions of a backbone. What a detector or a segmenter adds to it is left
as it is, unless a pattern, a function or the policy ``all`` asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn

_PYRAMID, _DETECTION, _DECODER = "a feature pyramid", "a detection head", "a decoder or segmentation head"
#: attributes that are called so whatever is beside them: torchvision's, mmdet's, mmseg's, transformers'
_NAMES = {
    "fpn": _PYRAMID,
    "neck": _PYRAMID,
    "input_projection": _PYRAMID,
    "input_proj": _PYRAMID,
    "rpn": _DETECTION,
    "rpn_head": _DETECTION,
    "roi_heads": _DETECTION,
    "roi_head": _DETECTION,
    "bbox_head": _DETECTION,
    "mask_head": _DETECTION,
    "decode_head": _DECODER,
    "auxiliary_head": _DECODER,
    "aux_classifier": _DECODER,
    "segmentation_head": _DECODER,
    "classification_head": _DECODER,
    "pixel_decoder": _DECODER,
}
#: attributes that are so only beside a backbone: elsewhere they are the head of a classifier, or half of an autoencoder
_BESIDE = {"decoder": _DECODER, "head": _DETECTION, "heads": _DETECTION, "classifier": _DECODER, "extra": _PYRAMID}
_BACKBONES = frozenset({"backbone", "encoder", "body"})
_EXTRA = frozenset({"features"})
#: beside these a "neck" is the last stage of the backbone itself: SAM's image encoder
_EMBEDDING = frozenset({"patch_embed", "patch_embedding"})
_CLASSES = (
    (re.compile(r"(?<!With)FPN$|^FeaturePyramidNetwork$"), _PYRAMID),
    (re.compile(r"^(RegionProposalNetwork|RPNHead|RoIHeads|\w*(RetinaNet|FCOS|SSD|YOLOX?)\w*Head)$"), _DETECTION),
    # of YOLOs, the last entry of their list of modules
    (re.compile(r"^(v10)?(Detect|Segment|Pose|OBB)$"), _DETECTION),
    (re.compile(r"^(DeepLabHead|FCNHead|LRASPPHead|\w+DecodeHead|\w+Decoder|SegmentationHead)$"), _DECODER),
)


def find_parts(modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """The outermost parts of a network that are no backbone, and what each is.

    Args:
        modules: Of the network, by name, in order. The network itself is never a part of itself.
    """
    found: dict[str, str] = {}
    for name, module in modules.items():
        if not name or enclosing_part(name, found) is not None:
            continue
        kind = _kind(name, module, modules)
        if kind is not None:
            found[name] = kind
    return found


def enclosing_part(name: str, parts: Mapping[str, str]) -> str | None:
    """The part that a module is in, or is."""
    while name:
        if name in parts:
            return name
        name = name.rpartition(".")[0]
    return None


def say_left_alone(part: str, kind: str) -> str:
    """The reason for a convolution of a part."""
    return f"{part} is {kind}: left alone unless policy='all' or a pattern such as '{part}.*' asks for it"


def _kind(name: str, module: nn.Module, modules: Mapping[str, nn.Module]) -> str | None:
    parent, _, attribute = name.rpartition(".")
    beside = {child for child, _ in modules[parent].named_children()} if parent in modules else set()
    if attribute in _NAMES and not (attribute == "neck" and _EMBEDDING & beside):
        return _NAMES[attribute]
    needed = _EXTRA if attribute == "extra" else _BACKBONES
    if attribute in _BESIDE and needed & (beside - {attribute}):
        return _BESIDE[attribute]
    return next((kind for pattern, kind in _CLASSES if pattern.search(type(module).__name__)), None)
