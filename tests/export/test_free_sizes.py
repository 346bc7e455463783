"""If these fail, a file for images of any size has wrong shapes or numbers at some of them."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from dyvision.backbones import create_model
from dyvision.convert import dynamize
from dyvision.export import OnnxModel, export_onnx
from dyvision.layers import get_layer, list_layers
from tests.exported import away_from_start

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

#: none is the example's, sides are odd and of every remainder
SHAPES = [(1, 65, 71), (3, 97, 64), (3, 33, 96)]


def assert_right(network: nn.Module, path, shapes=SHAPES) -> None:
    file = OnnxModel(path)
    for batch, *sides in shapes:
        x = torch.randn(batch, 3, *sides) + torch.randn(batch, 3, 1, 1)
        with torch.no_grad():
            expected = network(x)
        (found,) = file(x).values()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def padded_same(name: str) -> nn.Sequential:
    """What TensorFlow's networks have: strides, an even kernel, dilation, one layer behind the other."""
    layer = get_layer(name)
    return nn.Sequential(
        layer(3, 16, 3, 2, "same"),
        nn.ReLU(),
        layer(16, 16, 5, 2, "same", groups=16),
        nn.ReLU(),
        layer(16, 8, 4, 1, "same", dilation=2),
    )


def timm_stem(name: str) -> nn.Sequential:
    network = timm.create_model("tf_mobilenetv3_small_minimal_100")
    return dynamize(nn.Sequential(network.conv_stem, network.bn1, *network.blocks[:2]), name, policy="all")


def residual_network(name: str) -> nn.Module:
    return create_model("resnet10t", name, num_classes=5)


@pytest.mark.slow
@pytest.mark.parametrize("build", [padded_same, timm_stem, residual_network])
@pytest.mark.parametrize("name", list_layers())
def test_a_network_at_sizes_other_than_the_examples(name, build, tmp_path) -> None:
    torch.manual_seed(0)
    network = away_from_start(build(name))
    export_onnx(network, tmp_path / "network.onnx", image_size=64, dynamic_size=True, check=False)
    assert_right(network, tmp_path / "network.onnx")


def test_one_layer_behind_the_other(tmp_path) -> None:
    network = away_from_start(padded_same("dcd"))
    export_onnx(network, tmp_path / "network.onnx", image_size=16, dynamic_size=True, check=False)
    assert_right(network, tmp_path / "network.onnx", [(1, 9, 11), (3, 17, 8), (2, 4, 31)])
