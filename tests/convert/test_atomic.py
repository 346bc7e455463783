"""If these fail, a conversion that stops half-way leaves a network that is neither static nor dynamic."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

from dyvision import create_model, dynamize, list_layers
from dyvision.layers import DynamicConv2d

DYNAMIC = [name for name in list_layers() if name != "static"]


def state_of(model):
    """Everything that identifies a network: modules, parameters, flags, hooks and attributes."""
    return [
        (
            name,
            id(module),
            type(module),
            module.training,
            [(key, id(p), p.requires_grad) for key, p in module.named_parameters(recurse=False)],
            [(key, id(b)) for key, b in module.named_buffers(recurse=False)],
            list(module._forward_hooks),
            sorted(key for key in vars(module)),
        )
        for name, module in model.named_modules()
    ]


def network():
    model = create_model("test_resnet", num_classes=5).eval()
    model.layer1.train()
    model.layer2[0].conv1.weight.requires_grad_(False)
    model.layer3.register_forward_hook(lambda *_: None)
    return model


def fails_at(monkeypatch, method, number):
    """Let the ``number``-th call of a method of all layers fail."""
    calls, plain = [0], getattr(DynamicConv2d, method).__func__

    def failing(cls, *args, **kwargs):
        calls[0] += 1
        if calls[0] == number:
            raise RuntimeError("no memory left")
        return plain(cls, *args, **kwargs)

    monkeypatch.setattr(DynamicConv2d, method, classmethod(failing))


@pytest.mark.parametrize("layer", DYNAMIC)
def test_a_model_is_what_it_was_after_an_error_in_the_middle(layer, monkeypatch) -> None:
    model, x = network(), torch.randn(2, 3, 64, 64)
    before, numbers, expected = state_of(model), copy.deepcopy(model.state_dict()), copy.deepcopy(model).eval()(x)
    fails_at(monkeypatch, "from_conv", 5)
    with pytest.raises(RuntimeError, match="no memory"):
        dynamize(model, layer, policy="blocks")
    assert state_of(model) == before
    assert all(torch.equal(tensor, numbers[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(copy.deepcopy(model).eval()(x), expected)
    monkeypatch.undo()
    dynamize(model, layer, policy="blocks")  # nothing stands in the way of the second try


@pytest.mark.parametrize("layer", ["condconv", "dyconv", "kernelwarehouse"])
def test_a_warning_that_is_an_error_changes_nothing_either(layer) -> None:
    class TwoInputs(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)
            self.extra = nn.Conv2d(8, 8, 3, padding=1)
            self.extra.register_forward_hook(lambda *_: None)

        def forward(self, x, other=None):
            return self.extra(self.conv(x))

    model = nn.Sequential(nn.Conv2d(3, 8, 3), TwoInputs())
    before = state_of(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning):
            dynamize(model, layer, policy="all")
    assert state_of(model) == before


class RemembersBlock(nn.Module):
    """A block by its name, whose forward stores what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.seen: list[torch.Size] = []

    def forward(self, x):
        self.last = x
        self.seen.append(x.shape)
        return self.conv2(self.conv1(x))


RemembersBlock.__name__ = "ResidualBlock"


@pytest.mark.parametrize("layer", ["condconv", "dynet", "weightnet"])
def test_looking_at_a_block_leaves_nothing_in_it(layer) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), RemembersBlock())
    dynamize(model, layer, policy="blocks")
    assert not hasattr(model[1], "last") and model[1].seen == []
    assert pickle.dumps(model.state_dict())
