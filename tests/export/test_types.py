"""If these fail, an export of parameters that the other program cannot compute with ends in that program's words."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dyvision.export import export_onnx, export_openvino, export_program
from dyvision.layers import get_layer
from tests.exported import away_from_start, call


def depthwise(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return away_from_start(get_layer("dyconv")(8, 8, 3, padding=1, groups=8)).to(dtype)


@pytest.mark.parametrize("batch", ["dynamic", 1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_onnx_says_at_once_what_is_computed_with(dtype, batch, tmp_path, monkeypatch) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("dyvision.export.onnx.prepared", None)  # nothing is begun
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=rf"^DyConv2d has parameters of {name}, .*\(float32, float16\).*\.float\(\)$"):
        export_onnx(depthwise(dtype), tmp_path / "a.onnx", image_size=8, channels=8, batch=batch)
    assert not list(tmp_path.iterdir())


def test_one_parameter_is_enough(tmp_path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    network = nn.Sequential(depthwise(torch.float32), nn.BatchNorm2d(8).bfloat16())
    with pytest.raises(ValueError, match="has parameters of bfloat16"):
        export_onnx(network, tmp_path / "a.onnx", image_size=8, channels=8)


def test_openvino_says_it_too(tmp_path) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(
        ValueError, match=r"parameters of bfloat16, with which OpenVINO .*float64\): export model\.float"
    ):
        export_openvino(depthwise(torch.bfloat16), tmp_path / "a.xml", image_size=8, channels=8)


def test_half_precision_is_exported(tmp_path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    network = depthwise(torch.float16)
    export_onnx(network, tmp_path / "a.onnx", image_size=8, channels=8)
    x = torch.randn(3, 8, 8, 8).half()
    with torch.no_grad():
        expected = network(x)
    torch.testing.assert_close(call(tmp_path / "a.onnx", x)[0], expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_pytorch_runs_its_own_programs_of_any_type(dtype, tmp_path) -> None:
    assert export_program(nn.Conv2d(3, 4, 3).to(dtype), tmp_path / "a.pt2", image_size=8).error == 0


def test_a_file_that_cannot_be_run_has_its_own_name_in_the_error(tmp_path, monkeypatch) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("dyvision.export.onnx._TYPES", (torch.float64,))
    with pytest.raises(ValueError, match=r"a\.onnx, which was not written, cannot be run by ONNX Runtime") as caught:
        export_onnx(nn.Conv2d(3, 4, 3).double(), tmp_path / "a.onnx", image_size=8)
    assert ".part." not in str(caught.value)
