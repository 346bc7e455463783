"""Layers exported with a free batch, height and width, run at other sizes."""

from __future__ import annotations

import pytest
import torch

from dyvision.layers import get_layer, list_layers


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 2), (2, 2)])
@pytest.mark.parametrize("name", list_layers())
def test_exported_with_free_sizes_it_is_right_at_others(name, kernel, stride) -> None:
    layer = get_layer(name)(20, 24, kernel, stride, kernel // 2).eval()
    free = torch.export.Dim.DYNAMIC
    x = torch.randn(2, 20, 16, 16)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: free, 2: free, 3: free},))
    for size in [(3, 20, 25, 20), (2, 20, 12, 13)]:
        x = torch.randn(size)
        torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-4, atol=1e-4)
