"""Detectors on any backbone: one head a file, built by name in ``create``."""

from dyvision.tasks.heads.detection.create import (
    Detector,
    build_condinst,
    build_faster_rcnn,
    build_fcos,
    build_mask_rcnn,
    build_retinanet,
    build_ssdlite,
    check_head,
    create_detector,
    list_detection_heads,
    register_detection_head,
)

__all__ = (
    "Detector",
    "build_condinst",
    "build_faster_rcnn",
    "build_fcos",
    "build_mask_rcnn",
    "build_retinanet",
    "build_ssdlite",
    "check_head",
    "create_detector",
    "list_detection_heads",
    "register_detection_head",
)
