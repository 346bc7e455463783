"""If these fail, pyramids, decoders and heads become dynamic unasked, or roles in networks of strangers are wrong."""

from __future__ import annotations

import collections

import pytest
import timm
import torch
import torchvision
from torch import nn

import dyvision
from dyvision.convert._sites import find_convs
from dyvision.layers import DynamicConv2d

NOTHING = {"weights": None, "weights_backbone": None}
DETECTION = torchvision.models.detection
SEGMENTATION = torchvision.models.segmentation


def _roles(model):
    return {site.name: site.role for site in find_convs(model)}


def _dynamic(model):
    return [name for name, module in model.named_modules() if isinstance(module, DynamicConv2d)]


@pytest.mark.parametrize(
    ("build", "backbone", "pattern"),
    [
        (DETECTION.fasterrcnn_mobilenet_v3_large_320_fpn, "backbone.body.", "backbone.fpn.*"),
        (DETECTION.maskrcnn_resnet50_fpn, "backbone.body.", "roi_heads.mask_head.*"),
        (DETECTION.retinanet_resnet50_fpn, "backbone.body.", "head.classification_head.conv.*"),
        (DETECTION.fcos_resnet50_fpn, "backbone.body.", "head.*"),
        (DETECTION.ssdlite320_mobilenet_v3_large, "backbone.features.", "backbone.extra.*"),
        (SEGMENTATION.deeplabv3_mobilenet_v3_large, "backbone.", "classifier.0.*"),
        (SEGMENTATION.lraspp_mobilenet_v3_large, "backbone.", "classifier.cbr.*"),
    ],
)
def test_only_the_backbone_of_torchvisions_models_becomes_dynamic(build, backbone, pattern):
    with torch.device("meta"):
        model = build(**NOTHING)
    _, report = dyvision.dynamize(model, "se", "dyconv", preserve_outputs=False, return_report=True)
    assert _dynamic(model) and all(name.startswith(backbone) for name in _dynamic(model))
    left = [reason for reason in report.static.values() if "left alone unless policy='all'" in reason]
    assert left and any("left alone" in remark for remark in report.remarks())
    with torch.device("meta"):
        model = build(**NOTHING)
    dyvision.dynamize(model, "se", pattern, preserve_outputs=False)
    assert _dynamic(model) and not any(name.startswith(f"{backbone}0") for name in _dynamic(model))


def test_scores_and_boxes_are_never_dynamic_whatever_the_policy():
    for build in (DETECTION.retinanet_resnet50_fpn, SEGMENTATION.deeplabv3_resnet50):
        with torch.device("meta"):
            model = build(**NOTHING)
        dyvision.dynamize(model, "se", "all", preserve_outputs=False)
        last = [name for name, module in model.named_modules() if type(module) is nn.Conv2d]
        expected = {"head.classification_head.cls_logits", "head.regression_head.bbox_reg", "classifier.4"}
        assert last and set(last) <= expected


def test_the_same_words_in_a_classifier_are_no_parts():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
            self.head = nn.Sequential(nn.Conv2d(4, 8, 1))
            self.decoder = nn.Conv2d(8, 4, 1)

    assert set(_roles(Net()).values()) == {"stem", "block"}


def test_an_encoder_and_a_decoder():
    class Coder(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
            self.decoder = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 3, 3))

    assert _roles(Coder())["decoder.0"] == "part" and _roles(Coder())["encoder.1"] == "block"
    model, report = dyvision.dynamize(Coder(), "dyconv", return_report=True)
    assert _dynamic(model) == ["encoder.1"]
    assert "decoder is a decoder" in report.static["decoder.1"]
    assert len(_dynamic(dyvision.dynamize(Coder(), "dyconv", policy="all"))) == 4
    assert len(_dynamic(dyvision.dynamize(Coder().decoder, "dyconv"))) == 1


class ResNetBasicLayer(nn.Module):
    """As transformers names and nests it."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.shortcut = nn.Sequential(collections.OrderedDict(convolution=nn.Conv2d(inputs, outputs, 1)))
        names = ("convolution", "normalization")
        pairs = [(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs))]
        pairs += [(nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs))]
        self.layer = nn.Sequential(
            *(nn.Sequential(collections.OrderedDict(zip(names, pair, strict=True))) for pair in pairs)
        )

    def forward(self, hidden_state):
        return self.layer(hidden_state) + self.shortcut(hidden_state)


class EfficientNetSqueezeExciteLayer(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedder = nn.Sequential(collections.OrderedDict(convolution=nn.Conv2d(3, 4, 7)))
        self.encoder = nn.Module()
        self.encoder.stages = nn.ModuleList(nn.ModuleList([ResNetBasicLayer(4, 4)]) for _ in range(2))
        self.encoder.squeeze_excite = EfficientNetSqueezeExciteLayer(4)


def test_roles_where_a_block_is_called_a_layer():
    roles = _roles(Classifier())
    assert roles["embedder.convolution"] == "stem"
    assert roles["encoder.stages.1.0.layer.0.convolution"] == "block"
    assert roles["encoder.stages.1.0.shortcut.convolution"] == "shortcut"
    assert roles["encoder.squeeze_excite.reduce"] == "attention"
    model = dyvision.dynamize(Classifier(), "condconv", policy="blocks")
    assert hasattr(model.encoder.stages[1][0], "coefficient_branch")


def test_transformers_models():
    transformers = pytest.importorskip("transformers")
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1]}
    resnet = _roles(transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes)))
    assert collections.Counter(resnet.values()) == {"stem": 1, "block": 9, "shortcut": 1}
    regnet = transformers.RegNetForImageClassification(transformers.RegNetConfig(**sizes, groups_width=4))
    assert collections.Counter(_roles(regnet).values()) == {"stem": 1, "block": 9, "shortcut": 2, "attention": 6}
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)
    convnext = _roles(transformers.ConvNextForImageClassification(config))
    assert sorted(convnext.values()) == ["block", "block", "stem", "transition"]
    config = transformers.SegformerConfig(hidden_sizes=[8, 8, 8, 8], decoder_hidden_size=8, depths=[1, 1, 1, 1])
    segformer = _roles(transformers.SegformerForSemanticSegmentation(config))
    assert segformer["decode_head.linear_fuse"] == "part" and segformer["decode_head.classifier"] == "classifier"
    model = transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes)).eval()
    x = torch.randn(1, 3, 64, 64)
    expected = model(x).logits
    dyvision.dynamize(model, "condconv", policy="blocks")
    assert type(model).__name__ == "ResNetForImageClassification" and model.config.depths == [2, 1]
    torch.testing.assert_close(model(x).logits, expected, rtol=1e-3, atol=1e-4)


def test_segmentation_models_pytorch():
    smp = pytest.importorskip("segmentation_models_pytorch")
    for name in ("Unet", "FPN", "DeepLabV3Plus", "UPerNet"):
        model = dyvision.dynamize(getattr(smp, name)("resnet18", encoder_weights=None), "se", "dyconv")
        assert _dynamic(model) and all(layer.startswith("encoder.") for layer in _dynamic(model))


def test_the_neck_of_sams_image_encoder_belongs_to_the_encoder():
    with torch.device("meta"):
        model = timm.create_model("samvit_base_patch16", img_size=64, num_classes=0)
    roles = _roles(model)
    assert roles == {"patch_embed.proj": "stem", "neck.0": "block", "neck.2": "block"}


def test_a_neck_beside_a_backbone_is_a_pyramid():
    network = nn.Module()
    network.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    network.neck = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3))
    roles = _roles(network)
    assert [roles[f"neck.{index}"] for index in (0, 1)] == ["part", "part"]
