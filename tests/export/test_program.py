"""If these fail, a program of torch.export is written with warnings that are none of its user's."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from dyvision.export import export_program


def test_weights_that_are_a_part_of_another_tensor(tmp_path) -> None:
    model = nn.Conv2d(3, 4, 3)
    model.weight = nn.Parameter(torch.randn(8, 3, 3, 3)[2:6])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        file = export_program(model, tmp_path / "a.pt2", image_size=8)
    assert file.error < 1e-5
    assert not [one for one in caught if "tensor found in the group" in str(one.message)]
