"""If these fail, heads see the wrong channels, or the schedule drops the wrong number of them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dyvision.layers.dgc import DGConv2d, record_gates, sparsity


def perturbed(*args, **kwargs) -> DGConv2d:
    layer = DGConv2d(*args, **kwargs).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return layer


def reference(layer: DGConv2d, x: torch.Tensor, dropped: int) -> torch.Tensor:
    """Gate, convolve and concatenate head by head, then shuffle, as the paper draws it (one group)."""
    if layer.norm is not None:
        x = torch.relu(layer.norm(x))
    heads, outputs = layer.heads, []
    for sample in x[:, None]:
        pooled, parts = sample.mean((2, 3))[0], []
        for n in range(heads):
            first = layer.branch.fc1.weight.chunk(heads)[n]
            gates = torch.relu(layer.branch.weight[n] @ torch.relu(first @ pooled) + layer.branch.bias[n])
            if dropped:
                gates = torch.where(gates <= gates.sort().values[dropped - 1], 0, gates)
            kernel = layer.weight[n::heads]
            parts.append(F.conv2d(gates[:, None, None] * sample, kernel, None, layer.stride, layer.padding))
        shuffled = torch.cat(parts, 1).unflatten(1, (heads, -1)).transpose(1, 2).flatten(1, 2)
        outputs.append(shuffled if layer.bias is None else shuffled + layer.bias[:, None, None])
    return torch.cat(outputs)


@pytest.mark.parametrize("pre_activation", [False, True])
@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (3, 2, 1)])
def test_agrees_with_a_loop_over_heads(kernel, stride, padding, progress, pre_activation) -> None:
    layer = perturbed(12, 6, kernel, stride, padding, heads=3, squeeze_rate=4, pre_activation=pre_activation).eval()
    layer.set_progress(progress)
    x = torch.randn(3, 12, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x), reference(layer, x, {0.0: 0, 0.4: 4, 1.0: 9}[progress]))


def test_groups_gate_each_output_by_its_own_inputs() -> None:
    layer = perturbed(12, 8, 3, padding=1, groups=2, heads=4)
    dense = perturbed(12, 8, 3, padding=1, heads=4)
    dense.load_state_dict({**layer.state_dict(), "weight": torch.zeros_like(dense.weight)})
    with torch.no_grad():
        dense.weight[:4, :6], dense.weight[4:, 6:] = layer.weight[:4], layer.weight[4:]
    x = torch.randn(2, 12, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x), dense(x))


@pytest.mark.parametrize(("progress", "dropped"), [(0, 0), (1 / 12, 0), (0.4, 11), (0.75, 24), (1, 24)])
def test_schedule(progress, dropped) -> None:
    layer = DGConv2d(32, 8, 1)
    layer.set_progress(progress)
    assert layer.inactive_channels == dropped == round(32 * 0.75 * min(max(1.5 * (progress - 1 / 12), 0), 1))
    other = DGConv2d(32, 8, 1)
    other.load_state_dict(layer.state_dict())
    assert other.inactive_channels == dropped


def test_dropping_after_a_static_start_keeps_the_rest() -> None:
    conv, x = nn.Conv2d(32, 8, 3), torch.randn(2, 32, 9, 8)
    layer = DGConv2d.from_conv(conv)
    torch.testing.assert_close(layer(x), conv(x), rtol=1e-5, atol=1e-5)
    layer.set_progress(1.0)
    assert ((layer.coefficients(x) > 0).sum(2) == 8).all()
    layer(x).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert name == "branch.fc1.weight" or parameter.grad.abs().sum() > 0, name


def test_gates_are_recorded_before_dropping() -> None:
    model = nn.Sequential(DGConv2d(16, 8, 1), DGConv2d(8, 8, 1))
    model[0].set_progress(1.0)
    x = torch.randn(2, 16, 5, 5)
    with record_gates(model) as gates:
        model(x)
    model(x)
    assert [tuple(g.shape) for g in gates] == [(2, 4, 16), (2, 4, 8)]
    torch.testing.assert_close(gates[0], model[0].branch(x))
    torch.testing.assert_close(sparsity(gates[0]), sum(gates[0][:, n].mean() for n in range(4)))
    sparsity(gates[1]).backward()
    assert model[0].branch.bias.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"heads": 3}, "heads must divide out_channels=8"),
        ({"heads": 0}, "heads must be a positive int"),
        ({"gate_factor": 0}, "gate_factor must be in"),
        ({"squeeze_rate": 0}, "squeeze_rate must be"),
    ],
)
def test_bad_arguments_are_named(arguments, text) -> None:
    with pytest.raises(ValueError, match=text):
        DGConv2d(16, 8, 1, **arguments)
    with pytest.raises(ValueError, match="progress must be in"):
        DGConv2d(16, 8, 1).set_progress(1.5)
