"""If these fail, a model that cannot be converted ends in a traceback instead of one line with a way out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dyvision


def _net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()


def _quantised():
    model = _net()
    model[3] = torch.ao.nn.qat.Conv2d(4, 4, 3, qconfig=torch.ao.quantization.get_default_qat_qconfig("fbgemm"))
    return model


VERBS = {
    "dynamize": lambda model: dyvision.dynamize(model, "dyconv"),
    "collapse": lambda model: dyvision.collapse(model, [torch.randn(1, 3, 16, 16)]),
    "fuse": lambda model: dyvision.fuse(model),
}


@pytest.mark.parametrize("verb", VERBS)
def test_scripted_and_quantised_models_are_named(verb):
    scripted = torch.jit.trace(_net(), torch.randn(1, 3, 16, 16))
    for model, reason in [
        (scripted, "TorchScript"),
        (nn.Sequential(nn.Conv2d(3, 3, 1), scripted), "1 is a TorchScript"),
        (_quantised(), "3 is quantised"),
    ]:
        with pytest.raises(ValueError, match=f"{reason}.*{verb} the") as caught:
            VERBS[verb](model)
        assert "\n" not in str(caught.value)


def test_nothing_to_convert_and_already_dynamic():
    with pytest.raises(ValueError, match="no convolution that can become dynamic"):
        dyvision.dynamize(nn.Linear(2, 2), "dyconv")
    model = dyvision.dynamize(_net(), "dyconv", policy="all")
    with pytest.raises(ValueError, match="2 are dynamic already"):
        dyvision.dynamize(model, "dcd", policy="all")
    with pytest.raises(ValueError, match="static already"):
        dyvision.collapse(_net(), [torch.randn(1, 3, 16, 16)])


def test_a_weight_of_two_names_is_named_with_the_way_out():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    model[2].weight = model[1].weight
    with pytest.warns(UserWarning, match=r"the weights that 1, 2 share.*a policy of patterns"):
        dyvision.dynamize(model, "dyconv")


@pytest.mark.parametrize("model", ["resnet18", None, [nn.Conv2d(3, 4, 3)]])
def test_what_is_no_model_is_named(model):
    for verb in (dyvision.dynamize, dyvision.fuse):
        arguments = ("dcd",) if verb is dyvision.dynamize else ()
        with pytest.raises(TypeError, match=f"takes an nn.Module, not a {type(model).__name__}"):
            verb(model, *arguments)
