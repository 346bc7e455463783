"""If these fail, other convolutions than those of the papers become dynamic, or a wrong policy goes unnoticed."""

from __future__ import annotations

import pytest
import torchvision
from torch import nn

from dyvision.backbones import create_model, dynamize, list_policies
from dyvision.convert._sites import find_convs
from dyvision.convert.policies import select_convs


def names(model, policy):
    return [site.name for site in select_convs(model, policy)]


@pytest.fixture(scope="module")
def mobilenetv2():
    return create_model("mobilenetv2_100")


def test_condconv_on_mobilenetv2_is_the_last_six_blocks(mobilenetv2):
    blocks = ("4.1", "4.2", "5.0", "5.1", "5.2", "6.0")
    expected = [f"blocks.{block}.{conv}" for block in blocks for conv in ("conv_pw", "conv_dw", "conv_pwl")]
    assert names(mobilenetv2, "condconv") == expected


def test_condconv_on_efficientnet_is_the_last_three_stages():
    chosen = names(create_model("efficientnet_b0"), "condconv")
    assert {name.split(".")[1] for name in chosen} == {"4", "5", "6"}
    assert len(chosen) == 24 and not any(".se." in name for name in chosen)


def test_dcd_on_mobilenetv2_is_both_1x1_of_the_16_expanding_blocks(mobilenetv2):
    chosen = names(mobilenetv2, "dcd")
    assert len(chosen) == 32
    assert all(name.endswith(("conv_pw", "conv_pwl")) for name in chosen)
    assert not any(name.startswith("blocks.0.") for name in chosen)


def test_dyconv_is_everything_but_the_stem(mobilenetv2):
    assert len(names(mobilenetv2, "dyconv")) == 51
    assert set(names(mobilenetv2, "all")) - set(names(mobilenetv2, "dyconv")) == {"conv_stem"}


def test_resnet():
    model = create_model("resnet18")
    main_path = [f"layer{stage}.{block}.conv{i}" for stage in range(1, 5) for block in range(2) for i in (1, 2)]
    shortcuts = [f"layer{stage}.0.downsample.0" for stage in range(2, 5)]
    assert all(names(model, policy) == main_path for policy in ("blocks", "dcd", "dynet", "spatial"))
    assert sorted(names(model, "dyconv")) == sorted(main_path + shortcuts)
    assert sorted(names(model, "all")) == sorted(["conv1", *main_path, *shortcuts])
    assert names(model, "condconv") == main_path[-6:]  # 3 of 8 blocks
    with pytest.raises(ValueError, match="policy 'pointwise' selects none of the 20 convolutions"):
        select_convs(model, "pointwise")


def test_drconv_is_the_1x1_of_separable_blocks_and_the_3x3_of_others(mobilenetv2):
    assert names(mobilenetv2, "drconv") == names(mobilenetv2, "pointwise")
    resnet = create_model("resnet50")
    assert names(resnet, "drconv") == [f"layer{s + 1}.{b}.conv2" for s, n in enumerate((3, 4, 6, 3)) for b in range(n)]


def test_shufflenet():
    model = create_model("shufflenetv2_050")
    # a strided unit has three 1x1 and two depthwise convolutions, the other 13 have two and one
    assert len(names(model, "dcd")) == len(names(model, "pointwise")) == 3 * 3 + 13 * 2
    assert len(names(model, "spatial")) == 3 * 2 + 13
    assert set(names(model, "dyconv")) - set(names(model, "dynet")) == {"conv5.0"}


def test_roles_on_torchvision_networks():
    regnet = {site.name: site.role for site in find_convs(torchvision.models.regnet_y_400mf())}
    assert regnet["stem.0"] == "stem"
    assert regnet["trunk_output.block1.block1-0.proj.0"] == "shortcut"
    assert regnet["trunk_output.block1.block1-0.f.se.fc1"] == "attention"
    assert regnet["trunk_output.block1.block1-0.f.b.0"] == "block"
    squeezenet = {site.name: site.role for site in find_convs(torchvision.models.squeezenet1_1())}
    assert squeezenet["classifier.1"] == "classifier" and squeezenet["features.3.squeeze"] == "block"
    convnext = {site.name: site.role for site in find_convs(torchvision.models.convnext_tiny())}
    assert convnext["features.2.1"] == "transition"


def test_attention_and_classifiers_are_never_selected():
    for name in ("efficientnet_b0", "regnety_002", "mobilenetv3_small_050", "test_byobnet"):
        assert not [n for n in names(create_model(name), "all") if {"se", "attn"} & set(n.split("."))]
    assert "classifier.1" not in names(torchvision.models.squeezenet1_1(), "all")
    with pytest.raises(ValueError, match="nor matches"):
        select_convs(create_model("regnety_002"), "*.se.fc1")


def test_patterns_and_functions(mobilenetv2):
    assert names(mobilenetv2, "blocks.3.*.conv_dw") == [f"blocks.3.{i}.conv_dw" for i in range(4)]
    assert names(mobilenetv2, ["conv_head", "conv_stem"]) == ["conv_stem", "conv_head"]
    assert len(names(mobilenetv2, lambda name, conv: conv.kernel_size == (3, 3))) == 18


def test_networks_without_known_blocks():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1))
    assert names(model, "dyconv") == names(model, "blocks") == ["2", "3"]
    assert names(create_model("vgg11_bn"), "blocks")[0] == "features.4"


@pytest.mark.parametrize(
    ("policy", "error", "message"),
    [
        ("dyconf", ValueError, "dyconf.*dyconv"),
        (["layer4.*", "layr3.0.conv1"], ValueError, "'layr3.0.conv1'.*layer3.0.conv1"),
        (lambda name, conv: False, ValueError, "the given policy selects none"),
        (3, TypeError, "policy must be a name"),
    ],
)
def test_wrong_policies(policy, error, message):
    with pytest.raises(error, match=message):
        dynamize(create_model("test_resnet"), "dyconv", policy=policy)


def test_models_without_convolutions():
    with pytest.raises(ValueError, match="Sequential has no convolution that can become dynamic"):
        dynamize(nn.Sequential(nn.Linear(3, 3)), "dyconv")


def test_every_policy_has_something_to_select_on_every_kind_of_network():
    for name in ("mobilenetv2_035", "convnext_atto", "convnext_tiny", "regnetx_002", "shufflenetv2_050"):
        model = create_model(name)
        # ConvNeXt's 1x1 convolutions are linear layers but in its smallest variants
        policies = [policy for policy in list_policies() if (name, policy) != ("convnext_tiny", "pointwise")]
        assert all(names(model, policy) for policy in policies)


@pytest.mark.parametrize("layer", ["condconv", "dcd", "se"])
def test_a_second_call_of_a_policy_changes_nothing(layer) -> None:
    """Blocks that are dynamic already are counted: the last third stays the last third."""
    from dyvision.layers import DynamicConv2d

    model = dynamize(torchvision.models.resnet18(), layer=layer)
    first = [name for name, module in model.named_modules() if isinstance(module, DynamicConv2d)]
    for _ in range(3):
        with pytest.raises(ValueError, match="dynamic already"):
            dynamize(model, layer=layer)
    assert [name for name, module in model.named_modules() if isinstance(module, DynamicConv2d)] == first


def test_a_policy_that_selects_nothing_names_those_that_would() -> None:
    model = create_model("resnet18")
    with pytest.raises(ValueError, match="'pointwise' selects none of the 20 convolutions of ResNet") as caught:
        dynamize(model, "dyconv", policy="pointwise")
    told = str(caught.value)
    every, _, others = told.partition("try policy=")[2].partition(", or ")
    assert every == f"'all', which selects {len(names(model, 'all'))}"
    for policy in list_policies():
        if policy in ("all", "pointwise"):
            continue
        parts = others.split("; ")
        part = next(part for part in parts if policy in part.partition(" (")[0].split(", "))
        assert part.endswith(f"({len(names(model, policy))})")
    assert "pointwise" not in others


def test_the_hidden_layers_of_vggs_classifier_stay_static() -> None:
    import torch

    with torch.device("meta"):
        model = create_model("vgg11")
    for layer in ("condconv", "dyconv", "odconv", "dcd"):
        assert not any(name.startswith("pre_logits") for name in names(model, layer))
    roles = {site.name: site.role for site in find_convs(model)}
    assert roles["pre_logits.fc1"] == roles["pre_logits.fc2"] == "classifier"
