"""If these fail, a block that was rewritten to share a branch ignores a change of what its ``forward`` reads."""

from __future__ import annotations

import copy
import functools
import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dyvision
from tests.convert.test_block_attributes import _Block, assert_same, twins, ways


@dataclass
class Settings:
    scale: float = 0.1


class _Holder(_Block):
    """Keeps what others read; reads nothing of it itself."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.settings, self.act = {"scale": 0.1}, Settings(), F.relu
        self.layers, self.free, self.size = [self.norm], torch.tensor(0.1).double(), torch.Size([2, 2])

    def forward(self, x):
        return self.run(x)


class HolderBlock(_Holder):
    pass


class TableBlock(_Holder):
    def forward(self, x):
        return x + self.run(x) * self.table["scale"]


class SettingsBlock(_Holder):
    def forward(self, x):
        return x + self.run(x) * self.settings.scale


class FunctionBlock(_Holder):
    def forward(self, x):
        return self.act(self.run(x))


class ModulesBlock(_Holder):
    def forward(self, x):
        return self.layers[0](self.inner(self.conv1(x)))


class TensorBlock(_Holder):
    def forward(self, x):
        return self.run(x) * (self.free * 2)


class WindowSizeBlock(_Holder):
    def forward(self, x):
        return F.avg_pool2d(self.run(x), tuple(self.size))


class DefaultBlock(_Block):
    def forward(self, x):
        return x + self.run(x) * getattr(self, "bonus", 1.0)


class HasBlock(_Block):
    def forward(self, x):
        return x + self.run(x) if hasattr(self, "bonus") else self.run(x)


class ElsewhereBlock(_Holder):
    def __getattr__(self, name):
        return vars(self)["table"]["scale"] if name == "found" else super().__getattr__(name)

    def forward(self, x):
        return x + self.run(x) * self.found


class EverywhereBlock(_Holder):
    def __getattribute__(self, name):
        return super().__getattribute__("table")["scale"] if name == "scale" else super().__getattribute__(name)

    def forward(self, x):
        return x + self.run(x) * self.scale


class CachedBlock(_Block):
    @functools.cached_property
    def twice(self):
        return self.scale * 2

    def forward(self, x):
        return x + self.run(x) * self.twice


class _Inside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.table = nn.Conv2d(6, 6, 1), {"scale": 0.1}
        self.register_parameter("gain", None)

    def forward(self, x):
        return self.conv(x) * self.table["scale"]


class InsideBlock(_Block):
    def __init__(self) -> None:
        super().__init__()
        self.inside = _Inside()

    def forward(self, x):
        return x + self.run(self.inside(x))


class BufferPathBlock(_Block):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gate", torch.tensor(0.1))

    def forward(self, x):
        return self.run(x) if self.gate < 1 else x + self.run(x)


class BufferBlock(BufferPathBlock):
    def forward(self, x):
        return self.run(x) * (self.gate * 2)


class UnsetBlock(_Block):
    """Holds places for what may be registered later."""

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("gain", None)
        self.register_buffer("offset", None)
        self.register_module("extra", None)

    def forward(self, x):
        output = self.run(x) if self.gain is None else self.run(x) * self.gain
        output = output if self.offset is None else output + self.offset
        return output if self.extra is None else self.extra(output)


class NameBlock(_Block):
    """Its flag has the name of a method that every module has."""

    def __init__(self) -> None:
        super().__init__()
        self.type = "a"

    def forward(self, x):
        return self.run(x) if self.type == "a" else x


def own_branches(block):
    """A network and its twin whose block keeps its own ``forward``; what the warning says."""
    torch.manual_seed(0)
    static = nn.Sequential(nn.Conv2d(3, 6, 3), block()).double().eval()
    with pytest.warns(UserWarning, match="keep a branch each") as caught:
        dynamic = dyvision.dynamize(copy.deepcopy(static), "condconv", "1.*")
    assert type(dynamic[1]) is block
    return static, dynamic, str(caught[0].message)


@pytest.mark.parametrize(
    ("block", "read", "attribute", "value"),
    [
        (TableBlock, "table, of type dict", "table", {"scale": 3.0}),
        (SettingsBlock, "settings, of type Settings", "settings", Settings(3.0)),
        (FunctionBlock, "act, of type function", "act", F.silu),
        (ModulesBlock, "layers, of type list", "layers", [nn.Tanh()]),
        (TensorBlock, "free, of type Tensor", "free", torch.tensor(3.0).double()),
        (WindowSizeBlock, "size, of type Size", "size", torch.Size([3, 3])),
        (DefaultBlock, "bonus, which is not there", "bonus", 3.0),
        (HasBlock, "bonus, which is not there", "bonus", 3.0),
        (ElsewhereBlock, "found, which its __getattr__ finds", "table", {"scale": 3.0}),
        (EverywhereBlock, "", "table", {"scale": 3.0}),
        (CachedBlock, "twice, of type float", "twice", 3.0),
        (InsideBlock, "inside.table, of type dict", "inside.table", {"scale": 3.0}),
        (BufferPathBlock, "", "gate", torch.tensor(2.0).double()),
    ],
)
def test_what_cannot_be_followed_stays_with_the_blocks_own_forward(block, read, attribute, value) -> None:
    static, dynamic, said = own_branches(block)
    assert not read or f"reads self.{read}: " in said
    x = torch.randn(2, 3, 12, 13).double()
    before = dynamic(x)
    for model in (static, *ways(dynamic)):
        holder, _, name = f"1.{attribute}".rpartition(".")
        setattr(model.get_submodule(holder), name, value)
        assert_same(model, static)
    assert not torch.equal(static(x), before)


def test_what_is_kept_but_not_read_is_none_of_it() -> None:
    assert_same(*twins(HolderBlock, "condconv"))


def test_what_is_computed_from_a_buffer_alone_is_no_constant() -> None:
    static, dynamic = twins(BufferBlock, "condconv")
    assert dynamic.state_dict().keys() >= static.state_dict().keys() - {"1.conv1.weight", "1.inner.0.weight"}
    static[1].gate.fill_(3.0)
    for model in ways(dynamic):
        model[1].gate.fill_(3.0)
        assert_same(model, static)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("gain", nn.Parameter(torch.tensor(2.0).double())), ("offset", torch.tensor(2.0).double()), ("extra", nn.Tanh())],
)
def test_what_is_registered_later_is_not_ignored(attribute, value) -> None:
    static, dynamic = twins(UnsetBlock, "condconv")
    assert_same(dynamic, static)
    collapsed = dyvision.collapse(copy.deepcopy(dynamic), [torch.randn(2, 3, 12, 13).double()])
    assert_same(collapsed, static)
    for model in ways(dynamic):
        setattr(model[1], attribute, value)
        with pytest.raises(ValueError, match=rf"rewritten with self\.{attribute} = None"):
            model(torch.randn(1, 3, 12, 12).double())
    for model in (static, collapsed):
        setattr(model[1], attribute, value)
    assert_same(collapsed, static)


def test_a_flag_with_the_name_of_a_method_is_a_flag() -> None:
    _, dynamic = twins(NameBlock, "condconv")
    for model in ways(dynamic):
        model[1].type = "b"
        with pytest.raises(ValueError, match=r"rewritten with self\.type = 'a'"):
            model(torch.randn(1, 3, 12, 12).double())


def test_constants_that_a_forward_makes_are_no_attributes() -> None:
    class ConstantBlock(_Block):
        def forward(self, x):
            return self.run(x) * torch.tensor(0.5)

    static = nn.Sequential(nn.Conv2d(3, 6, 3), ConstantBlock()).eval()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dynamic = dyvision.dynamize(copy.deepcopy(static), "condconv", "1.*")
    assert "_tensor_constant0, which" not in "".join(str(one.message) for one in caught)
    x = torch.randn(2, 3, 12, 13)
    torch.testing.assert_close(dynamic(x), static(x), rtol=1e-4, atol=1e-5)
