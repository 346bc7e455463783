"""A factorised bank is a bank: it computes what its K kernels, written out, compute, and starts where they start."""

from __future__ import annotations

import copy
import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from dyvision import collapse, fuse
from dyvision.layers import get_layer
from dyvision.layers.arguments import DoesNotFitError
from dyvision.layers.bank import BankedConv2d
from dyvision.ops.tucker import Ranks, truncated_hosvd

BANKED = ["condconv", "dyconv", "dynet", "odconv"]


def build(name: str, inputs=8, outputs=12, kernel=3, rank: float = 0.5, spread=0.2, **kwargs) -> BankedConv2d:
    """A layer in double precision, its coefficients away from their start."""
    kwargs = {"padding": kernel // 2 if isinstance(kernel, int) else 0, "num_kernels": 3, **kwargs}
    layer = get_layer(name)(inputs, outputs, kernel, bank="tucker", rank=rank, **kwargs).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += spread * torch.randn_like(parameter)
    return layer


def with_whole_kernels(layer: BankedConv2d, x: torch.Tensor) -> torch.Tensor:
    """What the layer's kind computes with the kernels that the factors stand for, as a function of the factors."""
    twin = copy.deepcopy(layer)
    twin.ranks, twin.uses_factors = None, lambda x: False
    others = {key: value for key, value in layer.named_parameters() if not key.endswith("_factor")}
    return torch.func.functional_call(twin, {**others, "weight": layer.kernels()}, (x,))


@st.composite
def cases(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    kernel = draw(st.sampled_from([1, 1, 2, 3, (1, 3)]))
    sizes = {
        "inputs": groups * draw(st.integers(2, 5)),
        "outputs": groups * draw(st.integers(2, 5)),
        "kernel": kernel,
        "groups": groups,
        "stride": draw(st.sampled_from([1, 2, (2, 1)])),
        "dilation": draw(st.integers(1, 2)),
        "bias": draw(st.booleans()),
        "num_kernels": draw(st.integers(1, 3)),
        "rank": draw(st.sampled_from([1, 0.01, 0.4, 0.7, 1.0])),
    }
    sizes["padding"] = draw(st.sampled_from([0, 1, "same", "valid"]))
    modes = ["zeros"] if sizes["padding"] == "same" else ["zeros", "reflect", "circular"]
    sizes["padding_mode"] = draw(st.sampled_from(modes))
    shape = (draw(st.integers(1, 3)), sizes["inputs"], draw(st.integers(5, 8)), draw(st.integers(5, 8)))
    return draw(st.sampled_from(BANKED)), sizes, shape, draw(st.integers(0, 2**16))


@pytest.mark.parametrize("factors", [True, False, None])
@given(cases())
@settings(max_examples=40, deadline=None)
def test_it_computes_what_the_kernels_written_out_do(factors, case):
    name, sizes, shape, seed = case
    torch.manual_seed(seed)
    layer = build(name, **sizes)
    if factors is not None:
        layer.uses_factors = lambda x: factors
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    outputs = layer(x), with_whole_kernels(layer, x)
    torch.testing.assert_close(*outputs)
    probe = torch.randn_like(outputs[0])
    inputs = [x, *layer.parameters()]
    gradients = [torch.autograd.grad((output * probe).sum(), inputs, allow_unused=True) for output in outputs]
    torch.testing.assert_close(*gradients)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), with_whole_kernels(layer, x))


@pytest.mark.parametrize("name", BANKED)
def test_the_cheaper_way_is_taken(name):
    narrow, wide = build(name, 32, 32, rank=0.25), build(name, 32, 32, 1, rank=1.0)
    x = torch.randn(4, 32, 16, 16, dtype=torch.float64)
    assert narrow.uses_factors(x) and not wide.uses_factors(x)
    taken = []
    for layer in (narrow, wide):
        layer.kernels = lambda layer=layer: taken.append(layer) or type(layer).kernels(layer)
        layer(x)
    assert taken == [wide]


@pytest.mark.parametrize("geometry", [(1, 1, 0), (3, 2, 1), ((1, 3), 1, 0)])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", BANKED)
def test_it_starts_from_a_convolution_exactly_at_full_rank(name, groups, geometry):
    conv = nn.Conv2d(8, 12, *geometry, groups=groups).double()
    x = torch.randn(2, 8, 9, 11, dtype=torch.float64)
    layer = get_layer(name).from_conv(conv, bank="tucker", rank=1.0)
    assert layer.ranks is not None
    torch.testing.assert_close(layer(x), conv(x))
    kernels = layer.kernels()
    assert (kernels[0] - kernels[1]).abs().max() > 0


@pytest.mark.parametrize("name", BANKED)
def test_it_starts_as_close_to_a_convolution_as_its_rank_allows(name):
    conv, x = nn.Conv2d(16, 16, 3, padding=1, bias=False).double(), torch.randn(2, 16, 9, 11, dtype=torch.float64)
    with torch.no_grad():  # singular values that fall
        conv.weight.mul_(0.6 ** torch.arange(16).view(-1, 1, 1, 1))
    errors = []
    for rank in (2, 0.25, 0.5, 1.0):
        layer = get_layer(name).from_conv(conv, bank="tucker", rank=rank)
        errors.append(float((layer(x) - conv(x)).norm() / conv(x).norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.3 and errors[1] < 0.9 and errors[3] < 1e-12


def test_the_factorisation_is_the_best_of_its_rank_for_a_matrix():
    weight = torch.randn(2 * 6, 5, 1, 1, dtype=torch.float64)
    core, inputs, outputs = truncated_hosvd(weight, Ranks(3, 3), 2)
    for group, part in enumerate(weight.flatten(1).chunk(2)):
        left, middle, right = (tensor.chunk(2)[group] for tensor in (outputs, core.flatten(1), inputs))
        tail = torch.linalg.svdvals(part)[3:].norm()
        assert float((left @ middle @ right - part).norm()) == pytest.approx(float(tail))
        torch.testing.assert_close(left.T @ left, torch.eye(3, dtype=torch.float64))
        torch.testing.assert_close(right @ right.T, torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", BANKED)
def test_fresh_kernels_vary_as_whole_ones(name, dtype):
    make = get_layer(name)
    whole, factorised = (make(64, 96, 3, groups=2, dtype=dtype, bank=bank) for bank in ("full", "tucker"))
    assert factorised.ranks == (24, 16)
    for ours, theirs in zip(factorised.kernels(), whole.kernels(), strict=True):
        assert float(ours.float().std()) == pytest.approx(float(theirs.float().std()), rel=0.1)
    torch.testing.assert_close(factorised.bias.float().std(), whole.bias.float().std(), rtol=0.3, atol=0.0)


@pytest.mark.parametrize("name", BANKED)
def test_parameters(name):
    layer = get_layer(name)(64, 128, 3, bank="tucker", rank=0.25, num_kernels=4)
    kernels, _ = layer.kernels_and_biases()
    assert sum(parameter.numel() for parameter in kernels) == 4 * 32 * 16 * 9 + 16 * 64 + 128 * 32
    assert layer.kernels().shape == (4, 128, 64, 3, 3)
    assert "bank='tucker', ranks=(32, 16)" in repr(layer)
    # more than the input channels' products span is of no use to the output channels of a kernel
    assert get_layer(name)(24, 144, 1, bank="tucker", rank=0.5).ranks == (12, 12)
    assert get_layer(name)(24, 144, 3, bank="tucker", rank=6).ranks == (6, 6)


@pytest.mark.parametrize("name", BANKED)
def test_a_full_bank_is_stored_as_ever(name):
    plain, named = get_layer(name)(8, 12, 3), get_layer(name)(8, 12, 3, bank="full")
    assert plain.state_dict().keys() == named.state_dict().keys()
    assert plain.weight.shape == (plain.num_kernels, 12, 8, 3, 3) and plain.kernels() is plain.weight
    assert not any("factor" in key for key in plain.state_dict())


@pytest.mark.parametrize("sizes", [(12, 12, 12), (12, 24, 12), (1, 8, 1)], ids=str)
@pytest.mark.parametrize("name", BANKED)
def test_without_channels_to_factorise_kernels_stay_whole(name, sizes):
    inputs, outputs, groups = sizes
    layer = get_layer(name)(inputs, outputs, 3, groups=groups, bank="tucker", rank=4)
    assert layer.ranks is None and layer.weight.shape[1:] == (outputs, inputs // groups, 3, 3)
    assert layer(torch.randn(2, inputs, 6, 6)).shape == (2, outputs, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"bank": "tuker"}, "bank must be one of full, tucker, got 'tuker'.*did you mean 'tucker'"),
        ({"bank": 2}, "bank must be one of full, tucker, got 2"),
        ({"rank": 0.5}, "rank=0.5 is for bank='tucker', and bank is 'full'"),
        *(
            ({"bank": "tucker", "rank": rank}, r"rank must be a share .*in \(0, 1\].*an int.*\(here at most 8\), got")
            for rank in (0, -1, 0.0, 1.5, math.nan, True, "half", (4, 4))
        ),
        ({"bank": "tucker", "rank": 9}, "rank=9 is more than 8, the most of a 3x3 kernel from 8 to 12 channels"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", BANKED)
def test_what_is_wrong_is_said(name, arguments, text):
    kind = get_layer(name)
    with pytest.raises(ValueError, match=f"{kind.__name__}: {text}") as raised:
        kind(8, 12, 3, **arguments)
    assert "\n" not in str(raised.value)
    if arguments.get("rank") == 9:
        assert isinstance(raised.value, DoesNotFitError) and raised.value.fits == 8


@pytest.mark.parametrize("name", BANKED)
def test_a_weight_that_is_not_finite_is_refused(name):
    conv = nn.Conv2d(4, 4, 3)
    nn.init.constant_(conv.weight, math.nan)
    with pytest.raises(ValueError, match="bank='tucker' cannot start from it: a kernel that holds NaN"):
        get_layer(name).from_conv(conv, bank="tucker")


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("name", BANKED)
def test_norms_fold_into_it_and_it_collapses(name, kernel):
    x = torch.randn(4, 8, 9, 8, dtype=torch.float64)
    model = nn.Sequential(build(name, kernel=kernel, bias=False), nn.BatchNorm2d(12), nn.ReLU()).double()
    for _ in range(3):
        model(2 * x + 1)
    model.eval()
    fused = fuse(model, (2, 8, 9, 8))
    assert isinstance(fused[1], nn.Identity)
    torch.testing.assert_close(fused(x), model(x))
    static = collapse(model, [x])
    assert type(static[0]) is nn.Conv2d and static[0].weight.shape == (12, 8, kernel, kernel)
    same = x[:1].expand(4, -1, -1, -1)  # coefficients that are their own average
    torch.testing.assert_close(collapse(model, [same])(same), model(same))


@pytest.mark.parametrize("name", BANKED)
def test_checkpoints(name, tmp_path):
    layer, other, x = build(name).eval(), build(name).eval(), torch.randn(2, 8, 6, 7, dtype=torch.float64)
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    torch.testing.assert_close(other(x), layer(x))
    torch.testing.assert_close(copy.deepcopy(layer)(x), layer(x))
    whole = get_layer(name)(8, 12, 3, padding=1, num_kernels=3).double()
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        whole.load_state_dict(layer.state_dict())


@pytest.mark.parametrize("factors", [True, False])
@pytest.mark.parametrize("name", BANKED)
def test_tools_of_torch(name, factors):
    layer = build(name).eval()
    layer.uses_factors = lambda x: factors
    x = torch.randn(3, 8, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(torch.func.vmap(lambda one: layer(one[None])[0])(x), layer(x))
    with torch.autocast("cpu", torch.bfloat16):
        output = layer.float()(x.float())
    assert output.dtype == torch.bfloat16
    expected = layer(x.float())
    torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.03 * float(expected.detach().abs().max()))
    assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    assert layer(x[:0].bfloat16()).shape == (0, 12, 6, 7)
    last = layer.float().to(memory_format=torch.channels_last)(x.float().to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, layer(x.float()))


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("name", BANKED)
def test_it_is_exported_with_free_sizes(name, kernel):
    layer, free = build(name, kernel=kernel, stride=2).float().eval(), torch.export.Dim.DYNAMIC
    example = torch.randn(2, 8, 12, 12)
    program = torch.export.export(layer, (example,), dynamic_shapes=({0: free, 2: free, 3: free},)).module()
    for size in [(3, 8, 9, 14), (1, 8, 20, 7)]:
        x = torch.randn(size)
        torch.testing.assert_close(program(x), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("name", BANKED)
def test_it_compiles(name, kernel):
    layer, x = build(name, kernel=kernel).float().eval(), torch.randn(3, 8, 9, 7)
    torch.compiler.reset()  # of one code object it compiles eight versions, in all tests together
    torch.testing.assert_close(torch.compile(layer, fullgraph=True)(x), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("name", BANKED)
def test_it_runs_in_onnx_runtime(name, kernel, tmp_path):
    layer = build(name, kernel=kernel).float().eval()
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from dyvision.export import export_onnx  # a file has its name only if ONNX Runtime's outputs are these

    for more in ({"batch": 1}, {"dynamic_size": True}):
        assert export_onnx(layer, tmp_path / "layer.onnx", image_size=(12, 11), channels=8, tolerance=1e-4, **more)
