"""Networks by name, their convolutions static or dynamic, as classifiers or as feature pyramids."""

from dyvision.backbones.base import mobilenetv4, resnet10, shufflenetv2  # these and the next register their names
from dyvision.backbones.create import create_backbone, create_model
from dyvision.backbones.features import Backbone
from dyvision.backbones.preprocessing import default_preprocessing
from dyvision.backbones.published import (
    dynet_mobilenetv2,
    dynet_mobilenetv3,
    dynet_resnet,
    dynet_shufflenetv2,
    kernelwarehouse,
    weightnet_shufflenetv2,
)
from dyvision.backbones.registry import list_backbones, register_backbone
from dyvision.backbones.weights import LoadReport, load_backbone_weights, read_state_dict
from dyvision.convert import dynamize, fuse, list_policies

__all__ = (
    "Backbone",
    "LoadReport",
    "create_backbone",
    "create_model",
    "default_preprocessing",
    "dynamize",
    "dynet_mobilenetv2",
    "dynet_mobilenetv3",
    "dynet_resnet",
    "dynet_shufflenetv2",
    "fuse",
    "kernelwarehouse",
    "list_backbones",
    "list_policies",
    "load_backbone_weights",
    "mobilenetv4",
    "read_state_dict",
    "register_backbone",
    "resnet10",
    "shufflenetv2",
    "weightnet_shufflenetv2",
)
