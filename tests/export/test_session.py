"""If these fail, a file is called with what it does not take, or a file that is none ends in a traceback."""

from __future__ import annotations

import pytest
import torch

from dyvision.export import OnnxModel
from tests.onnx_files import write_detector, write_network

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("batch", ["batch", 1, 4])
@pytest.mark.parametrize("count", [0, 1, 4, 6])
def test_a_batch_of_any_size(batch, count, tmp_path) -> None:
    model = OnnxModel(write_network(tmp_path / "network.onnx", {}, (batch, 3, 8, 8)))
    images = torch.randn(count, 3, 8, 8)
    assert model.shape == (None if batch == "batch" else batch, 3, 8, 8)
    if count == 0 and batch == "batch":
        return  # nothing to fill up with
    torch.testing.assert_close(model(images)["logits"], images.mean((2, 3)))


def test_several_outputs(tmp_path) -> None:
    found = OnnxModel(write_detector(tmp_path / "detector.onnx", {}, (20, 30)))(torch.rand(3, 3, 20, 30))
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "boxes": (3, 2, 4), "scores": (3, 2), "labels": (3, 2), "count": (3,)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 9, 8), r"takes images of 8 x 8 pixels \(height x width\), got 9x8: .*--image-size 9x8 or dynamic"),
        ((1, 1, 8, 8), "takes images of 3 channels, got 1"),
        ((3, 8, 8), r"takes a batch of images \[B, C, H, W\], got \[3, 8, 8\]"),
    ],
)
def test_other_images_are_one_line(shape, message, tmp_path) -> None:
    model = OnnxModel(write_network(tmp_path / "network.onnx", {}, (2, 3, 8, 8)))
    with pytest.raises(ValueError, match=rf"network\.onnx: {message}") as caught:
        model(torch.randn(shape))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x0a" * 40])
def test_a_damaged_file_is_one_line(content, tmp_path) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged\.onnx") as caught:
        OnnxModel(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_one_line(tmp_path) -> None:
    path = write_network(tmp_path / "network.onnx", {"task": "x" * 5000})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"network\.onnx cannot be run by ONNX Runtime"):
        OnnxModel(path)


def test_what_is_there_is_no_file(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.onnx: no such file"):
        OnnxModel(tmp_path / "none.onnx")
    with pytest.raises(ValueError, match="a folder, not an ONNX file"):
        OnnxModel(tmp_path)
