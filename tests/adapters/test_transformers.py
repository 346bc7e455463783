"""dyvision's networks as backbones of transformers."""

from __future__ import annotations

import pytest
import torch

from dyvision.layers import CoefficientBranch, DynamicConv2d, list_layers

transformers = pytest.importorskip("transformers")
pytest.importorskip("transformers.backbone_utils")

import dyvision.adapters.timm  # noqa: E402
from dyvision.adapters.transformers import DyVisionBackbone, DyVisionBackboneConfig  # noqa: E402

LEVELS = {"out_indices": [1, 2, 3, 4]}
SMALL = {"hidden_size": 16, "auxiliary_channels": 16, "auxiliary_in_channels": 192, "num_labels": 3}


def assert_trains_and_comes_back(config, tmp_path) -> None:
    torch.manual_seed(0)
    model = transformers.UperNetForSemanticSegmentation(config).train()
    assert any(isinstance(module, DynamicConv2d) for module in model.modules())
    x, labels = torch.randn(2, 3, 64, 64), torch.randint(3, (2, 64, 64))
    model(x, labels=labels).loss.backward()
    assert all(parameter.grad is not None for parameter in model.backbone.parameters())
    model.eval().save_pretrained(tmp_path)
    again = transformers.UperNetForSemanticSegmentation.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(x).logits, model(x).logits)
    assert len(list(again.parameters())) == len(list(model.parameters())), "what was shared is shared"
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


@pytest.mark.parametrize("layer", [layer for layer in list_layers() if layer != "static"])
def test_upernet_trains_and_comes_back(layer, tmp_path) -> None:
    backbone = DyVisionBackboneConfig(network="test_resnet", layer=layer, **LEVELS)
    assert_trains_and_comes_back(transformers.UperNetConfig(backbone_config=backbone, **SMALL), tmp_path)


def test_timm_backbone_trains_and_comes_back(tmp_path) -> None:
    backbone = transformers.TimmBackboneConfig(backbone="dyvision_test_resnet_dcd", **LEVELS)
    assert_trains_and_comes_back(transformers.UperNetConfig(backbone_config=backbone, **SMALL), tmp_path)


def test_auto_backbone(tmp_path) -> None:
    config = DyVisionBackboneConfig(
        network="test_resnet", layer="dyconv", layer_kwargs={"num_kernels": 2}, num_channels=1, output_stride=16
    )
    model = transformers.AutoBackbone.from_config(config).eval()
    assert isinstance(model, DyVisionBackbone) and model.out_features == [config.stage_names[-1]]
    x = torch.randn(2, 1, 64, 64)
    output = model(x, output_hidden_states=True)
    (last,) = output.feature_maps
    assert last.shape == (2, model.channels[0], 4, 4)
    assert [level.shape[1] for level in output.hidden_states] == model.num_features
    assert torch.equal(model(x, return_dict=False)[0][0], last)
    model.save_pretrained(tmp_path)
    again = DyVisionBackbone.from_pretrained(tmp_path)
    assert again.config.layer_kwargs == {"num_kernels": 2}
    torch.testing.assert_close(again.eval()(x).feature_maps[0], last)


def test_the_layers_keep_their_own_initialisation() -> None:
    config = DyVisionBackboneConfig(network="test_resnet", layer="dyconv", **LEVELS)
    torch.manual_seed(0)
    model = DyVisionBackbone(config)
    torch.manual_seed(0)
    expected = dyvision.create_backbone("test_resnet", "dyconv", out_indices=(0, 1, 2, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    assert any(isinstance(module, CoefficientBranch) for module in model.modules())


def test_wrong_names() -> None:
    with pytest.raises(ValueError, match=r"unknown backbone .test_resnt.*did you mean"):
        DyVisionBackboneConfig(network="test_resnt")
    with pytest.raises(ValueError, match="unknown layer 'dcf'"):
        DyVisionBackbone(DyVisionBackboneConfig(network="test_resnet", layer="dcf"))
    with pytest.raises(ValueError, match="out_indices"):
        DyVisionBackboneConfig(network="test_resnet", out_indices=[7])


def test_a_layers_argument_among_transformers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"num_kernels: of the layer 'dyconv'; give layer_kwargs=.'num_kernels': 2"):
        DyVisionBackboneConfig(network="test_resnet", layer="dyconv", num_kernels=2)
    with pytest.raises(ValueError, match="unknown layer 'dyconf'"):
        DyVisionBackboneConfig(network="test_resnet", layer="dyconf")
    assert DyVisionBackboneConfig(network="test_resnet", id2label={0: "a"}).layer == "static"


@pytest.mark.parametrize(
    ("given", "close"),
    [({"layers": "dcd"}, "layer"), ({"output_strides": 8}, "output_stride"), ({"polcy": "all"}, "policy")],
)
def test_misspelt_arguments_are_named(given, close, tmp_path) -> None:
    match = f"has no argument {next(iter(given))!r} .did you mean {close!r}"
    with pytest.raises(ValueError, match=match):
        DyVisionBackboneConfig(network="test_resnet", **given)
    DyVisionBackbone(DyVisionBackboneConfig(network="test_resnet")).save_pretrained(tmp_path)
    for kind in (DyVisionBackbone, DyVisionBackboneConfig):
        with pytest.raises(ValueError, match=match):
            kind.from_pretrained(tmp_path, **given)
    with pytest.raises(ValueError, match=r"DyVisionBackbone has no argument 'pretrain' .did you mean 'pretrained'"):
        DyVisionBackbone.from_pretrained(tmp_path, pretrain=True)


def test_what_transformers_and_others_keep_in_a_config_stays(tmp_path) -> None:
    config = DyVisionBackboneConfig(network="test_resnet", output_hidden_states=True, my_note="mine", id2label={0: "a"})
    config.save_pretrained(tmp_path)
    again = DyVisionBackboneConfig.from_pretrained(tmp_path, out_indices=[1, 2])
    assert (again.my_note, again.output_hidden_states, list(again.out_indices)) == ("mine", True, [1, 2])
