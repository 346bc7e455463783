"""What a layer is called with, as ``help()``, notebooks and ``inspect.signature`` show it, and all ways to give it."""

from __future__ import annotations

import copy
import inspect
import pickle
from functools import partial, partialmethod
from typing import Any, get_type_hints

import pytest
import torch
from torch import nn

from dyvision.layers import DyConv2d, DynamicConv2d, get_layer, list_layers
from dyvision.layers.arguments import Conv2dArguments, UnknownArgumentError, own_arguments
from dyvision.signatures import constructor_types, documented_arguments

DYNAMIC = [name for name in list_layers() if name != "static"]
CONV2D = inspect.signature(nn.Conv2d).parameters
#: another value than the default for each argument of nn.Conv2d that has one
OTHER = {
    "stride": (2, 1),
    "padding": (1, 2),
    "dilation": (1, 2),
    "groups": 2,
    "bias": False,
    "padding_mode": "reflect",
    "device": "meta",
    "dtype": torch.float64,
}


class Open(DyConv2d):
    """An own layer that hands everything on."""

    def __init__(self, *args: Any, mine: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mine = mine


class Two(DyConv2d):
    """An own layer whose constructor is another one with an argument set."""

    __init__ = partialmethod(DyConv2d.__init__, num_kernels=2)


class Stem(DyConv2d):
    """An own layer whose first argument may be left out."""

    def __init__(self, in_channels: int = 3, *args: Any, **kwargs: Any) -> None:
        super().__init__(in_channels, *args, **kwargs)


class Closed(DyConv2d):
    """An own layer that says itself what it takes."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, mine: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride)
        self.mine = mine


@pytest.mark.parametrize("name", list_layers())
def test_conv2d_s_arguments_come_first_with_their_defaults(name):
    parameters = list(inspect.signature(get_layer(name)).parameters.values())
    first, own = parameters[: len(CONV2D)], parameters[len(CONV2D) :]
    assert [p.name for p in first] == list(CONV2D)
    assert {p.name: (p.default, p.kind) for p in first} == {p.name: (p.default, p.kind) for p in CONV2D.values()}
    assert all(p.annotation is not p.empty for p in first)
    for parameter in own:
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.default is not parameter.empty and parameter.annotation is not parameter.empty
    assert bool(own) == (name != "static")


@pytest.mark.parametrize("name", DYNAMIC)
def test_every_argument_is_documented_and_has_a_type(name):
    layer, types = get_layer(name), constructor_types(get_layer(name))
    parameters = inspect.signature(layer).parameters
    assert documented_arguments(layer).keys() == parameters.keys() <= types.keys()


def test_what_a_type_checker_is_told_is_what_the_base_takes():
    base = get_type_hints(DynamicConv2d.__init__)
    with_defaults = [p.name for p in inspect.signature(DynamicConv2d).parameters.values() if p.default is not p.empty]
    told = get_type_hints(Conv2dArguments)
    assert list(told) == with_defaults
    assert told == {name: base[name] for name in with_defaults}


@pytest.mark.parametrize("name", list_layers())
def test_by_position_and_by_name_are_the_same(name):
    kind = get_layer(name)
    positional, named = kind(24, 32, 3, *OTHER.values()), kind(24, 32, 3, **OTHER)
    assert list(OTHER) == list(CONV2D)[3:]
    for layer in (positional, named):
        assert (layer.stride, layer.padding, layer.dilation, layer.groups) == ((2, 1), (1, 2), (1, 2), 2)
        assert layer.bias is None and layer.padding_mode == "reflect"
        for parameter in layer.parameters():
            assert parameter.device.type == "meta" and parameter.dtype == torch.float64
    assert {k: v.shape for k, v in positional.state_dict().items()} == {
        k: v.shape for k, v in named.state_dict().items()
    }


@pytest.mark.parametrize("name", list_layers())
def test_torch_s_skip_init_finds_the_device(name):
    layer = torch.nn.utils.skip_init(get_layer(name), 24, 32, 3, padding=1)
    assert {p.device.type for p in layer.parameters()} == {"cpu"}
    layer.reset_parameters()
    assert layer.eval()(torch.randn(1, 24, 5, 5)).shape == (1, 32, 5, 5)


@pytest.mark.parametrize("name", DYNAMIC)
def test_an_instance_is_not_its_constructor(name):
    layer = get_layer(name)(8, 8, 3)
    assert "in_channels" not in inspect.signature(layer).parameters
    assert not hasattr(layer, "__signature__")


def test_arguments_set_before():
    make = partial(DyConv2d, num_kernels=2)
    assert inspect.signature(make).parameters["num_kernels"].default == 2
    assert inspect.signature(make).parameters.keys() == inspect.signature(DyConv2d).parameters.keys()
    assert make(8, 8, 3, 2).weight.shape == (2, 8, 8, 3, 3)


def test_own_layers_show_what_they_hand_on():
    ours = inspect.signature(DyConv2d).parameters
    assert inspect.signature(Open).parameters.keys() == {*ours, "mine"}
    assert own_arguments(Open, DynamicConv2d) == ["mine", "num_kernels", "bank", "rank", "ratio", "temperature"]
    assert "stride" in documented_arguments(Open)
    assert inspect.signature(Two).parameters["num_kernels"].default == 2
    assert inspect.signature(Stem).parameters["in_channels"].default == 3
    assert inspect.signature(Stem).parameters.keys() == ours.keys()


@pytest.mark.parametrize("kind", [Open, Two, Stem])
def test_own_layers_are_called_as_the_method_is(kind):
    given = {"num_kernels": 2} if kind is not Two else {}
    for layer in (
        kind(8, 6, 3, 2, 1, **given),
        kind(in_channels=8, out_channels=6, kernel_size=3, stride=2, padding=1),
    ):
        assert layer(torch.randn(2, 8, 9, 9)).shape == (2, 6, 5, 5)
    layer = kind.from_conv(nn.Conv2d(8, 6, 3, dtype=torch.float64), **given)
    assert layer.weight.shape == (2, 6, 8, 3, 3) and layer.weight.dtype == torch.float64
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        x = torch.randn(2, 8, 9, 9, dtype=torch.float64)
        torch.testing.assert_close(twin(x), layer(x))
    with pytest.raises(UnknownArgumentError, match=f"{kind.__name__} has no argument 'num_kernel' .did you mean"):
        kind(8, 6, 3, num_kernel=2)


def test_a_layer_that_hands_nothing_on_takes_what_it_says():
    assert list(inspect.signature(Closed).parameters) == [
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "mine",
    ]
    assert own_arguments(Closed, DynamicConv2d) == ["mine"]
    assert Closed(8, 6, 3, 2, 5).mine == 5
