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


class OfOneType(Rounding):
    """Cannot be run in double precision; how it fails is its own."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__(2.0**15)
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise self.error("only single precision")
        return super().forward(x)


@pytest.mark.parametrize("error", [RuntimeError, TypeError, NotImplementedError, ValueError, AssertionError, KeyError])
def test_a_network_of_one_type_is_checked_like_others(error):
    network = OfOneType(error)
    found = check(Path("x.onnx"), "a program", lambda images: [network(images)], network, IMAGES, 2e-4)
    assert [one.error for one in found] == [0, 0]
    with pytest.raises(
        ValueError, match=r"x\.onnx was not written: .* differs from PyTorch's by .* \(tolerance=0.0002\)$"
    ):
        check(Path("x.onnx"), "a program", run_exactly(), network, IMAGES, 2e-4)


def test_a_fault_of_the_network_itself_is_not_hidden():
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise TypeError("a fault")

    with pytest.raises(TypeError, match="a fault"):
        check(Path("x.onnx"), "a program", run_exactly(), Fails(), IMAGES, 2e-4)
