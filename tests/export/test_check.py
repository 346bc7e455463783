"""What an exported file may differ by."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dyvision.export._check import check
from dyvision.export._network import Images

IMAGES = Images.of(4, 2, False, 3, "normalised")


class Rounding(nn.Module):
    """Returns its input without the digits that do not fit beside a large number."""

    def __init__(self, large: float) -> None:
        super().__init__()
        self.large = nn.Parameter(torch.tensor(large), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.large) - self.large


def run_exactly(factor: float = 1.0):
    return lambda images: [images * factor]


def test_a_file_may_differ_by_what_pytorch_rounds():
    """PyTorch's own outputs are about 6e-4 from the exact ones: a file that computes these is right."""
    (first, second) = check(Path("x.onnx"), "a program", run_exactly(), Rounding(2.0**15), IMAGES, 2e-4)
    assert 2e-4 < max(first.error, second.error) < 2e-3


def test_rounding_excuses_no_more_than_itself():
    with pytest.raises(ValueError, match=r"x\.onnx was not written: .* differs from PyTorch's by"):
        check(Path("x.onnx"), "a program", run_exactly(1.1), Rounding(2.0**15), IMAGES, 2e-4)


def test_no_rounding_no_excuse():
    with pytest.raises(ValueError, match=r"\(tolerance=0.0002\)$"):
        check(Path("x.onnx"), "a program", run_exactly(1.0005), nn.Identity(), IMAGES, 2e-4)


def test_where_rounding_decides_nothing_can_be_checked():
    with pytest.raises(ValueError, match=r"rounding decides what this network computes: .* double precision"):
        check(Path("x.onnx"), "a program", run_exactly(), Rounding(2.0**22), IMAGES, 2e-4)


def test_not_a_number_is_no_agreement():
    with pytest.raises(ValueError, match="was not written"):
        check(Path("x.onnx"), "a program", run_exactly(float("nan")), Rounding(2.0**15), IMAGES, 2e-4)
