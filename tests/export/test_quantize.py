"""If these fail, a file with 8 bits is worse than its report says, or kernels of single images are rounded."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from dyvision.convert import collapse, dynamize
from dyvision.export import export_onnx
from dyvision.export._agreement import share_of_equal_answers
from dyvision.export.quantize import quantize_onnx
from dyvision.layers import get_layer

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
runtime = pytest.importorskip("onnxruntime")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.Conv2d(16, 24, 3, 1, 1, bias=False)
    last = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5))
    return nn.Sequential(first, nn.BatchNorm2d(16), nn.ReLU(), second, nn.BatchNorm2d(24), nn.ReLU6(), *last).eval()


def batches(number: int = 3, size: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(size, 3, 16, 16, generator=generator) + torch.randn(size, 3, 1, 1, generator=generator)
        for _ in range(number)
    ]


def written(model: nn.Module, path, batch="dynamic"):
    export_onnx(model, path, image_size=16, batch=batch, metadata={"task": "classification"})
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return written(network(), tmp_path_factory.mktemp("exported") / "float.onnx")


@pytest.fixture
def source(exported, tmp_path):
    """The exported static network."""
    return Path(shutil.copy(exported, tmp_path))


def kinds(path) -> dict[str, int]:
    """How often an operator has an input in 8 bits, by its name."""
    graph = onnx.load(path).graph
    dequantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    found: dict[str, int] = {}
    for node in graph.node:
        if node.op_type != "QuantizeLinear" and any(name in dequantized for name in node.input):
            found[node.op_type] = found.get(node.op_type, 0) + 1
    return found


def test_a_static_network_is_quantised_whole(source, tmp_path) -> None:
    target = tmp_path / "int8.onnx"
    before = source.read_bytes()
    file = quantize_onnx(source, target, batches())
    assert (file.quantized, file.kept, file.images) == (3, 0, 12) and file.path == target
    assert kinds(target)["Conv"] == 2 and kinds(target)["Gemm"] == 1
    assert 0 < file.error < 0.1 and file.agreement > 0.8 and source.read_bytes() == before
    assert file.size == target.stat().st_size and file.float_size == source.stat().st_size
    assert file.milliseconds > 0 and file.float_milliseconds > 0
    assert "int8, 3 layers quantised, 0 in float32" in str(file) and "12 images" in str(file)
    said = {entry.key: entry.value for entry in onnx.load(target).metadata_props}
    assert said["task"] == "classification" and said["quantization"] == "int8" and said["layer"] == "static"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["float.onnx", "int8.onnx"]


@pytest.mark.parametrize("batch", ["dynamic", 4])
def test_kernels_of_single_images_and_their_branches_stay_float(batch, tmp_path) -> None:
    model = dynamize(network(), "dyconv", policy=["3"])
    source, target = written(model, tmp_path / "float.onnx", batch), tmp_path / "int8.onnx"
    file = quantize_onnx(source, target, batches())
    assert file.quantized == 2 and file.kept >= 3
    # the first convolution and the classifier; the other convolution and both of its branch's products are not
    found = kinds(target)
    assert (found["Conv"], found["Gemm"]) == (1, 1) and "MatMul" not in found and "Scan" not in found


def test_one_image_with_a_computed_kernel(tmp_path) -> None:
    model = dynamize(network(), "condconv", policy="all")
    source, target = written(model, tmp_path / "float.onnx", 1), tmp_path / "int8.onnx"
    file = quantize_onnx(source, target, batches(size=3))  # batches of three become images
    assert file.quantized == 1 and file.images == 9 and "Conv" not in kinds(target)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("batch", ["dynamic", 1])
def test_a_mixture_of_convolutions_and_its_branch_stay_float(batch, stride, tmp_path) -> None:
    model = network()
    model[3] = get_layer("dyconv")(16, 16, 3, stride, padding=1, groups=16, bias=False).eval()
    model[4], model[8] = nn.BatchNorm2d(16).eval(), nn.Linear(16, 5)
    source, target = written(model, tmp_path / "float.onnx", batch), tmp_path / "int8.onnx"
    file = quantize_onnx(source, target, batches())
    assert file.quantized == 2 and file.kept == 2 + 4
    graph = onnx.load(target).graph
    dequantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    layers = [node.op_type for node in graph.node if node.op_type in ("Conv", "Gemm") and node.input[1] in dequantized]
    assert layers == ["Conv", "Gemm"]  # the first and the last


def test_a_collapsed_network_is_quantised_whole(tmp_path) -> None:
    model = collapse(dynamize(network(), "dyconv", policy="all"), batches()).eval()
    file = quantize_onnx(written(model, tmp_path / "float.onnx"), tmp_path / "int8.onnx", batches())
    assert (file.quantized, file.kept) == (3, 0)


def test_layers_are_kept_by_name(source, tmp_path) -> None:
    target = tmp_path / "int8.onnx"
    file = quantize_onnx(source, target, batches(), keep=["8", "3*"])
    assert (file.quantized, file.kept) == (1, 2) and "Gemm" not in kinds(target)
    with pytest.raises(
        ValueError, match=r"keep='head\.\*': no layer of float\.onnx has such a name; names that it has: 0"
    ):
        quantize_onnx(source, target, batches(), keep=["head.*"])
    with pytest.raises(ValueError, match="no layer to quantise: 3 with fixed weights, all kept in float32"):
        quantize_onnx(source, target, batches(), keep=["*"])


class NoFixedWeights(nn.Module):
    def forward(self, x):
        return x.relu()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], r"float\.onnx: no images to calibrate with"),
        ([torch.rand(2, 3, 8, 16)], r"float\.onnx takes images of shape \[any, 3, 16, 16\] .*, not \[2, 3, 8, 16\]"),
        ([torch.full((2, 3, 16, 16), float("nan"))], "calibrated with images that are not finite"),
        ([torch.rand(3, 16, 16)], r"not \[3, 16, 16\] \(torch\.float32\)"),
        ([torch.zeros(2, 3, 16, 16, dtype=torch.uint8)], r"not \[2, 3, 16, 16\] \(torch\.uint8\)"),
    ],
)
def test_images_that_the_file_does_not_take(images, message, source, tmp_path) -> None:
    target = tmp_path / "int8.onnx"
    target.write_bytes(b"an earlier file")
    with pytest.raises(ValueError, match=message) as caught:
        quantize_onnx(source, target, images)
    assert "\n" not in str(caught.value) and target.read_bytes() == b"an earlier file"


def test_files_that_cannot_be_quantised(source, tmp_path) -> None:
    target = tmp_path / "int8.onnx"
    quantize_onnx(source, target, batches(1))
    with pytest.raises(ValueError, match=r"int8\.onnx is quantised already: give the float32 file"):
        quantize_onnx(target, tmp_path / "again.onnx", batches(1))
    with pytest.raises(ValueError, match="has no layer with fixed weights: collapse the network first"):
        quantize_onnx(written(NoFixedWeights(), tmp_path / "none.onnx"), tmp_path / "again.onnx", batches(1))
    with pytest.raises(FileNotFoundError, match=r"missing\.onnx: no such file"):
        quantize_onnx(tmp_path / "missing.onnx", tmp_path / "again.onnx", batches(1))
    with pytest.raises(ValueError, match="takes 4 images at once, there are 2"):
        quantize_onnx(written(network(), tmp_path / "four.onnx", 4), tmp_path / "again.onnx", batches(1, 2))
    assert not (tmp_path / "again.onnx").exists()
    before = source.read_bytes()
    with pytest.raises(ValueError, match=r"float\.onnx: the file to quantise, which stays"):
        quantize_onnx(source, source, batches(1))
    assert source.read_bytes() == before


@pytest.mark.parametrize("package", ["onnx", "onnxruntime.quantization"])
def test_a_missing_package_says_how_to_install_it(package, monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=r'export needs .*: pip install "dyvision\[export\]"') as caught:
        quantize_onnx(tmp_path / "float.onnx", tmp_path / "int8.onnx", batches(1))
    assert "\n" not in str(caught.value)


def test_equal_answers() -> None:
    one, other = torch.eye(4), torch.eye(4)[[0, 1, 2, 2]]
    assert share_of_equal_answers({"output": one}, {"output": other}) == 0.75
    maps = one[:, :, None, None].expand(4, 4, 2, 2)
    assert share_of_equal_answers({"output": maps}, {"output": maps.flip(0)}) == 0
    assert share_of_equal_answers({"labels": one.long()}, {"labels": one.long()}) == 1
    assert share_of_equal_answers({"a": one, "b": one}, {"a": one, "b": one}) is None
    boxes = torch.tensor([[[0.0, 0.0, 4.0, 4.0], [8.0, 8.0, 9.0, 9.0], [0.0, 0.0, 0.0, 0.0]]])
    found = {"boxes": boxes, "labels": torch.tensor([[1, 2, 0]]), "count": torch.tensor([2])}
    moved = {**found, "boxes": boxes + torch.tensor([0.5, 0, 0.5, 0]), "labels": torch.tensor([[1, 1, 0]])}
    assert share_of_equal_answers(found, found) == 1 and share_of_equal_answers(found, moved) == 0.5
    assert share_of_equal_answers(found, {**found, "count": torch.tensor([0])}) == 0
