"""Layers exported with a free batch, height and width, run at other sizes."""

from __future__ import annotations

import pytest
import torch

from dyvision.layers import get_layer, list_layers


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (3, 2, 1), (2, 2, 1), (3, 2, "same")])
@pytest.mark.parametrize("name", list_layers())
def test_exported_with_free_sizes_it_is_right_at_others(name, kernel, stride, padding) -> None:
    layer = get_layer(name)(20, 24, kernel, stride, padding).eval()
    free = torch.export.Dim.DYNAMIC
    x = torch.randn(2, 20, 16, 16)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: free, 2: free, 3: free},))
    for size in [(3, 20, 25, 20), (2, 20, 12, 13)]:
        x = torch.randn(size)
        torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-4, atol=1e-4)


def bounded() -> tuple[dict[int, torch.export.Dim], ...]:
    """Batch, height and width by name, with bounds, which an export has to keep to."""
    dim = torch.export.Dim
    return ({0: dim("batch", min=1, max=64), 2: dim("height", min=4, max=128), 3: dim("width", min=4, max=128)},)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inputs", "outputs", "geometry"),
    [
        (20, 24, {"kernel_size": 1}),
        (64, 48, {"kernel_size": 3, "padding": 1}),
        (20, 24, {"kernel_size": 3, "padding": 1, "stride": 2}),
        (20, 24, {"kernel_size": 3, "padding": 2, "dilation": 2, "stride": 3, "groups": 4}),
        (24, 24, {"kernel_size": 5, "padding": 2, "stride": 2, "groups": 24}),
        (20, 24, {"kernel_size": (2, 3), "padding": (0, 1), "stride": (1, 2)}),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", list_layers())
def test_exported_with_named_bounded_sizes_it_is_right_at_others(name, inputs, outputs, geometry) -> None:
    if name == "drconv" and geometry.get("stride") == 3:
        pytest.skip("documented: its guide and its output have the same size, but torch cannot prove it at this stride")
    layer = get_layer(name)(inputs, outputs, **geometry).eval()
    program = torch.export.export(layer, (torch.randn(2, inputs, 16, 16),), dynamic_shapes=bounded())
    for size in [(3, inputs, 25, 20), (1, inputs, 4, 5), (2, inputs, 31, 12)]:
        x = torch.randn(size)
        torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (3, 2, 1), (3, 2, "same")])
@pytest.mark.parametrize("name", list_layers())
def test_onnx_runtime_agrees_at_other_sizes(name, kernel, stride, padding, tmp_path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    layer = get_layer(name)(20, 24, kernel, stride, padding).eval()
    free = torch.export.Dim.DYNAMIC
    shapes = ({0: free, 2: free, 3: free},)
    path, example = tmp_path / "layer.onnx", (torch.randn(2, 20, 16, 16),)
    torch.onnx.export(layer, example, path, dynamo=True, verbose=False, dynamic_shapes=shapes)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for size in [(3, 20, 25, 20), (1, 20, 12, 13)]:
        x = torch.randn(size)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), layer(x), rtol=1e-4, atol=1e-4)


def test_bands_of_fdconv_are_right_at_sizes_whose_masks_are_not_symmetric() -> None:
    """At its start the gates are one and the bands add up to the input, whatever the masks are."""
    layer = get_layer("fdconv")(20, 24, 3, padding=1).eval()
    with torch.no_grad():
        layer.bands.weight.normal_(std=0.3)
    free = torch.export.Dim.DYNAMIC
    with torch.no_grad():
        program = torch.export.export(
            layer, (torch.randn(2, 20, 16, 16),), dynamic_shapes=({0: free, 2: free, 3: free},), strict=False
        ).module()
        for size in [(17, 17), (40, 40), (25, 20), (12, 13)]:
            x = torch.randn(2, 20, *size)
            torch.testing.assert_close(program(x), layer(x), rtol=1e-4, atol=1e-4)
