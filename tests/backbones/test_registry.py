"""If these fail, a name does not give the network it promises: wrong maps, wrong input, dead parameters or no help."""

from __future__ import annotations

import pytest
import torch

from dyvision.backbones import create_backbone, create_model, list_backbones, register_backbone
from dyvision.backbones.registry import _BUILDERS

SMALL = [
    "mobilenetv2_035",
    "mobilenetv3_small_050",
    "tf_mobilenetv3_small_100",
    "mobilenetv4_conv_small",
    "mobilenetv4_conv_small_relu6",
    "tf_efficientnet_lite0",
    "resnet18",
    "regnetx_002",
    "regnety_002",
    "convnext_atto",
    "shufflenetv2_050",
    "test_resnet",
    "test_convnext",
    "test_efficientnet",
    "test_byobnet",
]


def test_listing_is_in_natural_order_and_takes_wildcards():
    names = list_backbones("resnet*")
    assert names.index("resnet18") < names.index("resnet50") < names.index("resnet101")
    assert list_backbones("shufflenetv2_*") == [f"shufflenetv2_{width}" for width in ("050", "100", "150", "200")]
    assert list_backbones("nothing*") == []
    assert set(SMALL) <= set(list_backbones())


LARGE = ("base", "small", "101", "152", "_b2", "lite2", "140", "120d", "d", "_032", "_016", "wide", "xt50")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name not in SMALL and name.endswith(LARGE) else [])
        for name in list_backbones()
    ],
)
def test_every_listed_backbone_states_its_maps(name):
    with torch.device("meta"):
        backbone = create_backbone(name, out_indices=4 if "convnext" in name else 5)
        maps = backbone.eval()(torch.empty(1, 3, 64, 96))
    info = backbone.feature_info
    assert [(m.shape[1], m.shape[2] * r, m.shape[3] * r) for m, r in zip(maps, info.reduction(), strict=True)] == [
        (channels, 64, 96) for channels in info.channels()
    ]


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", SMALL)
def test_maps_at_every_output_stride(name, output_stride):
    backbone = create_backbone(name, output_stride=output_stride).eval()
    info = backbone.feature_info
    assert info.reduction() == [min(r, output_stride) for r in (4, 8, 16, 32)]
    maps = backbone(torch.randn(2, 3, 64, 96))
    expected = [(2, c, 64 // r, 96 // r) for c, r in zip(info.channels(), info.reduction(), strict=True)]
    assert [tuple(m.shape) for m in maps] == expected
    assert all(m.isfinite().all() for m in backbone(torch.randn(1, 3, 97, 65)))


@pytest.mark.parametrize("name", ["mobilenetv2_035", "resnet18", "regnetx_002", "shufflenetv2_050"])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_a_dilated_network_computes_the_same_at_common_positions(name, output_stride):
    plain = create_backbone(name, out_indices=5).eval()
    dilated = create_backbone(name, out_indices=5, output_stride=output_stride).eval()
    dilated.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 65, 97)
    reductions = zip(plain.feature_info.reduction(), dilated.feature_info.reduction(), strict=True)
    for coarse, fine, (r, kept) in zip(plain(x), dilated(x), reductions, strict=True):
        torch.testing.assert_close(fine[..., :: r // kept, :: r // kept], coarse)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "mobilenetv4_conv_small"])
def test_own_dilation_is_that_of_timm(name):
    import timm

    ours = create_backbone(name, out_indices=5, output_stride=8).eval()
    theirs = timm.create_model(name, features_only=True, output_stride=8).eval()
    theirs.load_state_dict(ours.body.state_dict())
    x = torch.randn(1, 3, 64, 80)
    for a, b in zip(ours(x), theirs(x), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("out_indices", [None, (0,), (1, 2)])
def test_every_parameter_is_used(name, out_indices):
    backbone = create_backbone(name, out_indices=out_indices)
    sum(m.square().mean() for m in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert [key for key, parameter in backbone.named_parameters() if parameter.grad is None] == []


def test_out_indices_keep_their_order_and_count_from_the_end():
    backbone = create_backbone("test_resnet", out_indices=(-1, 1)).eval()
    assert backbone.out_indices == (4, 1)
    assert backbone.feature_info.reduction() == [32, 4]
    assert [m.shape[-1] for m in backbone(torch.randn(1, 3, 64, 64))] == [2, 16]
    assert create_backbone("test_resnet", out_indices=2).out_indices == (3, 4)


def test_body_keeps_the_names_of_the_classifier():
    for name in ("mobilenetv2_035", "shufflenetv2_050"):
        classifier = create_model(name)
        backbone = create_backbone(name)
        assert {key.removeprefix("body.") for key in backbone.state_dict()} <= set(classifier.state_dict())


@pytest.mark.parametrize("name", ["mobilenetv2_035", "shufflenetv2_050", "test_convnext"])
@pytest.mark.parametrize("in_chans", [1, 4])
def test_in_chans(name, in_chans):
    x = torch.randn(2, in_chans, 64, 64)
    assert create_model(name, in_chans=in_chans, num_classes=7).eval()(x).shape == (2, 7)
    assert len(create_backbone(name, in_chans=in_chans).eval()(x)) == 4


def test_shufflenet_is_torchvisions():
    from torchvision.models import shufflenet_v2_x0_5

    reference = shufflenet_v2_x0_5().eval()
    ours = create_model("shufflenet_v2_x0_5").eval()
    ours.load_state_dict(reference.state_dict())
    x = torch.randn(2, 3, 64, 80)
    torch.testing.assert_close(ours(x), reference(x))
    assert create_model("shufflenetv2_050", num_classes=0).eval()(x).shape == (2, 1024)


@pytest.mark.parametrize("name", ["mobilenetv2_035", "shufflenetv2_050"])
def test_gradient_checkpointing_changes_nothing(name):
    backbone = create_backbone(name).train()
    x = torch.randn(2, 3, 64, 64)
    gradients = []
    for enable in (False, True):
        backbone.set_grad_checkpointing(enable)
        backbone.zero_grad()
        sum(m.square().mean() for m in backbone(x)).backward()
        gradients.append([parameter.grad.clone() for parameter in backbone.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_drop_path_rate_reaches_the_network():
    body = create_backbone("mobilenetv2_035", drop_path_rate=0.3).body
    assert max(getattr(m, "drop_prob", 0.0) for m in body.modules()) > 0.2


def test_other_timm_networks_work():
    backbone = create_backbone("ghostnet_050").eval()
    assert [m.shape[1] for m in backbone(torch.randn(1, 3, 64, 64))] == backbone.feature_info.channels()


def test_a_name_is_registered_once():
    @register_backbone("test_own_network")
    def build(**kwargs):
        return create_model("test_resnet", num_classes=kwargs["num_classes"])

    try:
        assert "test_own_network" in list_backbones("test_own*")
        assert create_model("test_own_network", num_classes=3).num_classes == 3
        with pytest.raises(ValueError, match="registered already"):
            register_backbone("test_own_network")(build)
        with pytest.raises(ValueError, match="registered already"):
            register_backbone("resnet18")(build)
    finally:
        del _BUILDERS["test_own_network"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: create_model("mobilnetv2_100"), "unknown backbone 'mobilnetv2_100'.*mobilenetv2_100"),
        (lambda: create_model("shufflenetv2_10"), "shufflenetv2_100"),
        (lambda: create_model("zzz"), "list_backbones"),
        (lambda: create_model(""), "chosen by its name"),
        (lambda: create_model("resnet18", "dcdd"), "dcd"),
        (lambda: create_model("resnet18", num_classes=-1), "num_classes must be an integer of at least 0, not -1"),
        (lambda: create_model("resnet18", in_chans=0), "in_chans must be an integer of at least 1"),
        (lambda: create_model("resnet18", drop_rate=1.5), r"drop_rate must be in \[0, 1\)"),
        (lambda: create_model("resnet18", num_kernels=4), "'static' takes no arguments.*num_kernels"),
        (lambda: create_model("shufflenetv2_050", drop_path_rate=0.1), "no residual connections"),
        (lambda: create_backbone("resnet18", output_stride=4), "output_stride must be 8, 16 or 32, not 4"),
        (
            lambda: create_backbone("resnet18.nonsense"),
            "no weights named 'nonsense'; give resnet18.*, or 'resnet18' alone",
        ),
        (lambda: create_backbone("resnet18.a1_in1"), "give resnet18.a1_in1k"),
        (lambda: create_backbone("resnet18."), "no weights named ''"),
        (lambda: create_backbone("densenet121", output_stride=8), "densenet121 does not support output_stride=8"),
        (lambda: create_backbone("resnet18", out_indices=(5,)), "no level 5; resnet18 has 5 levels, 0 to 4"),
        (lambda: create_backbone("convnext_atto", out_indices=(-5,)), "has 4 levels"),
        (lambda: create_model("resnet10", pretrained=True), "no pretrained weights for resnet10"),
        (lambda: create_model("resnet10", pretrained=True, drop_path_rate=0.1), "no pretrained weights for resnet10"),
        (lambda: create_backbone("resnet18", out_indices=()), "at least one level"),
        (lambda: create_backbone("resnet18", out_indices=9), "out_indices=9"),
        (lambda: create_backbone("resnet18", out_indices="ab"), "must be None, 'all' or integers"),
    ],
)
def test_wrong_arguments_say_what_is_expected(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("create", "layer", "given", "close"),
    [
        (create_model, "dyconv", "drop_path", "drop_path_rate"),
        (create_model, "static", "num_clases", "num_classes"),
        (create_backbone, "dcd", "output_strides", "output_stride"),
        (create_backbone, "dyconv", "num_kernel", "num_kernels"),
    ],
)
def test_misspelt_arguments_are_named_before_anything_is_built(create, layer, given, close) -> None:
    with pytest.raises(ValueError, match=f"{create.__name__} has no.* {given!r} .did you mean {close!r}"):
        create("resnet_that_does_not_exist", layer, **{given: 1})
