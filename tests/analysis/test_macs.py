"""If these fail, the costs printed beside every result are wrong."""

from __future__ import annotations

import pytest
from torch import nn

from dyvision.analysis import count_macs, count_parameters
from dyvision.backbones import create_backbone, create_model


@pytest.mark.parametrize(
    ("name", "millions", "parameters"),
    [("mobilenetv2_100", 300.8, 3_504_872), ("resnet18", 1814.1, 11_689_512), ("shufflenetv2_100", 144.9, 2_278_604)],
)
def test_published_networks(name, millions, parameters):
    model = create_model(name)
    assert round(count_macs(model) / 1e6, 1) == millions
    assert count_parameters(model) == parameters


def test_a_convolution_by_hand():
    conv = nn.Conv2d(6, 10, 3, stride=2, padding=1, groups=2)
    assert count_macs(conv, (5, 6, 8, 12)) == 5 * 10 * (6 // 2) * 9 * (4 * 6)


def test_lists_of_maps_and_training_mode():
    backbone = create_backbone("test_resnet").train()
    backbone.body.bn1.eval()
    assert count_macs(backbone, (1, 3, 64, 64)) > 0
    assert backbone.training and backbone.body.layer1.training and not backbone.body.bn1.training
    assert not backbone.body.layer1[0].bn1.running_mean.any()


def test_dynamic_layers_cost_more_than_static_ones():
    static = count_macs(create_model("mobilenetv2_050"), (1, 3, 64, 64))
    for layer in ("dcd", "dyconv"):
        assert static < count_macs(create_model("mobilenetv2_050", layer=layer), (1, 3, 64, 64)) < 3 * static


def test_transformers_are_not_one_operation():
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    layer.requires_grad_(False)
    model = nn.Sequential(nn.Flatten(2), layer)
    tokens = 5
    assert count_macs(model, (1, tokens, 2, 4)) == tokens * (4 * 8 * 8 + 2 * 8 * 16) + 2 * tokens * tokens * 8


def test_frozen_parameters():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    assert (count_parameters(model), count_parameters(model, trainable_only=True)) == (26, 10)


@pytest.mark.parametrize("size", [(3, 224, 224), (1, 3, 0, 8), (1, 3, 8.0, 8)])
def test_wrong_sizes(size):
    with pytest.raises(ValueError, match="four positive integers"):
        count_macs(nn.Conv2d(3, 3, 1), size)
