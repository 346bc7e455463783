"""Segmentation on any backbone: heads by name, their losses, and inference on whole images or windows."""

from dyvision.tasks.heads.segmentation.create import (
    Features,
    OneLevelHead,
    TwoLevelHead,
    build_deeplabv3,
    build_fcn,
    build_lraspp,
    create_segmentation_head,
    default_output_stride,
    list_segmentation_heads,
    register_segmentation_head,
    resolve_head,
)
from dyvision.tasks.heads.segmentation.inference import Inference, resize_logits, segment
from dyvision.tasks.heads.segmentation.losses import OHEMLoss, SegmentationLoss
from dyvision.tasks.heads.segmentation.mmseg import MMSEG_HEADS, build_mmseg_head

__all__ = (
    "MMSEG_HEADS",
    "Features",
    "Inference",
    "OHEMLoss",
    "OneLevelHead",
    "SegmentationLoss",
    "TwoLevelHead",
    "build_deeplabv3",
    "build_fcn",
    "build_lraspp",
    "build_mmseg_head",
    "create_segmentation_head",
    "default_output_stride",
    "list_segmentation_heads",
    "register_segmentation_head",
    "resize_logits",
    "resolve_head",
    "segment",
)
