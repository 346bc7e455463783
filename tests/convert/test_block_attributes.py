"""If these fail, a block that was rewritten to share a branch goes on with numbers and flags that it no longer has."""

from __future__ import annotations

import copy
import enum
import pickle
import warnings
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dyvision
from dyvision.layers import CoefficientBranch, get_layer, list_layers

SHARING = [name for name in list_layers() if getattr(get_layer(name), "shares_coefficients", False)]


class _Block(nn.Module):
    """Two convolutions; subclasses say what they read besides."""

    expansion = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(6, 6, 3, padding=1)
        self.inner = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1))
        self.norm = nn.BatchNorm2d(6)
        self.scale, self.times, self.on, self.mode, self.shift, self.window = 0.1, 1, False, "a", None, (2, 2)

    def run(self, x):
        return self.norm(self.inner(self.conv1(x)))


class ScaleBlock(_Block):
    def forward(self, x):
        return x + self.run(x) * self.scale


class PropertyBlock(_Block):
    @property
    def half(self):
        return self.scale / 2

    def forward(self, x):
        return x + self.run(x) * self.half


class ClassBlock(_Block):
    def forward(self, x):
        return x + self.run(x) * self.expansion


class InnerBlock(_Block):
    def forward(self, x):
        return x + self.run(x) * self.norm.momentum


class CheckedBlock(_Block):
    """Its branch is chosen by one number, its sum by another."""

    def forward(self, x):
        for _ in range(self.times):
            x = x + self.run(x) * self.scale
        return x


class SizeBlock(_Block):
    def forward(self, x):
        return F.interpolate(F.adaptive_avg_pool2d(self.run(x), self.times + 1), size=x.shape[2:])


class FlagBlock(_Block):
    def forward(self, x):
        return x + self.run(x) if self.on else self.run(x)


class TimesBlock(_Block):
    def forward(self, x):
        return sum(self.run(x) for _ in range(self.times))


class ModeBlock(_Block):
    def forward(self, x):
        return self.run(x) if self.mode == "a" else x


class ShiftBlock(_Block):
    def forward(self, x):
        return self.run(x) if self.shift is None else self.run(x) + self.shift


class WindowBlock(_Block):
    def forward(self, x):
        return F.avg_pool2d(self.run(x), self.window)


class Kind(enum.IntEnum):
    A = 1
    B = 2


class PrivateBlock(_Block):
    def __init__(self) -> None:
        super().__init__()
        self._scale, self._on, self.kind, self.times = 0.1, False, Kind.A, np.int64(1)

    def forward(self, x):
        output = sum(self.run(x) for _ in range(self.times)) * self._scale
        if self.kind is Kind.B:
            output = output + 1
        return x + output if self._on else output


class NumPyBlock(_Block):
    def __init__(self) -> None:
        super().__init__()
        self.scale = np.float64(0.1)

    def forward(self, x):
        return x + self.run(x) * self.scale


class WideBlock(_Block):
    def forward(self, x):
        return x + self.run(x) if x.shape[-1] > 7 else self.run(x)


class BatchBlock(_Block):
    def forward(self, x):
        return self.run(x) if len(x) == 1 else 2 * self.run(x)


class HalvesBlock(_Block):
    def forward(self, x):
        high, wide = x.shape[2:]
        return F.interpolate(F.adaptive_avg_pool2d(self.run(x), (high // 2, wide // 2)), size=(high, wide))


#: class of the block, attribute, another value of it
FOLLOWED = [
    (ScaleBlock, "scale", 3.0),
    (ScaleBlock, "scale", 2),
    (PropertyBlock, "scale", 3.0),
    (ClassBlock, "expansion", -1.0),
    (InnerBlock, "norm.momentum", 0.7),
    (CheckedBlock, "scale", 3.0),
    (SizeBlock, "times", 3),
    (PrivateBlock, "_scale", 3.0),
    (NumPyBlock, "scale", np.float64(3)),
]
REFUSED = [
    (FlagBlock, "on", True),
    (TimesBlock, "times", 2),
    (CheckedBlock, "times", 2),
    (ModeBlock, "mode", "b"),
    (ShiftBlock, "shift", 1.0),
    (WindowBlock, "window", (4, 4)),
    (PrivateBlock, "_on", True),
    (PrivateBlock, "kind", Kind.B),
    (PrivateBlock, "times", np.int64(2)),
]


def twins(block, layer):
    """A network, and the same one with a branch per block, in double precision."""
    torch.manual_seed(0)
    static = nn.Sequential(nn.Conv2d(3, 6, 3), block()).double().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no block keeps a branch per layer
        dynamic = dyvision.dynamize(copy.deepcopy(static), layer, "1.*")
    assert [name for name, module in dynamic.named_modules() if type(module).__name__ == block.__name__] == ["1"]
    assert isinstance(dynamic[1].coefficient_branch, CoefficientBranch)
    return static, dynamic


def change(model, attribute, value) -> None:
    holder, _, name = f"1.{attribute}".rpartition(".")
    setattr(model.get_submodule(holder), name, value)


def ways(model):
    """The model, and what else it becomes."""
    copied = copy.deepcopy(model)
    return [model, copied, pickle.loads(pickle.dumps(model)), copy.deepcopy(pickle.loads(pickle.dumps(copied)))]


def assert_same(one, other, sizes=((2, 12, 13), (1, 9, 12), (3, 6, 20), (1, 20, 6))) -> None:
    for batch, *sides in sizes:
        x = torch.randn(batch, 3, *sides, dtype=torch.double)
        torch.testing.assert_close(one(x), other(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("case", "layer"), [*product(FOLLOWED, ["condconv"]), *product(FOLLOWED[:1], SHARING)])
def test_numbers_are_followed(case, layer) -> None:
    block, attribute, value = case
    static, dynamic = twins(block, layer)
    assert_same(dynamic, static)
    before = ways(dynamic)  # taken before the change, and changed then
    for model in (static, *before):
        change(model, attribute, value)
    for model in [*before, *ways(dynamic)]:
        assert_same(model, static)
    x = torch.randn(2, 3, 12, 13, dtype=torch.double)
    torch.testing.assert_close(torch.export.export(dynamic, (x,)).module()(x), static(x), rtol=1e-9, atol=1e-9)
    collapsed = dyvision.collapse(dynamic, [x])
    assert type(collapsed[1]) is block
    assert_same(collapsed, static)


def test_compilers_follow_numbers() -> None:
    static, dynamic = twins(ScaleBlock, "condconv")
    compiled = torch.compile(dynamic, backend="aot_eager", fullgraph=True)
    assert_same(compiled, static, [(2, 12, 13)])
    for model in (static, dynamic):
        change(model, "scale", 3.0)
    assert_same(compiled, static, [(2, 12, 13)])


@pytest.mark.parametrize(("case", "layer"), [*product(REFUSED, ["condconv"]), *product(REFUSED[:1], SHARING)])
def test_what_chooses_a_path_is_no_longer_changed_in_silence(case, layer) -> None:
    block, attribute, value = case
    static, dynamic = twins(block, layer)
    assert_same(dynamic, static)
    for model in ways(dynamic):
        before = getattr(model[1], attribute)
        change(model, attribute, value)
        with pytest.raises(ValueError, match=rf"rewritten with self\.{attribute} = .*dynamize") as caught:
            model(torch.randn(1, 3, 12, 12, dtype=torch.double))
        assert "\n" not in str(caught.value)
        change(model, attribute, before)
        assert_same(model, static)


@pytest.mark.parametrize("block", [WideBlock, BatchBlock])
def test_a_path_that_the_size_chooses_is_not_lost(block) -> None:
    torch.manual_seed(0)
    static = nn.Sequential(nn.Conv2d(3, 6, 3), block()).double().eval()
    with pytest.warns(UserWarning, match="keep a branch each"):
        dynamic = dyvision.dynamize(copy.deepcopy(static), "condconv", "1.*")
    assert type(dynamic[1]) is block
    assert_same(dynamic, static)


def test_sizes_are_followed() -> None:
    static, dynamic = twins(HalvesBlock, "condconv")
    assert_same(dynamic, static)
