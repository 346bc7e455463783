"""Where the compiled kernels cannot be used others are, and what was changed is seen."""

from __future__ import annotations

import gc
import itertools
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from dyvision.layers import get_layer
from dyvision.ops import _call_cache, cost_model, dynamic_conv2d, formulation, mixture_conv2d, native
from dyvision.ops.formulations import TABLE
from dyvision.ops.rates import Known, typical_rates

pytestmark = pytest.mark.skipif(not native.available(), reason=f"native kernels: {native.reason()}")


@pytest.fixture
def used(monkeypatch) -> list[str]:
    """What ran natively."""
    found: list[str] = []
    call = native.Convolution.__call__

    def spy(self, *tensors: Tensor) -> Tensor:
        found.append("native")
        return call(self, *tensors)

    monkeypatch.setattr(native.Convolution, "__call__", spy)
    _call_cache._calls.clear()
    return found


def tensors() -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return tuple(torch.randn(size, generator=g) for size in ((3, 8, 7, 7), (4, 6, 8, 3, 3), (3, 4)))  # type: ignore


def reference(x: Tensor, bank: Tensor, mix: Tensor) -> Tensor:
    with formulation("loop"):
        return mixture_conv2d(x, bank, mix, padding=1)


def test_inference_is_native_unless_another_is_forced(used):
    x, bank, mix = tensors()
    expected = reference(x, bank, mix)
    assert not used
    torch.testing.assert_close(mixture_conv2d(x, bank, mix, padding=1), expected, rtol=1e-4, atol=1e-4)
    assert used == ["native"]
    with torch.no_grad():
        mixture_conv2d(x, nn.Parameter(bank), mix, padding=1)
    assert len(used) == 2


def test_strided_and_negated_tensors_are_read_as_they_are(used):
    x, bank, mix = tensors()
    expected = reference(x, bank, mix)
    pixels = torch.randn(3, 8, 7, 14)
    pixels[..., ::2] = x
    banks = bank.transpose(3, 4).contiguous().transpose(3, 4)
    negated = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert negated.is_neg()
    for given in (pixels[..., ::2], negated):
        found = mixture_conv2d(given, banks, mix.t().contiguous().t(), padding=1)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert len(used) == 2


def autocast(x, bank, mix):
    with torch.autocast("cpu", torch.bfloat16):
        return mixture_conv2d(x, bank, mix, padding=1)


def counted(x, bank, mix):
    with FlopCounterMode(display=False) as counter:
        output = mixture_conv2d(x, bank, mix, padding=1)
    assert counter.get_total_flops() > 0
    return output


def seen(x, bank, mix):
    class Mode(TorchFunctionMode):
        names: ClassVar[list[str]] = []

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.names.append(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    with Mode() as mode:
        output = mixture_conv2d(x, bank, mix, padding=1)
    assert {"conv2d", "bmm", "baddbmm", "mm", "matmul"} & set(mode.names)
    return output


def compiled(x, bank, mix):
    return torch.compile(lambda *t: mixture_conv2d(*t, padding=1), backend="eager", fullgraph=True)(x, bank, mix)


def traced(x, bank, mix):
    return torch.jit.trace(lambda *t: mixture_conv2d(*t, padding=1), (x, bank, mix), check_trace=False)(x, bank, mix)


def vmapped(x, bank, mix):
    one = lambda x, mix: mixture_conv2d(x[None], bank, mix[None], padding=1)[0]  # noqa: E731
    return torch.vmap(one)(x, mix)


def differentiated(x, bank, mix):
    return torch.func.jvp(lambda x: mixture_conv2d(x, bank, mix, padding=1), (x,), (x,))[0]


class Marked(Tensor):
    """A subclass, which may give its numbers another meaning."""


def subclass(x, bank, mix):
    return mixture_conv2d(x.as_subclass(Marked), bank, mix, padding=1).as_subclass(Tensor)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, bank, mix: mixture_conv2d(x.to(memory_format=torch.channels_last), bank, mix, padding=1),
        lambda x, bank, mix: mixture_conv2d(x.double(), bank.double(), mix.double(), padding=1).float(),
        lambda x, bank, mix: mixture_conv2d(x.bfloat16(), bank.bfloat16(), mix.bfloat16(), padding=1).float(),
        *(autocast, counted, seen, compiled, traced, vmapped, differentiated, subclass),
    ],
)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("forced", [False, True])
def test_what_they_cannot_do_others_do(used, call, forced):
    x, bank, mix = tensors()
    expected = reference(x, bank, mix)
    tolerance = 2e-2 * float(expected.abs().max())
    if forced:
        with formulation("native"):
            found = call(x, bank, mix)
    else:
        mixture_conv2d(x, bank, mix, padding=1)  # what is remembered of an ordinary call is not of this one
        used.clear()
        found = call(x, bank, mix)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=tolerance)
    assert not used


def test_export_and_functional_call_are_right(used):
    layer = get_layer("dyconv")(4, 6, 3, padding=1).eval()
    x = torch.randn(2, 4, 6, 6)
    sizes = ({0: torch.export.Dim("batch", min=1, max=8)},)
    program = torch.export.export(layer, (x,), dynamic_shapes=sizes, strict=False)
    assert not used
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-4, atol=1e-4)
        others = {name: value + 1 for name, value in layer.state_dict().items()}
        found = torch.func.functional_call(layer, others, (x,))
        layer.load_state_dict(others)
        torch.testing.assert_close(found, layer(x))


def test_a_type_that_only_the_kernels_have_is_mixed_first():
    x, bank, mix = tensors()
    with torch.no_grad(), formulation("native"):
        found = mixture_conv2d(x, bank.double(), mix, padding=1)
    torch.testing.assert_close(found, reference(x, bank, mix), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("groups", [1, 8])
def test_changed_weights_are_seen(kernel, groups):
    layer = get_layer("dyconv")(8, 8, kernel, padding=kernel // 2, groups=groups)
    other = get_layer("dyconv")(8, 8, kernel, padding=kernel // 2, groups=groups)
    x = torch.randn(2, 8, 9, 9)

    def check() -> None:
        with torch.inference_mode(), formulation("native"):
            found = layer(x)
        with torch.no_grad(), formulation("grouped"):
            torch.testing.assert_close(found, layer(x), rtol=1e-4, atol=1e-4)
        seen.append(found)

    seen: list[Tensor] = []
    check()
    with torch.no_grad():
        layer.weight.mul_(2)
    check()
    layer.weight.data[0] = 0.7
    check()
    layer(x).square().mean().backward()
    torch.optim.SGD(layer.parameters(), 0.1).step()
    check()
    layer.load_state_dict(other.state_dict())
    check()
    layer.load_state_dict({name: value + 1 for name, value in other.state_dict().items()}, assign=True)
    check()
    average = torch.optim.swa_utils.AveragedModel(layer)
    average.update_parameters(other)
    layer.weight, other.weight = average.module.weight, layer.weight
    check()
    layer.double()
    layer.float()
    layer.weight.detach().neg_()
    check()
    assert all(not torch.equal(one, two) for one, two in itertools.pairwise(seen))


def test_nothing_keeps_a_layer_or_its_weights():
    gc.collect()
    alive = lambda: sum(isinstance(found, nn.Parameter) for found in gc.get_objects())  # noqa: E731
    before = alive()
    layer = get_layer("dyconv")(8, 8, 3, padding=1)
    with torch.inference_mode():
        layer(torch.randn(1, 8, 5, 5))
    del layer
    gc.collect()
    assert alive() == before


def test_a_map_that_is_too_large_for_them_goes_to_the_library(monkeypatch):
    x, bank, mix = tensors()
    monkeypatch.setitem(TABLE, "native", replace(TABLE["native"], straight=None, straight_of_mixture=None))
    monkeypatch.setattr(native, "convolution", lambda *args, **kwargs: None)
    _call_cache._calls.clear()
    try:
        with formulation("native"):
            torch.testing.assert_close(mixture_conv2d(x, bank, mix, padding=1), reference(x, bank, mix))
            weight = torch.randn(3, 6, 8, 3, 3)
            found = dynamic_conv2d(x, weight)
        with formulation("loop"):
            torch.testing.assert_close(found, dynamic_conv2d(x, weight), rtol=1e-4, atol=1e-4)
    finally:
        _call_cache._calls.clear()


@pytest.mark.parametrize(("batch", "slower", "leads"), [(1, 1, True), (1, 1000, True), (8, 1, True), (8, 1000, False)])
def test_it_is_left_to_others_where_they_are_faster(used, monkeypatch, batch, slower, leads):
    """By the machine's rates, but for one image, where it leads."""
    rates = typical_rates()
    rates = rates._replace(native=slower * rates.native)
    monkeypatch.setattr(cost_model, "find_rates", lambda measure: Known(rates, "kept", ""))
    monkeypatch.setattr(cost_model, "_certain", lambda costs: None)
    x, bank, mix = torch.randn(batch, 16, 14, 14), torch.randn(4, 16, 1, 3, 3), torch.rand(batch, 4)
    found = mixture_conv2d(x, bank, mix, padding=1, groups=16)
    assert bool(used) == leads
    with formulation("native"):
        torch.testing.assert_close(found, mixture_conv2d(x, bank, mix, padding=1, groups=16), rtol=1e-4, atol=1e-4)


def test_a_default_device_is_no_watcher(used):
    x, bank, mix = tensors()
    with torch.device("cpu"):
        mixture_conv2d(x, bank, mix, padding=1)
    assert used == ["native"]


def test_zeros_that_are_nowhere_in_memory_are_zeros(used):
    x, bank, mix = tensors()
    zeros = torch._efficientzerotensor(x.shape)  # private: what forward-mode differentiation makes
    assert mixture_conv2d(zeros, bank, mix, padding=1).eq(0).all()
    assert used == ["native"]
