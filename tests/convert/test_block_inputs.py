"""If these fail, blocks with several inputs (a decoder's skip connection) share no branch, or compute otherwise."""

from __future__ import annotations

import copy
import io
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dyvision
from dyvision.layers import CoefficientBranch, DynamicConv2d, get_layer, list_layers

SHARING = [name for name in list_layers() if getattr(get_layer(name), "shares_coefficients", False)]


class _Convs(nn.Module):
    def __init__(self, inputs=6, outputs=6):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)

    def run(self, x):
        return self.conv2(self.conv1(x).relu())


class DecoderBlock(_Convs):
    def forward(self, x, skip=None):
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.run(x if skip is None else torch.cat([x, skip], 1))


class SizedDecoderBlock(_Convs):
    def forward(self, feature_map, target_height: int, target_width: int, skip_connection=None):
        x = F.interpolate(feature_map, size=(target_height, target_width), mode="nearest")
        return self.run(x if skip_connection is None else torch.cat([x, skip_connection], 1))


class ResidualBlock(_Convs):
    def forward(self, x, residual):
        return self.run(x) + residual


class ScaledBlock(_Convs):
    def forward(self, x, *, scale=0.5, residual=None):
        return self.run(x) * scale + (x if residual is None else residual)


class FlagBlock(_Convs):
    def forward(self, x, twice: bool = False, times: int = 2):
        for _ in range(times if twice else 1):
            x = self.run(x)
        return x


class TwoOutputBlock(_Convs):
    def forward(self, x, state):
        return self.run(x), state + 1


class AnyBlock(_Convs):
    def forward(self, x, *others):
        return self.run(x)


class UNet(nn.Module):
    """Two decoders, the last without a skip connection, behind an ordinary stem."""

    def __init__(self, block=DecoderBlock):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.deep = nn.Conv2d(6, 10, 3, padding=1)
        self.up1 = block(10 + 6, 8)
        self.up2 = block(8, 4)
        self.sized = block is SizedDecoderBlock

    def forward(self, x):
        skip = self.stem(x)
        deep = self.deep(F.max_pool2d(skip, 2))
        if self.sized:
            high, wide = skip.shape[2:]
            return self.up2(self.up1(deep, high, wide, skip), 2 * high, 2 * wide, None)
        return self.up2(self.up1(deep, skip))


class Around(nn.Module):
    """Calls one block in one way."""

    def __init__(self, block, call):
        super().__init__()
        self.stem, self.body, self.call = nn.Conv2d(3, 6, 3, padding=1), block, call

    def forward(self, x):
        return self.call(self.body, self.stem(x))


def _residual(block, x):
    return block(x, x + 1)


def _scaled(block, x):
    return block(x, scale=2.0)


def _scaled_and_added(block, x):
    return block(x, scale=0.25, residual=x * 2)


def _twice(block, x):
    return block(x, True, times=3)


def _pair(block, x):
    return sum(block(x, x))


CASES = {
    "unet": lambda: UNet(),
    "sized unet": lambda: UNet(SizedDecoderBlock),
    "residual": lambda: Around(ResidualBlock(), _residual),
    "keyword": lambda: Around(ScaledBlock(), _scaled),
    "two keywords": lambda: Around(ScaledBlock(), _scaled_and_added),
    "flag": lambda: Around(FlagBlock(), _twice),
    "default": lambda: Around(FlagBlock(), lambda block, x: block(x)),
    "two outputs": lambda: Around(TwoOutputBlock(), _pair),
}
PICKLABLE = [name for name in CASES if name != "default"]


def _branches(model):
    found = [name for name, module in model.named_modules() if isinstance(module, CoefficientBranch)]
    return [name for name in found if not name.endswith(".activation")]


def _shared(case, layer):
    model = CASES[case]().eval()
    blocks = [name for name, module in model.named_modules() if isinstance(module, _Convs)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no block keeps a branch per layer
        dyvision.dynamize(model, layer, [f"{name}.*" for name in blocks])
    return model, blocks


def _random(model):
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, CoefficientBranch):
                for parameter in module.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.mark.parametrize("layer", SHARING)
@pytest.mark.parametrize("case", CASES)
def test_blocks_with_several_inputs_share_a_branch_and_keep_their_outputs(case, layer):
    model = CASES[case]().eval()
    blocks = [name for name, module in model.named_modules() if isinstance(module, _Convs)]
    x = torch.randn(3, 3, 12, 10)
    expected, smaller = model(x), model(x[:2, :, :8, :6])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no block keeps a branch per layer
        dyvision.dynamize(model, layer, [f"{name}.*" for name in blocks])
    assert _branches(model) == [f"{block}.coefficient_branch" for block in blocks]
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(x[:2, :, :8, :6]), smaller, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", SHARING)
def test_the_branch_sees_the_first_tensor(layer):
    model, _ = _shared("sized unet", layer)
    seen = {}
    model.up1.coefficient_branch.register_forward_hook(lambda m, args, out: seen.update(branch=args[0], out=out))
    model.up1.conv2.register_forward_pre_hook(lambda m, args: seen.update(entry=args[1]))
    model.up1.register_forward_pre_hook(lambda m, args: seen.update(block=args[0]))
    model(torch.randn(2, 3, 12, 10))
    assert seen["branch"] is seen["block"] and seen["branch"].shape[1] == 10
    assert seen["entry"] is seen["out"][1]


@pytest.mark.parametrize("layer", SHARING)
@pytest.mark.parametrize("case", PICKLABLE)
def test_copies_pickles_exports_and_gradients(case, layer):
    model = _random(_shared(case, layer)[0])
    x = torch.randn(2, 3, 12, 10)
    expected = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(x), expected)
        assert list(other.state_dict()) == list(model.state_dict())
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = _shared(case, layer)[0]
    other.load_state_dict(torch.load(buffer, weights_only=True))
    torch.testing.assert_close(other(x), expected)
    batch = torch.export.Dim("batch", min=1, max=16)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},)).module()
    more = torch.randn(5, 3, 12, 10)
    torch.testing.assert_close(program(more), model(more), rtol=1e-4, atol=1e-4)
    model.train()(x).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("layer", SHARING)
@pytest.mark.parametrize("case", ["unet", "keyword"])
def test_compilers_take_them(case, layer):
    model = _random(_shared(case, layer)[0])
    x = torch.randn(2, 3, 12, 10)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", PICKLABLE)
def test_collapsed_blocks_have_their_own_class_and_arguments_again(case):
    model = _random(_shared(case, "condconv")[0])
    x = torch.randn(1, 3, 12, 10)
    static = dyvision.collapse(model, [x])
    kinds = [type(module) for module in CASES[case]().modules()]
    assert [type(module) for module in static.modules()] == kinds
    torch.testing.assert_close(static(x), model(x), rtol=1e-3, atol=1e-3)


def test_a_rewritten_block_refuses_the_path_it_was_not_traced_for():
    model, _ = _shared("unet", "condconv")
    x = torch.randn(1, 8, 4, 4)
    model.up2(x, None)
    with pytest.raises(ValueError, match=r"skip=None.*example_input"):
        model.up2(x, torch.randn(1, 8, 8, 8))
    with pytest.raises(ValueError, match=r"a tensor as skip, and cannot take None.*example_input"):
        model.up1(torch.randn(1, 10, 4, 4))
    model, _ = _shared("flag", "condconv")
    with pytest.raises(ValueError, match="twice=True"):
        model.body(torch.randn(1, 6, 4, 4))


def test_numbers_that_choose_no_path_stay_free():
    model, _ = _shared("keyword", "condconv")
    x = torch.randn(1, 6, 4, 4)
    torch.testing.assert_close(model.body(x, scale=4.0) - x, 4 * (model.body(x, scale=1.0) - x))


def test_a_branch_per_layer_where_calls_differ_or_are_not_seen():
    class Twice(Around):
        def forward(self, x):
            x = self.stem(x)
            return self.body(self.body(x), residual=x)

    class Other(Around):
        def forward(self, tokens):
            return self.body(self.stem(tokens.pop("image")), residual=None)

    for model, reason in [
        (Twice(ScaledBlock(), None), "its calls differ"),
        (Other(ScaledBlock(), None), "give an example_input"),
        (Around(AnyBlock(), _residual), "any number of arguments"),
    ]:
        with pytest.warns(UserWarning, match=f"keep a branch each.*{reason}"):
            dyvision.dynamize(model, "condconv", "body.*")
        assert type(model.body) in (ScaledBlock, AnyBlock) and len(_branches(model)) == 2


def test_an_example_says_how_blocks_are_called():
    class Wide(nn.Module):
        """Takes images of one size only, none that would be tried."""

        def __init__(self):
            super().__init__()
            self.stem, self.body, self.linear = nn.Conv2d(3, 6, 1), ResidualBlock(), nn.Linear(6 * 5 * 7, 2)

        def forward(self, x):
            x = self.stem(x)
            return self.linear(self.body(x, x).flatten(1))

    with pytest.warns(UserWarning, match="give an example_input"):
        dyvision.dynamize(Wide(), "condconv", "body.*")
    model, report = dyvision.dynamize(
        Wide(), "condconv", "body.*", return_report=True, example_input=torch.randn(2, 3, 5, 7)
    )
    assert not report.own_branches and _branches(model) == ["body.coefficient_branch"]


def test_observing_leaves_nothing_behind():
    model = UNet()
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    dyvision.dynamize(model, "condconv", "up1.*")
    assert model.training and not any(module._forward_pre_hooks for module in model.modules())
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith("up1")}
    assert all(torch.equal(state[name], value) for name, value in kept.items())
    assert type(model.up2) is DecoderBlock


def test_decoders_of_segmentation_models_pytorch():
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.Unet("resnet18", encoder_weights=None, decoder_channels=(32, 16, 16, 8, 8)).eval()
    x = torch.randn(1, 3, 64, 64)
    expected = model(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dyvision.dynamize(model, "dynet", "decoder.*")
    assert len(_branches(model)) == 5
    assert sum(isinstance(module, DynamicConv2d) for module in model.decoder.modules()) == 10
    torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-4)
