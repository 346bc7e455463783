"""If these fail, ODConv weighs the wrong dimension of its kernels, or leaves out an attention it should have."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dyvision.checkpoints.methods.odconv import build_layer, layer_state
from dyvision.layers.odconv import ODConv2d

# in, out, kernel, stride, groups, kernels: attentions beside the channel one
CASES = [
    ((6, 10, 3, 2, 1, 4), ("filter", "spatial", "kernel")),
    ((6, 10, (1, 3), 1, 2, 3), ("filter", "spatial", "kernel")),
    ((6, 10, 3, 1, 1, 1), ("filter", "spatial")),
    ((6, 10, 1, 1, 1, 4), ("filter", "kernel")),
    ((6, 10, 1, 2, 1, 1), ("filter",)),
    ((6, 6, 3, 1, 6, 4), ("spatial", "kernel")),
    ((6, 12, 3, 1, 6, 2), ("filter", "spatial", "kernel")),
]


def build(case, **kwargs) -> ODConv2d:
    inputs, outputs, kernel, stride, groups, count = case
    layer = ODConv2d(inputs, outputs, kernel, stride, 0, groups=groups, num_kernels=count, **kwargs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return layer


def by_hand(layer: ODConv2d, sample: torch.Tensor) -> torch.Tensor:
    """The formula for one sample in evaluation mode, from the bare parameters."""
    branch, t = layer.branch, layer.temperature
    z = branch.fc.weight @ sample.mean((1, 2))
    z = (z - branch.bn.running_mean) / (branch.bn.running_var + branch.bn.eps).sqrt() * branch.bn.weight
    h = (z + branch.bn.bias).clamp_min(0)

    def logits(head):
        return (head.weight @ h + head.bias) / t

    kernel = layer.weight
    if branch.kernel_fc is not None:
        weights = logits(branch.kernel_fc).exp()
        kernel = sum(w * k for w, k in zip(weights / weights.sum(), kernel, strict=True))[None]
    if branch.spatial_fc is not None:
        kernel = kernel * logits(branch.spatial_fc).sigmoid().view(layer.kernel_size)
    x = sample * logits(branch.channel_fc).sigmoid()[:, None, None]
    y = F.conv2d(x[None], kernel[0], None, layer.stride, layer.padding, layer.dilation, layer.groups)[0]
    if branch.filter_fc is not None:
        y = y * logits(branch.filter_fc).sigmoid()[:, None, None]
    return y if layer.bias is None else y + layer.bias[:, None, None]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("case", "attentions"), CASES, ids=str)
def test_agrees_with_the_formula_written_out(case, attentions, bias) -> None:
    layer = build(case, bias=bias, temperature=2.0).double()
    x = torch.randn(5, 6, 9, 8, dtype=torch.float64) + torch.randn(5, 6, 1, 1, dtype=torch.float64)
    layer(x)  # running statistics that differ from 0 and 1
    layer.eval()
    torch.testing.assert_close(layer(x), torch.stack([by_hand(layer, sample) for sample in x]))
    coefficients = layer.coefficients(x)._asdict()
    assert {name for name, tensor in coefficients.items() if tensor is not None} == {"channel", *attentions}


@pytest.mark.parametrize(("case", "attentions"), CASES, ids=str)
def test_starts_as_the_static_convolution_and_learns(case, attentions) -> None:
    inputs, outputs, kernel, stride, groups, count = case
    conv = torch.nn.Conv2d(inputs, outputs, kernel, stride, 0, groups=groups)
    layer = ODConv2d.from_conv(conv, num_kernels=count)
    x = torch.randn(4, 6, 9, 8)
    torch.testing.assert_close(layer(x), conv(x), rtol=1e-5, atol=1e-5)
    # the heads' weights are zero: what is before them learns from the second step on
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    layer(x).square().mean().backward()
    optimizer.step()
    layer.zero_grad()
    layer(x).square().mean().backward()
    assert [name for name, p in layer.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_gradients_are_those_of_finite_differences() -> None:
    layer = build(CASES[1][0]).double().eval()
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))


def test_width_of_the_hidden_layer() -> None:
    assert ODConv2d(64, 64, 1).branch.fc.out_features == 16
    assert ODConv2d(512, 64, 1).branch.fc.out_features == 32
    assert ODConv2d(64, 64, 1, reduction=1 / 8, min_width=4).branch.fc.out_features == 8


def test_temperature_flattens_every_attention_and_is_saved() -> None:
    layer, x = build(CASES[0][0]).eval(), torch.randn(3, 6, 9, 8)
    sharp = layer.coefficients(x)
    layer.set_temperature(30.0)
    for before, after in zip(sharp, layer.coefficients(x), strict=True):
        assert after.std() < before.std() / 5
    other = build(CASES[0][0])
    other.load_state_dict(layer.state_dict())
    assert other.temperature == 30


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"num_kernels": 0}, "num_kernels must be a positive int, got 0"),
        ({"reduction": 0.0}, "reduction must be positive, got 0.0"),
        ({"min_width": -1}, "min_width must be a positive int, got -1"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ],
)
def test_bad_arguments_are_named(arguments, text) -> None:
    with pytest.raises(ValueError, match=text):
        ODConv2d(6, 10, 3, **arguments)


def test_official_arguments_and_names() -> None:
    layer = build_layer("ODConv2d", {"in_planes": 6, "out_planes": 10, "kernel_size": 3}, {})
    assert (layer.num_kernels, layer.padding, layer.bias, layer.temperature.item()) == (4, (0, 0), None, 1)
    official = {
        name.replace("branch", "attention"): value[..., None, None] if "fc.weight" in name else value
        for name, value in layer.state_dict().items()
        if name != "temperature"
    }
    translated = layer_state(official)
    assert layer.load_state_dict(translated, strict=False).missing_keys == ["temperature"]
    with pytest.raises(ValueError, match="official_class must be ODConv2d"):
        build_layer("Conv2d", {}, {})
