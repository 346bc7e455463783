"""Networks by name, their convolutions static or dynamic, as classifiers or as feature pyramids."""

from dyvision.backbones import (  # register their names
    dynet_mobilenetv2,
    dynet_mobilenetv3,
    dynet_resnet,
    dynet_shufflenetv2,
    kernelwarehouse,
    mobilenetv4,
    resnet10,
    shufflenetv2,
    weightnet_shufflenetv2,
)
from dyvision.backbones._features import Backbone
from dyvision.backbones._registration import list_backbones, register_backbone
from dyvision.backbones._registry import create_backbone, create_model
from dyvision.backbones._weights import LoadReport, load_backbone_weights, read_state_dict
from dyvision.convert import dynamize, fuse, list_policies

__all__ = (
    "Backbone",
    "LoadReport",
    "create_backbone",
    "create_model",
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
