"""If these fail, a file computes something else than its network, or is there although it does."""

from __future__ import annotations

import json
import os
import sys

import pytest
import torch
from torch import nn

from dyvision.convert import dynamize
from dyvision.export import OnnxModel, export_onnx
from dyvision.layers import get_layer, list_layers
from tests.exported import assert_right, away_from_start, bodies, call, nodes

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
runtime = pytest.importorskip("onnxruntime")

#: inputs, outputs, and what differs from a 1x1 convolution
KINDS = {
    "1x1": (20, 24, {"kernel_size": 1}),
    "3x3": (20, 24, {"kernel_size": 3, "padding": 1}),
    "strided": (20, 24, {"kernel_size": 3, "padding": 1, "stride": 2}),
    "depthwise": (24, 24, {"kernel_size": 3, "padding": 1, "groups": 24}),
    "grouped": (20, 24, {"kernel_size": 3, "padding": 1, "groups": 4}),
    "dilated": (20, 24, {"kernel_size": 3, "padding": 2, "dilation": 2}),
    "same": (20, 24, {"kernel_size": 3, "padding": "same", "stride": 2}),
}


def small_network() -> nn.Sequential:
    first, second = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.Conv2d(8, 12, 1, bias=False)
    return nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU6(), second, nn.BatchNorm2d(12), nn.SiLU())


@pytest.mark.parametrize("name", ["dcd", "dyconv", "odconv"])
def test_a_layer_for_any_batch(name, tmp_path) -> None:
    layer, path = away_from_start(get_layer(name)(6, 8, 3, 2, "same")), tmp_path / "layer.onnx"
    file = export_onnx(layer, path, image_size=(9, 8), channels=6)
    assert file.error < 1e-4
    for batch in (1, 2, 5):
        assert_right(layer, path, (batch, 6, 9, 8))


def test_the_optimiser_of_other_exports_stays_as_it_was(tmp_path) -> None:
    from onnxscript import rewriter

    before = rewriter._DEFAULT_REWRITE_RULES
    export_onnx(nn.Conv2d(3, 4, 1), tmp_path / "a.onnx", image_size=4)
    assert rewriter._DEFAULT_REWRITE_RULES is before


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list_layers())
def test_every_layer_on_every_kind_of_convolution_for_any_batch(name, kind, tmp_path) -> None:
    inputs, outputs, geometry = KINDS[kind]
    layer, path = away_from_start(get_layer(name)(inputs, outputs, **geometry)), tmp_path / "layer.onnx"
    export_onnx(layer, path, image_size=16, channels=inputs)
    for batch in (1, 4):
        assert_right(layer, path, (batch, inputs, 16, 16))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["1x1", "strided", "same"])
@pytest.mark.parametrize("name", list_layers())
def test_every_layer_at_other_sizes(name, kind, tmp_path) -> None:
    inputs, outputs, geometry = KINDS[kind]
    layer, path = away_from_start(get_layer(name)(inputs, outputs, **geometry)), tmp_path / "layer.onnx"
    export_onnx(layer, path, image_size=16, channels=inputs, dynamic_size=True)
    for shape in [(1, inputs, 12, 13), (3, inputs, 25, 20)]:
        assert_right(layer, path, shape)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_file_for_one_batch_size(batch, tmp_path) -> None:
    network, path = away_from_start(dynamize(small_network().eval(), "dyconv", policy="all")), tmp_path / "one.onnx"
    file = export_onnx(network, path, image_size=10, batch=batch)
    assert {one.shape for one in file.checked} == {(batch, 3, 10, 10)}
    assert_right(network, path, (batch, 3, 10, 10))
    assert ("Scan" in {node.op_type for node in nodes(path)}) == (batch > 1)
    with pytest.raises(runtime.capi.onnxruntime_pybind11_state.InvalidArgument):
        call(path, torch.randn(batch + 1, 3, 10, 10))


def test_convolutions_say_their_size_and_end_in_their_activation(tmp_path) -> None:
    network, path = dynamize(small_network().eval(), "condconv", policy="all"), tmp_path / "network.onnx"
    file = export_onnx(network, path, image_size=10)
    found = nodes(path)
    assert len(found) == file.nodes
    convolutions = [node for node in found if node.op_type == "Conv"]
    assert len(convolutions) == 2
    for node in convolutions:
        assert [list(a.ints) for a in node.attribute if a.name == "kernel_shape"]
    assert [[node.op_type for node in body.node] for body in bodies(path)] == [["Conv", "Clip"], ["Conv"]]


def test_a_file_keeps_nothing_that_it_does_not_use(tmp_path) -> None:
    network = nn.Sequential(get_layer("dyconv")(3, 8, 3, padding=1), get_layer("dcd")(8, 8, 1)).eval()
    export_onnx(network, tmp_path / "a.onnx", image_size=16, check=False)
    graph = onnx.load(tmp_path / "a.onnx").graph
    used = {name for node in nodes(tmp_path / "a.onnx") for name in node.input}
    used |= {value.name for body in bodies(tmp_path / "a.onnx") for value in body.output}
    assert [value.name for value in graph.initializer if value.name not in used] == []


def test_what_a_file_says(tmp_path) -> None:
    network, path = dynamize(small_network(), "se", policy="all").train(), tmp_path / "network.onnx"
    before = {name: value.clone() for name, value in network.state_dict().items()}
    file = export_onnx(network, path, image_size=(10, 12), metadata={"classes": ["a", "b"], "task": "none"})
    assert network.training and all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    model = onnx.load(path)
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert said["layer"] == "se" and said["task"] == "none" and json.loads(said["classes"]) == ["a", "b"]
    assert json.loads(said["input_size"]) == ["batch", 3, 10, 12] and said["dyvision_version"]
    assert file.opset == {entry.domain: entry.version for entry in model.opset_import}[""] == 18
    assert [size.dim_param or size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        3,
        10,
        12,
    ]
    assert f"{file.nodes} nodes" in str(file) and "8x3x10x12" in str(file)
    assert [entry.name for entry in tmp_path.iterdir()] == ["network.onnx"]


class Several(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.second, self.kind = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, 2), kind

    def forward(self, x):
        one = self.first(x)
        two = self.second(one)
        return {"list": [one, two], "dict": {"masks": one, "boxes": two}, "text": "nothing", "tuple": (one, (two, x))}[
            self.kind
        ]


@pytest.mark.parametrize(
    ("kind", "names"),
    [("list", ["output_0", "output_1"]), ("dict", ["masks", "boxes"]), ("tuple", ["output_0", "output_1_0"])],
)
def test_several_outputs(kind, names, tmp_path) -> None:
    path = tmp_path / "several.onnx"
    assert export_onnx(Several(kind), path, image_size=9).error < 1e-5
    assert [output.name for output in onnx.load(path).graph.output][:2] == names


class FirstImageOnly(nn.Module):
    """What it computes when it is traced holds for the first image of a batch."""

    def forward(self, x):
        mean = x.mean((1, 2, 3))
        return x * (mean[:1] if torch.compiler.is_compiling() else mean)[:, None, None, None]


def test_a_file_that_differs_is_not_written(tmp_path) -> None:
    path = tmp_path / "network.onnx"
    path.write_bytes(b"an earlier file")
    with pytest.raises(ValueError, match=r"network\.onnx was not written: .*differs from PyTorch's by"):
        export_onnx(FirstImageOnly(), path, image_size=8)
    assert [entry.name for entry in tmp_path.iterdir()] == ["network.onnx"]
    assert path.read_bytes() == b"an earlier file"


class OneBatch(nn.Module):
    def forward(self, x):
        return torch.cat([sample[None] * index for index, sample in enumerate(x)])


def test_a_network_that_holds_for_the_examples_batch_only_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="OneBatch cannot be exported with a dynamic batch"):
        export_onnx(OneBatch(), tmp_path / "network.onnx", image_size=8)
    assert not list(tmp_path.iterdir())
    assert export_onnx(OneBatch(), tmp_path / "network.onnx", image_size=8, batch=3).error == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "image_size must be an int >= 1"),
        ({"batch": 0}, "batch must be a positive int"),
        ({"opset": 11}, "opset must be at least 18, got 11"),
        ({"image_size": 2}, r"Sequential cannot take images of shape \[2, 3, 2, 2\]: "),
        ({"channels": 4}, r"Sequential cannot take images of shape \[2, 4, 10, 10\]: "),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, tmp_path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(ValueError, match=message) as caught:
        export_onnx(network, tmp_path / "network.onnx", **{"image_size": 10, **arguments})
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_outputs_that_are_no_tensors_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="Several must return a tensor, or a list, tuple or dict of tensors"):
        export_onnx(Several("text"), tmp_path / "network.onnx", image_size=9, fuse=False)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_says_how_to_install_it(package, monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf'export needs {package}: pip install "dyvision\[export\]"') as caught:
        export_onnx(small_network(), tmp_path / "network.onnx", image_size=10)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", list_layers())
def test_a_network_for_any_batch(name, tmp_path) -> None:
    from dyvision import create_model

    torch.manual_seed(0)
    network = away_from_start(create_model("resnet18", name, num_classes=5), noise=0.03)  # with more, DCD's overflows
    file = export_onnx(network, tmp_path / "network.onnx", image_size=64)
    assert file.error < 1e-3 and len(nodes(tmp_path / "network.onnx")) == file.nodes


def test_large_parameters_beside_a_file_stay_where_an_export_fails(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("dyvision.export.onnx._LARGE", 0)
    path = tmp_path / "network.onnx"
    export_onnx(nn.Conv2d(3, 40, 3), path, image_size=8)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    assert sorted(before) == ["network.onnx", "network.onnx.data"]

    class Differs(FirstImageOnly):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 40, 3)

        def forward(self, x):
            return self.conv(super().forward(x))

    with pytest.raises(ValueError, match="was not written"):
        export_onnx(Differs(), path, image_size=8)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before
    export_onnx(nn.Conv2d(3, 40, 5), path, image_size=8)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(before)
    images = torch.randn(2, 3, 8, 8)
    assert OnnxModel(path)(images)["output"].shape == (2, 40, 4, 4)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names on this system")
def test_a_pipe_is_no_file_to_wait_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ValueError, match=r"pipe\.onnx: a pipe or a device"):
        OnnxModel(tmp_path / "pipe.onnx")


class Gated(nn.Module):
    """The gate of a squeeze and excitation on a map that is 1x1 for small images."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.gate = nn.Conv2d(3, 8, 3, 32, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        maps = self.down(x)
        return (maps * self.gate(maps.mean((2, 3), keepdim=True)).sigmoid()).mean((2, 3))


@pytest.mark.parametrize("image_size", [1, 2, 32, (32, 48)])
def test_a_small_example_does_not_fix_free_sizes(image_size, tmp_path) -> None:
    export_onnx(Gated(), tmp_path / "network.onnx", image_size=image_size, dynamic_size=True)
    model = OnnxModel(tmp_path / "network.onnx")
    assert model(torch.randn(3, 3, 100, 70))["output"].shape == (3, 8)


def test_a_file_that_cannot_be_run_is_not_written(tmp_path, monkeypatch) -> None:
    def fails(*_):
        raise RuntimeError("no such operator\nand a page of advice")

    monkeypatch.setattr("dyvision.export.onnx.run", fails)
    with pytest.raises(ValueError, match=r"network\.onnx was not written: ONNX Runtime failed .*: no such operator$"):
        export_onnx(nn.Conv2d(3, 4, 1), tmp_path / "network.onnx", image_size=8)
    assert not list(tmp_path.iterdir())
