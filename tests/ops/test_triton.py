"""The Triton kernels agree with the library's convolution of each sample, in values and in every gradient.

Without a CUDA device they run in Triton's interpreter, which checks indices, masks and sums, but no compiled code.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dyvision.ops import _call_cache, dynamic_conv2d, formulation, mixture_conv2d
from dyvision.ops.formulations import TABLE
from dyvision.ops.geometry import Geometry
from dyvision.ops.triton import DTYPES, available, dense, depthwise, mixture_pointwise

pytest.importorskip("triton")
DEVICE = "cuda" if available("cuda") else "cpu"
#: rounding of inputs, mixed kernels and outputs, relative to the largest value
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2.5e-3}


@pytest.fixture(autouse=True, scope="module")
def interpreter() -> Iterator[None]:
    """Define the kernels for the interpreter where there is no device to compile them for."""
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
            import triton
            import triton.language as tl

            if isinstance(tl.sum, triton.JITFunction):  # an earlier test has imported Triton for compiling
                patch.setattr(tl, "sum", triton.jit(tl.sum.fn))
            from dyvision.ops.triton import _common

            assert _common.INTERPRETED.value
        yield


def compare(
    found: Callable[..., Tensor], expected: Callable[..., Tensor], dtype: torch.dtype, *tensors: Tensor
) -> Tensor:
    """Compare outputs and gradients with those of a float64 reference on the same, already rounded, numbers."""
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    output, reference = found(*tensors), expected(*wide)
    assert output.shape == reference.shape
    assert output.dtype == dtype
    seed = torch.randn_like(output)
    gradients = torch.autograd.grad(output, tensors, seed)
    references = torch.autograd.grad(reference, wide, seed.double())
    for name, a, b in zip(("output", *range(9)), (output, *gradients), (reference, *references), strict=False):
        scale = max(b.abs().max().item(), 1e-3)
        torch.testing.assert_close(
            a.double(), b, rtol=0, atol=TOLERANCE[dtype] * scale, msg=lambda m, n=name: f"{n}: {m}"
        )
    for tensor, gradient in zip(tensors, gradients, strict=True):
        assert gradient.dtype == tensor.dtype
    return output


def make(*size: int, dtype: torch.dtype = torch.float32, format: str = "nchw") -> Tensor:
    """A random tensor; ``sliced`` is one that no single stride walks through."""
    if format == "sliced":
        tensor = torch.randn(*size[:2], size[2] * 2, size[3] + 3)[:, :, ::2, 2:-1]
    elif format == "channels_last":
        tensor = torch.randn(size).to(memory_format=torch.channels_last)
    else:
        tensor = torch.randn(size)
    return tensor.to(DEVICE, dtype).requires_grad_()


def mixture_reference(x: Tensor, kernels: Tensor, coefficients: Tensor) -> Tensor:
    rows = []
    for sample, row in zip(x, coefficients, strict=True):
        each = row if row.ndim == 2 else row[:, None]
        rows.append(F.conv2d(sample[None], (each[..., None, None, None] * kernels).sum(0)))
    return torch.cat(rows)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(
    ("batch", "inputs", "outputs", "kernels", "size", "format"),
    [
        (3, 17, 33, 4, (5, 9), "nchw"),
        (2, 33, 5, 1, (7, 6), "channels_last"),
        (2, 5, 17, 3, (3, 5), "sliced"),
        (2, 3, 70, 9, (2, 2), "nchw"),  # more kernels than one program takes
        (9, 40, 3, 2, (1, 3), "channels_last"),  # samples shared out among programs
        (1, 1, 1, 2, (1, 1), "nchw"),
    ],
)
def test_mixture_pointwise(batch, inputs, outputs, kernels, size, format, per_channel) -> None:
    x = make(batch, inputs, *size, format=format)
    w = make(kernels, outputs, inputs, 1, 1)
    c = make(batch, kernels, *([outputs] if per_channel else []))
    output = compare(mixture_pointwise, mixture_reference, torch.float32, x, w, c)
    last = format == "channels_last"
    assert output.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weights", ["same", "float32"])
def test_mixture_pointwise_in_half_precision(dtype, weights) -> None:
    other = dtype if weights == "same" else torch.float32
    x, w, c = make(2, 17, 3, 5, dtype=dtype), make(3, 9, 17, 1, 1, dtype=other), make(2, 3, dtype=other)
    compare(mixture_pointwise, mixture_reference, dtype, x, w, c)


def test_mixture_pointwise_reads_transposed_kernels_and_expanded_coefficients() -> None:
    x, w = make(2, 6, 3, 3), make(5, 4, 6).detach().transpose(1, 2).contiguous().transpose(1, 2)[..., None, None]
    c = make(1, 5).detach().expand(2, -1)
    compare(mixture_pointwise, mixture_reference, torch.float32, x, w.requires_grad_(), c.requires_grad_())


def test_mixture_pointwise_repeats_its_gradients_exactly() -> None:
    x, w, c = make(9, 20, 2, 3), make(2, 35, 20, 1, 1), make(9, 2)
    runs = [torch.autograd.grad(mixture_pointwise(x, w, c).square().sum(), (x, w, c)) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def reference(geometry: Geometry, channels_as_groups: bool) -> Callable[[Tensor, Tensor], Tensor]:
    def convolve(x: Tensor, weight: Tensor) -> Tensor:
        kernels = weight[:, :, None] if channels_as_groups else weight
        groups = x.shape[1] if channels_as_groups else geometry.groups
        rest = (geometry.stride, geometry.padding, geometry.dilation, groups)
        return torch.cat([F.conv2d(a[None], k, None, *rest) for a, k in zip(x, kernels, strict=True)])

    return convolve


#: stride, padding, dilation
GEOMETRIES = [
    ((3, 3), ((1, 1), (1, 1), (1, 1))),
    ((3, 3), ((2, 2), (1, 1), (1, 1))),
    ((3, 2), ((3, 1), (2, 0), (1, 2))),
    ((1, 1), ((2, 3), (0, 0), (1, 1))),
    ((1, 1), ((1, 1), (1, 2), (1, 1))),
    ((2, 4), ((1, 2), (4, 4), (3, 2))),
]


@pytest.mark.parametrize(("kernel", "pairs"), GEOMETRIES)
@pytest.mark.parametrize(
    ("batch", "channels", "size", "format"),
    [(2, 5, (7, 8), "nchw"), (1, 17, (6, 7), "channels_last"), (2, 3, (7, 5), "sliced")],
)
def test_depthwise(batch, channels, size, format, kernel, pairs) -> None:
    geometry = Geometry(*pairs, channels)
    x, w = make(batch, channels, *size, format=format), make(batch, channels, *kernel)
    compare(lambda x, w: depthwise(x, w, geometry), reference(geometry, True), torch.float32, x, w)


@pytest.mark.parametrize(("kernel", "pairs"), GEOMETRIES)
@pytest.mark.parametrize(
    ("batch", "groups", "inputs", "outputs", "size", "format"),
    [
        (2, 1, 5, 17, (7, 6), "nchw"),
        (1, 1, 17, 5, (6, 7), "channels_last"),
        (1, 3, 6, 9, (7, 6), "sliced"),
        (1, 2, 4, 36, (5, 6), "channels_last"),
    ],
)
def test_dense(batch, groups, inputs, outputs, size, format, kernel, pairs) -> None:
    geometry = Geometry(*pairs, groups)
    x, w = make(batch, inputs, *size, format=format), make(batch, outputs, inputs // groups, *kernel)
    compare(lambda x, w: dense(x, w, geometry), reference(geometry, False), torch.float32, x, w)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("format", ["nchw", "channels_last"])
def test_convolutions_in_half_precision(dtype, format) -> None:
    geometry = Geometry((2, 1), (1, 1), (1, 1), 1)
    x = make(2, 7, 6, 5, dtype=dtype, format=format)
    for function, w in ((depthwise, make(2, 7, 3, 3, dtype=dtype)), (dense, make(2, 3, 7, 3, 3, dtype=dtype))):
        wanted = reference(geometry, function is depthwise)
        output = compare(lambda x, w, f=function: f(x, w, geometry), wanted, dtype, x, w)
        last = format == "channels_last"
        assert output.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@pytest.mark.parametrize("format", ["nchw", "channels_last"])
def test_one_place(format) -> None:
    geometry = Geometry((1, 1), (1, 1), (1, 1), 1)
    x = make(2, 3, 1, 1, format=format)
    for function, w in ((depthwise, make(2, 3, 3, 3)), (dense, make(2, 4, 3, 3, 3))):
        compare(lambda x, w, f=function: f(x, w, geometry), reference(geometry, function is depthwise), x.dtype, x, w)


def test_weights_of_any_strides() -> None:
    geometry = Geometry((1, 1), (1, 0), (1, 1), 2)
    x = make(2, 4, 4, 5)
    w = torch.randn(2, 3, 3, 2, 6, device=DEVICE).permute(0, 4, 3, 1, 2).requires_grad_()
    compare(lambda x, w: dense(x, w, geometry), reference(geometry, False), torch.float32, x, w)
    shared = torch.randn(1, 4, 3, 3, device=DEVICE).expand(2, -1, -1, -1).requires_grad_()
    compare(lambda x, w: depthwise(x, w, geometry), reference(geometry, True), torch.float32, x, shared)


def test_only_wanted_gradients() -> None:
    x, w, c = make(2, 4, 3, 3), make(3, 5, 4, 1, 1), make(2, 3)
    full = torch.autograd.grad(mixture_pointwise(x, w, c).sum(), (x, w, c))
    (alone,) = torch.autograd.grad(mixture_pointwise(x.detach(), w, c.detach()).sum(), (w,))
    torch.testing.assert_close(alone, full[1])
    (alone,) = torch.autograd.grad(mixture_pointwise(x, w.detach(), c.detach()).sum(), (x,))
    torch.testing.assert_close(alone, full[0])


def operators() -> list[tuple[Callable[..., Tensor], tuple]]:
    from dyvision.ops.triton._convolution import convolve
    from dyvision.ops.triton._pointwise import apply_mixture

    sizes = ([2, 1], [1, 1], [1, 1], 1)
    return [
        (apply_mixture, (make(2, 4, 3, 5), make(3, 5, 4), make(2, 3), False)),
        (apply_mixture, (make(2, 5, 3, 5, format="channels_last"), make(3, 5, 4), make(2, 3, 5), True)),
        (convolve, (make(2, 4, 3, 5), make(2, 4, 3, 3), *sizes)),
        (convolve, (make(2, 4, 3, 5, format="channels_last"), make(2, 6, 4, 3, 3), *sizes)),
    ]


@pytest.mark.parametrize("index", range(4))
def test_operators_are_registered_as_torch_expects(index) -> None:
    operator, arguments = operators()[index]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(operator, arguments, test_utils=checks)


@pytest.mark.slow
def test_compile_without_graph_breaks() -> None:
    geometry = Geometry((1, 1), (1, 1), (1, 1), 1)

    def network(x: Tensor, w: Tensor, c: Tensor, d: Tensor, k: Tensor) -> Tensor:
        return dense(F.relu(depthwise(mixture_pointwise(x, w, c), d, geometry)), k, geometry)

    tensors = (make(2, 4, 5, 3), make(3, 5, 4, 1, 1), make(2, 3), make(2, 5, 3, 3), make(2, 2, 5, 3, 3))
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    outputs = [f(*tensors) for f in (compiled, network)]
    torch.testing.assert_close(*outputs)
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), tensors) for y in outputs), strict=True):
        torch.testing.assert_close(a, b)


#: Compiles what the operators launch instead of launching it.
COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.autotuner import Autotuner
import torch
from dyvision.ops.geometry import Geometry
from dyvision.ops.triton import DTYPES, dense, depthwise, mixture_pointwise

pointers = dict(zip(DTYPES, ("*fp32", "*bf16", "*fp16")))

def compile(self, *arguments, grid, warmup, **constants):
    config = self.configs[-1]
    constants |= config.kwargs
    constants |= {n: 1 for n, a in zip(self.fn.arg_names, arguments) if isinstance(a, int) and a == 1}
    types = {n: pointers[a.dtype] if hasattr(a, "dtype") else "i32" for n, a in zip(self.fn.arg_names, arguments)}
    types = {n: "constexpr" if n in constants else types[n] for n in self.fn.arg_names}
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    triton.compile(ASTSource(self.fn, types, constants), target=GPUTarget("cuda", 80, 32), options=options)
    print(self.fn.__name__, *config.kwargs)

Autotuner.run = compile
geometry = Geometry((2, 1), (1, 1), (1, 1), 1)
for dtype, format in ((torch.bfloat16, torch.channels_last), (torch.float32, torch.contiguous_format)):
    make = lambda *size: torch.randn(size, dtype=dtype, requires_grad=True)
    x = torch.randn(2, 8, 6, 5, dtype=dtype).to(memory_format=format).requires_grad_()
    mixture_pointwise(x, make(3, 4, 8, 1, 1), make(2, 3)).sum().backward()
    mixture_pointwise(x[:, :, ::2], make(9, 4, 8, 1, 1), make(2, 9, 4)).sum().backward()
    depthwise(x, make(2, 8, 3, 3), geometry).sum().backward()
    dense(x, make(2, 4, 8, 3, 3), geometry).sum().backward()
"""


@pytest.mark.slow
def test_kernels_compile_for_a_device_that_is_not_here(tmp_path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    run = [sys.executable, "-W", "ignore", "-c", COMPILE]
    result = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(result.stdout.splitlines()) == 2 * 4 * 3  # output and two gradients of four calls


@pytest.fixture
def on_this_device(monkeypatch) -> Iterator[None]:
    """The interpreter counts as a device; what is remembered of calls with it is forgotten."""
    monkeypatch.setattr("dyvision.ops.triton.available", lambda device: True)
    _call_cache._calls.clear()
    yield
    _call_cache._calls.clear()


@pytest.mark.parametrize(
    ("kernel", "groups", "taps"), [(1, 1, False), (1, 1, True), (3, 1, False), (3, 4, False), (3, 2, True)]
)
def test_the_operators_run_the_kernels(on_this_device, monkeypatch, kernel, groups, taps) -> None:
    ran = []
    row = TABLE["triton"]
    monkeypatch.setitem(
        TABLE,
        "triton",
        replace(
            row,
            forward=lambda *a: ran.append("given") or row.forward(*a),
            forward_of_mixture=lambda *a: ran.append("mixture") or row.forward_of_mixture(*a),
        ),
    )
    x, kernels = make(3, 4, 5, 6), make(2, 4, 4 // groups, kernel, kernel)
    coefficients, bias = make(3, 2), make(4)
    factors = make(3, kernel, kernel) if taps else None
    weight, biases = make(3, 4, 4 // groups, kernel, kernel), make(3, 4)
    geometry = {"padding": kernel // 2, "groups": groups}

    def results(name: str) -> list[Tensor]:
        with formulation(name):
            mixed = mixture_conv2d(x, kernels, coefficients, bias, **geometry, taps=factors)
            given = dynamic_conv2d(x, weight, biases, **geometry)
            leaves = [t for t in (x, kernels, coefficients, bias, factors, weight, biases) if t is not None]
            gradients = torch.autograd.grad((mixed * given).sum(), leaves)
            with torch.no_grad():
                again = mixture_conv2d(x, kernels, coefficients, bias, **geometry, taps=factors)
                return [mixed, given, *gradients, again, dynamic_conv2d(x, weight, biases, **geometry)]

    expected = results("grouped")
    assert not ran
    for found, value in zip(results("triton"), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-3)
    assert ran == ["mixture", "given"] * 2


def test_the_cpu_is_no_device_for_kernels() -> None:
    assert not available("cpu")
    assert not available(torch.device("meta"))
    assert set(DTYPES) == set(TOLERANCE)
