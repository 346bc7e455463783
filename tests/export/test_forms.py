"""If these fail, a dynamic convolution has a form in its ONNX file that takes longer than it has to."""

from __future__ import annotations

import pytest
from torch import nn

from dyvision.export import export_onnx
from dyvision.layers import get_layer
from tests.exported import assert_right, away_from_start, bodies, nodes

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("name", ["dyconv", "odconv"])
def test_a_large_bank_lies_side_by_side_in_a_file_for_one_image(name, tmp_path) -> None:
    layer = away_from_start(get_layer(name)(192, 160, 3, padding=1, num_kernels=3))
    path = tmp_path / "layer.onnx"
    # on a map this small the gates of ODConv's channels are no part of the kernels
    assert export_onnx(layer, path, image_size=5, channels=192, batch=1).error < 1e-4
    assert_right(layer, path, (1, 192, 5, 5))
    graph = onnx.load(path).graph
    large = [tuple(one.dims) for one in graph.initializer if len(one.raw_data) > 1e6]
    assert large == [(5, 3, 160 // 5 * 192 * 9)]  # and there is no other copy of it
    assert not [node for node in graph.node if node.op_type == "Transpose"]


@pytest.mark.parametrize("name", ["dyconv", "odconv"])
def test_taps_of_a_large_kernel_for_any_batch(name, tmp_path) -> None:
    layer, path = away_from_start(get_layer(name)(48, 40, 3, padding=1)), tmp_path / "layer.onnx"
    assert export_onnx(layer, path, image_size=3, channels=48).error < 1e-4  # the gates of channels act on the map
    for batch in (1, 4):
        assert_right(layer, path, (batch, 48, 3, 3))
    # taps scale long rows, one sample after the other
    (body,) = bodies(path)
    assert [node.op_type for node in body.node if node.op_type != "Constant"] == (
        ["Mul", "Reshape", "Conv"] if name == "odconv" else ["Conv"]
    )


def depthwise(name="dyconv", stride=1, **arguments) -> nn.Sequential:
    layer = get_layer(name)(16, 16, 3, stride, padding=1, groups=16, **arguments)
    return nn.Sequential(away_from_start(layer), nn.ReLU6())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("batch", ["dynamic", 1, 3])
@pytest.mark.parametrize(("name", "stride"), [("dyconv", 1), ("dyconv", 2), ("condconv", 1)])
def test_a_small_depthwise_mixture_is_convolutions_with_constant_kernels(name, stride, batch, bias, tmp_path) -> None:
    network, path = depthwise(name, stride, bias=bias), tmp_path / "layer.onnx"
    assert export_onnx(network, path, image_size=(8, 7), channels=16, batch=batch).error < 1e-5
    for size in (1, 5) if batch == "dynamic" else (batch,):
        assert_right(network, path, (size, 16, 8, 7))
    (graph,) = bodies(path) or [onnx.load(path).graph]
    # in blocks of channels only if they are the body's own
    constant = {value.name for value in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == network[0].num_kernels == sum(node.op_type == "Conv" for node in nodes(path))
    assert all(node.input[1] in constant for node in convolutions) and graph.node[-1].op_type == "Clip"
    assert bool(bodies(path)) == (batch != 1)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_bias_of_all_samples_is_added_to_a_depthwise_mixture(stride, tmp_path) -> None:
    network = nn.Sequential(depthwise(stride=stride, bias=False)[0], nn.BatchNorm2d(16))
    network[1].running_mean.normal_()
    assert export_onnx(network.eval(), tmp_path / "layer.onnx", image_size=8, channels=16).error < 1e-5
    assert_right(network, tmp_path / "layer.onnx", (2, 16, 8, 8))
    assert sum(node.op_type == "Conv" for node in nodes(tmp_path / "layer.onnx")) == 4


@pytest.mark.parametrize(
    ("network", "arguments"),
    [
        (depthwise(), {"image_size": 64}),  # all K outputs take longer
        (depthwise(num_kernels=8, stride=2), {"image_size": 64}),
        (depthwise(), {"image_size": 8, "dynamic_size": True}),  # nobody knows how large they are
        (depthwise("odconv"), {"image_size": 8}),  # taps are no mixture of K kernels
    ],
)
def test_other_depthwise_kernels_are_mixed(network, arguments, tmp_path) -> None:
    path = tmp_path / "layer.onnx"
    assert export_onnx(network, path, channels=16, **arguments).error < 1e-5
    assert_right(network, path, (2, 16, arguments["image_size"], arguments["image_size"]))
    assert sum(node.op_type == "Conv" for node in nodes(path)) == 1
