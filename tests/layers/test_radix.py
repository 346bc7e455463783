"""If these fail, an exported FDConv has other kernels than in PyTorch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dyvision.layers import get_layer
from dyvision.layers._radix import fft2

SIDES = st.integers(1, 40) | st.sampled_from([48, 96, 135, 192])


@given(height=SIDES, width=SIDES, inverse=st.booleans())
def test_a_transform_of_any_length_is_that_of_torch(height, width, inverse) -> None:
    x = torch.randn(2, height, width, dtype=torch.complex128)
    expected = torch.fft.ifft2(x) if inverse else torch.fft.fft2(x)
    torch.testing.assert_close(fft2(x, inverse), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("channels", [10, 48])
def test_fdconv_is_as_precise_in_onnx_runtime_as_in_pytorch(channels, tmp_path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from dyvision.export import export_onnx

    torch.manual_seed(0)
    layer = get_layer("fdconv")(channels, channels, 3, padding=1).eval()
    file = export_onnx(layer, tmp_path / "layer.onnx", image_size=(10, 14), channels=channels, batch=2)
    assert file.error < 5e-6
