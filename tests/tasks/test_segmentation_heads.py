"""If these failed, a head would not fit a backbone, or would crash in training on some image."""

from __future__ import annotations

import sys

import pytest
import torch
from timm.models import FeatureInfo
from torch import nn

from dyvision.backbones import create_backbone
from dyvision.tasks.heads import list_heads
from dyvision.tasks.heads.norm import guard_batch_norms
from dyvision.tasks.heads.segmentation import create_segmentation_head, default_output_stride
from dyvision.tasks.heads.segmentation.mmseg import MMSEG_HEADS

CHANNELS, REDUCTION = [6, 10, 12, 20], [4, 8, 16, 32]
OWN = [name for name in list_heads("segmentation") if name not in MMSEG_HEADS]


def feature_info(channels: list[int] = CHANNELS, reduction: list[int] = REDUCTION) -> FeatureInfo:
    levels = [{"num_chs": c, "reduction": r, "module": ""} for c, r in zip(channels, reduction, strict=True)]
    return FeatureInfo(levels, tuple(range(len(levels))))


def feature_maps(batch: int = 2, height: int = 40, width: int = 33) -> list[torch.Tensor]:
    return [torch.rand(batch, c, -(-height // r), -(-width // r)) for c, r in zip(CHANNELS, REDUCTION, strict=True)]


@pytest.mark.parametrize("head", OWN)
@pytest.mark.parametrize("batch", [1, 2])
def test_own_heads_train_on_any_batch(head, batch):
    """Batch 1 with an image pooling branch: its BatchNorm sees one value per channel."""
    module = create_segmentation_head(head, feature_info(), 3)
    logits = module(feature_maps(batch))
    assert logits.shape[:2] == (batch, 3)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_arguments_and_levels():
    head = create_segmentation_head({"name": "deeplabv3", "channels": 8, "atrous_rates": [2, 3]}, feature_info(), 3)
    dilations = [
        module.dilation for module in head.modules() if isinstance(module, nn.Conv2d) and module.dilation != (1, 1)
    ]
    assert dilations == [(2, 2), (3, 3)]
    fcn = create_segmentation_head({"name": "fcn", "in_index": 1, "channels": 5}, feature_info(), 3)
    assert fcn(feature_maps())[0].shape == (3, 5, 5)
    auxiliary = create_segmentation_head("fcn", feature_info(), 3, auxiliary=True)
    assert auxiliary(feature_maps())[0].shape == (3, 3, 3)
    # LR-ASPP reads stride 8, where there is one
    lraspp = create_segmentation_head("lraspp", feature_info(), 3)
    assert lraspp(feature_maps())[0].shape == (3, 5, 5)


def test_deeplabv3_is_torchvisions():
    from torchvision.models.segmentation.deeplabv3 import DeepLabHead

    theirs = DeepLabHead(20, 3, (12, 24, 36)).eval()
    ours = create_segmentation_head("deeplabv3", feature_info(), 3).eval()
    ours.layers.load_state_dict(theirs.state_dict())
    maps = feature_maps()
    torch.testing.assert_close(ours(maps), theirs(maps[-1]))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("deeplabv4", "unknown head 'deeplabv4'; did you mean 'deeplabv3'"),
        ({"name": "fcn", "chanels": 3}, "has no argument 'chanels'; did you mean.*'channels'"),
        ({"name": "fcn", "in_index": 4}, "the backbone has 4 levels"),
        ({"class_path": "torch.nn.Identity"}, "returns"),
        ({"class_path": "torch.nn.Identiti"}, "Identity"),
        ({"nam": "fcn"}, "exactly one of"),
    ],
)
def test_errors(head, message):
    with pytest.raises(ValueError, match=message):
        create_segmentation_head(head, feature_info(), 3)


def test_class_by_path():
    spec = {"class_path": f"{PyramidSum.__module__}.PyramidSum", "init_args": {"width": 4}}
    sys.modules.setdefault(PyramidSum.__module__, sys.modules[__name__])
    head = create_segmentation_head(spec, feature_info(), 3)
    assert head(feature_maps())[0].shape == (3, 10, 9)


class PyramidSum(nn.Module):
    def __init__(self, in_channels: list[int], num_classes: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels[0], width, 1)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, maps):
        return self.classifier(self.first(maps[0]))


def test_guarded_norms_have_the_weights_and_values_they_had():
    head = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    x, one = torch.rand(2, 3, 5, 6), torch.rand(1, 3, 1, 1)
    expected, state = head(x), {name: value.clone() for name, value in head.state_dict().items()}
    evaluated = head.eval()(one)
    guarded = guard_batch_norms(head.train())
    assert list(guarded.state_dict()) == list(state)
    torch.testing.assert_close(guarded(one), evaluated)
    torch.testing.assert_close(guarded(x), expected)


def test_lists_and_strides():
    assert {"deeplabv3", "UPerHead"} <= set(list_heads("segmentation"))
    with pytest.raises(ValueError, match="detection, segmentation"):
        list_heads("classification")
    assert default_output_stride("UPerHead") == 32
    assert default_output_stride("deeplabv3") == default_output_stride({"type": "ASPPHead"}) == 16


def test_without_mmseg_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mmseg.registry", None)
    monkeypatch.setitem(sys.modules, "mmseg.models.decode_heads.decode_head", None)
    monkeypatch.setitem(sys.modules, "mmseg.models.decode_heads.cascade_decode_head", None)
    with pytest.raises(ImportError, match=r'pip install "dyvision\[mmseg\]"'):
        create_segmentation_head("UPerHead", feature_info(), 3)


class TestMmseg:
    """Heads of mmseg on a real backbone."""

    @pytest.fixture(autouse=True)
    def _mmseg(self):
        pytest.importorskip("mmseg")

    @pytest.mark.parametrize("head", sorted(set(MMSEG_HEADS) - {"CCHead", "LRASPPHead"}))
    def test_trains_on_one_image(self, head):
        """CCHead needs mmcv's compiled operators, LRASPPHead maps of 49 x 49: both are mmseg's own limits."""
        backbone = create_backbone("mobilenetv2_035", output_stride=default_output_stride(head))
        module = create_segmentation_head({"type": head, "channels": 16}, backbone.feature_info, 3)
        logits = module(backbone(torch.rand(1, 3, 64, 48)))
        assert logits.shape[:2] == (1, 3)
        logits.sum().backward()
        assert [name for name, p in module.named_parameters() if p.grad is None and p.requires_grad] == []

    def test_inputs_are_filled_in(self):
        head = create_segmentation_head("UPerHead", feature_info(), 3)
        assert (list(head.in_channels), list(head.in_index)) == (CHANNELS, [0, 1, 2, 3])
        head = create_segmentation_head({"type": "FCNHead", "in_index": [1, 2]}, feature_info(), 3)
        assert (head.in_channels, head.input_transform) == (22, "resize_concat")
        head = create_segmentation_head("FCNHead", feature_info(), 3, auxiliary=True)
        assert (head.in_channels, head.in_index) == (12, -2)
        head = create_segmentation_head("DepthwiseSeparableASPPHead", feature_info(), 3)
        assert head.c1_bottleneck.conv.in_channels == 6
        head = create_segmentation_head("LRASPPHead", feature_info(), 3)
        assert head([torch.rand(1, c, 64, 64) for c in CHANNELS]).shape[1] == 3

    @pytest.mark.parametrize(
        ("head", "message"),
        [
            ({"type": "UPerHeed"}, "did you mean 'UPerHead'"),
            ({"type": "OCRHead", "ocr_channels": 8}, "cascade"),
            ({"type": "DDRHead"}, "feature maps alone"),
            ({"type": "PSPHead", "pool_scale": [1]}, "did you mean 'pool_scales'"),
            ({"type": "PSPHead", "in_index": 9}, "4 levels"),
            ({"type": "PSPHead", "loss_decode": {}}, "the task computes the loss"),
            ({"type": "DAHead", "pam_channels": 8}, "returns tuple"),
        ],
    )
    def test_errors(self, head, message):
        with pytest.raises(ValueError, match=message):
            create_segmentation_head(head, feature_info(), 3)
