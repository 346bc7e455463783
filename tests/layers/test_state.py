"""What is done to parameters and buffers from outside: averages, other types, the meta device, state dicts."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

from dyvision.layers import get_layer, list_layers
from dyvision.layers.condinst import DynamicMaskHead

#: integers are rounded down at these: 0.9 * 6 + 0.1 * 6 is 5
AVERAGES = {
    "mean": {},
    "ema": {"multi_avg_fn": get_ema_multi_avg_fn(0.9)},
    "slow ema": {"multi_avg_fn": get_ema_multi_avg_fn(0.9999)},
    "ema, one by one": {"avg_fn": get_ema_avg_fn(0.95)},
}


def build(name: str, kernel: int = 3, **kwargs) -> nn.Module:
    return get_layer(name)(20, 24, kernel, padding=kernel // 2, **kwargs)


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("name", list_layers())
def test_the_average_of_equal_models_is_that_model(name, average) -> None:
    layer, x = build(name), torch.randn(2, 20, 6, 7)
    if name == "kernelwarehouse":
        layer.set_mixing(0.5)
    if name == "dgc":
        layer.set_progress(1.0)
    averaged = AveragedModel(layer, use_buffers=True, **AVERAGES[average])
    for _ in range(25):
        averaged.update_parameters(layer)
    torch.testing.assert_close(averaged.eval()(x), layer.eval()(x))
    loaded = build(name).eval()
    loaded.load_state_dict(averaged.module.state_dict())
    torch.testing.assert_close(loaded(x), layer(x))


def test_the_average_of_a_schedule_follows_it() -> None:
    layer = build("dgc")
    averaged = AveragedModel(layer, use_buffers=True, avg_fn=get_ema_avg_fn(0.9))
    averaged.update_parameters(layer)
    layer.set_progress(1.0)
    for _ in range(100):
        averaged.update_parameters(layer)
    gates = averaged.module.eval().coefficients(torch.randn(2, 20, 6, 7))
    assert ((gates == 0).sum(2) >= 15).all()


def test_the_average_of_a_mask_head_keeps_its_constants() -> None:
    head = nn.Sequential(DynamicMaskHead(sizes_of_interest=[6, 7, 13]), nn.Linear(1, 1))
    averaged = AveragedModel(head, use_buffers=True, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in range(5):
        averaged.update_parameters(head)
    assert averaged.module.state_dict()["0.sizes_of_interest"].tolist() == [6, 7, 13]


def test_a_constant_that_a_loader_makes_a_parameter_of_stays_one() -> None:
    layer = build("fdconv")
    expected = {name for name, _ in layer.named_parameters()}
    layer.order = nn.Parameter(layer.order.clone(), requires_grad=False)
    assert {name for name, _ in layer.named_parameters()} == expected
    assert "order" in layer.state_dict()


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("name", list_layers())
def test_a_layer_from_the_meta_device_takes_over_a_state_dict(name, kernel) -> None:
    trained, x = build(name, kernel).eval(), torch.randn(2, 20, 6, 7)
    with torch.device("meta"):
        layer = build(name, kernel).eval()
    layer.load_state_dict(trained.state_dict(), assign=True)
    torch.testing.assert_close(layer(x), trained(x))
    assert not any(tensor.is_meta for tensor in [*layer.parameters(), *layer.buffers()])
    torch.testing.assert_close(copy.deepcopy(layer).to("cpu")(x), trained(x))


@pytest.mark.parametrize("name", list_layers())
def test_a_layer_from_the_meta_device_is_moved_and_filled(name) -> None:
    trained, x = build(name).eval(), torch.randn(2, 20, 6, 7)
    layer = copy.deepcopy(trained).to("meta").to_empty(device="cpu")
    layer.load_state_dict(trained.state_dict())
    torch.testing.assert_close(layer(x), trained(x))


def test_state_dicts_with_integer_buffers_load() -> None:
    """As they were written when the order of frequencies and the number of dropped channels were such buffers."""
    layer = build("fdconv")
    state = {**layer.state_dict(), "order": layer.order.flip(0)}
    other = build("fdconv")
    other.load_state_dict(state)
    assert other.order.dtype == torch.int32 and torch.equal(other.order, layer.order.flip(0))
    state["order"] = state["order"][:5]
    with pytest.raises(RuntimeError, match="size mismatch for order"):
        other.load_state_dict(state)
    del state["order"]
    with pytest.raises(RuntimeError, match=r"Missing key.*order"):
        other.load_state_dict(state)
    assert other.load_state_dict(state, strict=False).missing_keys == ["order"]
    dgc = build("dgc")
    dgc.load_state_dict({**dgc.state_dict(), "inactive_channels": torch.tensor(7)})
    assert int(dgc.inactive_channels) == 7
    dgc.load_state_dict({**dgc.state_dict(), "inactive_channels": torch.tensor(9)}, assign=True)
    assert ((dgc.eval().coefficients(torch.randn(2, 20, 6, 7)) == 0).sum(2) >= 9).all()


def test_schedules_and_constants_stay_exact_in_half_precision() -> None:
    dgc, dyconv, fdconv = build("dgc"), build("dyconv", temperature=1 / 3), build("fdconv")
    dgc.inactive_channels.fill_(385)
    order = fdconv.order.clone()
    for layer in (dgc, dyconv, fdconv):
        layer.to(torch.bfloat16).half().float()
    assert int(dgc.inactive_channels) == 385 and dyconv.temperature == torch.tensor(1 / 3)
    assert torch.equal(fdconv.order, order)
