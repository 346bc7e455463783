"""If these fail, nobody learns how much of the pretrained weights a network has, or other input channels lose them."""

from __future__ import annotations

import logging

import pytest
import torch

from dyvision.backbones import create_backbone, create_model, list_backbones


@pytest.fixture
def weights(tmp_path):
    def make(name: str, classes: int = 7):
        model = create_model(name, num_classes=classes)
        path = tmp_path / f"{name}.pth"
        torch.save(model.state_dict(), path)
        return path, model.state_dict()

    return make


def test_the_report_counts_what_is_loaded_new_and_skipped(weights, caplog) -> None:
    path, state = weights("test_resnet")
    with caplog.at_level(logging.INFO, "dyvision"):
        model = create_model("test_resnet", "dyconv", num_classes=3, pretrained=path)
    report = model.pretrained_report
    assert report.classifier == ("fc.weight", "fc.bias")
    assert report.loaded == len(state) - 2 and report.skipped == ()
    assert report.branches and all(".branch." in name for name in report.branches)
    assert report.loaded + sum(map(len, (report.branches, report.classifier, report.others))) == len(model.state_dict())
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1 and "\n" not in lines[0]
    assert f"test_resnet: {report.loaded} tensors from {path}" in lines[0]
    assert f"coefficient branches {len(report.branches)}" in lines[0] and "classifier 2" in lines[0]


def test_a_backbone_reports_too_and_not_its_cut_off_head(weights) -> None:
    path, _ = weights("test_resnet")
    backbone = create_backbone("test_resnet", "dcd", pretrained=path)
    assert backbone.pretrained_report.classifier == () and backbone.pretrained_report.branches
    same = create_model("test_resnet", num_classes=7, pretrained=path)
    assert "none starts anew" in str(same.pretrained_report)
    assert not hasattr(create_model("test_resnet"), "pretrained_report")


PUBLISHED = ["dy_resnet18", "dy_mobilenetv2", "dy_mobilenetv3_small", "weightnet_shufflenetv2_x0_5", "resnet10"]
PUBLISHED += ["mobilenetv4_conv_small_relu6", "fix_mobilenetv2", "test_efficientnet"]


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("channels", [1, 4])
def test_weights_of_three_channels_serve_others_as_in_timm(name, channels, weights) -> None:
    assert name in list_backbones()
    path, state = weights(name)
    model = create_model(name, num_classes=7, in_chans=channels, pretrained=path).eval()
    changed = [key for key, value in model.state_dict().items() if value.shape != state[key].shape]
    (key,) = changed
    stem, before = model.state_dict()[key], state[key]
    if channels == 1:
        torch.testing.assert_close(stem, before.sum(1, keepdim=True))
    else:  # repeated, and scaled so that the sums stay
        torch.testing.assert_close(stem, before.repeat(1, 2, 1, 1)[:, :4] * 3 / 4)
    assert model(torch.randn(2, channels, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize("name", ["kw1x_resnet18", "dy_mobilenetv2", "weightnet_shufflenetv2_x0_5", "test_convnext"])
def test_every_kind_of_backbone_sees_grey_images(name) -> None:
    maps = create_backbone(name, in_chans=1)(torch.randn(2, 1, 64, 64))
    assert all(len(level) == 2 for level in maps)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"drop_path_rate": "a"}, "drop_path_rate must be in"),
        ({"drop_rate": 2}, "drop_rate must be in"),
        ({"model_kwargs": 5}, "model_kwargs must be a mapping"),
        ({"layer_kwargs": [1]}, "layer_kwargs must be a mapping"),
        ({"num_classes": -1}, "num_classes must be an integer of at least 0"),
        ({"in_chans": 0}, "in_chans must be an integer of at least 1"),
        ({"layer": "dyconv", "policy": "layre1.*"}, r"did you mean 'layer1"),
    ],
)
def test_wrong_options_are_named(arguments, text) -> None:
    with pytest.raises(ValueError, match=text):
        create_model("test_resnet", **arguments)


def test_no_classes_give_pooled_features() -> None:
    model = create_model("test_resnet", num_classes=0).eval()
    assert isinstance(model.get_classifier(), torch.nn.Identity)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, model.num_features)
