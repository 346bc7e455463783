"""Call the native kernels with random shapes, against the library's convolution; with --sanitize in a checked build.

    python benchmarks/native_stress.py [--calls 10000] [--seed 0] [--sanitize]

``--sanitize`` compiles the sources with gcc's address and undefined-behaviour sanitizers into a temporary folder and
calls that build instead: a read or write beside a tensor, or undefined behaviour, ends the run with a report. Without
it, the memory that the process holds in the end is compared with that after a tenth of the calls.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from dyvision.ops import native
from dyvision.ops.geometry import Geometry
from dyvision.ops.native import library

SOURCES = Path(library.__file__).parent
FLAGS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")


def main() -> None:
    """Build, if wanted, and call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sanitize", action="store_true")
    parser.add_argument("--library", type=Path, help="a build to call instead of the installed one")
    options = parser.parse_args()
    if options.sanitize:
        sys.exit(run_sanitized(options.calls, options.seed))
    if options.library is not None:
        library.find_binary = lambda: options.library
    if not native.available():
        sys.exit(f"native kernels: {native.reason()}")
    torch.backends.mkldnn.enabled = False  # what is compared with: oneDNN's own code stops the sanitizers
    generator = random.Random(options.seed)
    torch.manual_seed(options.seed)
    early = 0
    for index in range(options.calls):
        torch.set_num_threads(generator.choice([1, 1, 1, 2, 3]))
        call(generator)
        if index == options.calls // 10:
            early = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - early) / 1024
    print(
        f"{options.calls} calls in {', '.join(native.instruction_sets())}: equal; most memory grew by {growth:.0f} MiB"
    )


def run_sanitized(calls: int, seed: int) -> int:
    """Compile, and call this program again with the sanitizers' libraries; its exit status."""
    libraries = [
        subprocess.run(["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "_kernels.so"
        sources = [str(path) for path in sorted(SOURCES.glob("*.c"))]
        subprocess.run(["gcc", *FLAGS, "-fPIC", "-shared", "-pthread", "-o", binary, *sources], check=True)
        # leaks are those of Python and torch, which free nothing in the end
        environment = {**os.environ, "LD_PRELOAD": ":".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"}
        command = [sys.executable, __file__, "--calls", str(calls), "--seed", str(seed), "--library", str(binary)]
        return subprocess.run(command, env=environment, check=False).returncode


def call(generator: random.Random) -> None:
    """One random convolution, perceptron and low-rank kernel, in one instruction set.

    Raises:
        AssertionError: If it differs from the library's result.
    """
    instructions = generator.choice(native.instruction_sets())
    pick = generator.choice
    batch, groups, count = generator.randint(1, 5), pick([1, 1, 2, 6]), generator.randint(1, 6)
    inputs, outputs = groups * pick([1, 1, 3, 6, 17, 80]), groups * pick([1, 2, 6, 7, 30])
    kernel, stride, dilation = pick([(1, 1), (3, 3), (1, 3), (5, 2)]), pick([1, 1, 2, 3]), pick([1, 1, 2])
    padding = generator.randint(0, 2)
    smallest = [max(1, dilation * (side - 1) + 1 - 2 * padding) for side in kernel]
    size = tuple(least + pick([0, 1, 3, 7, 25]) for least in smallest)
    geometry = Geometry((stride, stride), (padding, padding), (dilation, dilation), groups)
    x, shape = torch.randn(batch, inputs, *size), (outputs, inputs // groups, *kernel)
    bank = torch.randn(count, *shape) / math.sqrt(math.prod(shape[1:]))
    per_channel, bias_kind = generator.random() < 0.5, pick(native.BIASES)
    mix = torch.randn(batch, count, outputs) if per_channel else torch.randn(batch, count)
    each = mix if per_channel else mix[:, :, None].expand(-1, -1, outputs)
    weight = torch.einsum("bko,koihw->boihw", each, bank)
    by_channel, scaled = generator.random() < 0.5, generator.random() < 0.5
    factors = torch.randn(batch, *shape[1:]) if by_channel else torch.randn(batch, *kernel)
    if scaled:
        weight = weight * (factors[:, None] if by_channel else factors[:, None, None])
    bias = {"none": None, "channels": torch.randn(outputs), "samples": torch.randn(batch, outputs)}.get(
        bias_kind, torch.randn(count, outputs)
    )
    shift = torch.einsum("bko,ko->bo", each, bias) if bias_kind == "kernels" else bias
    rows = None if shift is None else shift.expand(batch, -1)
    expected = torch.cat(
        [F.conv2d(x[b : b + 1], weight[b], None if rows is None else rows[b], *geometry) for b in range(batch)]
    )
    convolve = native.convolution(
        *(batch, size, shape, geometry, count, per_channel, bias_kind),
        by_channel=by_channel,
        instructions=instructions,
    )
    assert convolve is not None
    torch.testing.assert_close(
        convolve(x, bank, mix, bias, factors if scaled else None), expected, rtol=1e-3, atol=1e-3
    )
    if bias_kind != "kernels":
        convolve = native.convolution(batch, size, shape, geometry, bias=bias_kind, instructions=instructions)
        assert convolve is not None
        torch.testing.assert_close(convolve(x, weight, None, bias), expected, rtol=1e-3, atol=1e-3)
    call_gradients(generator, (x, bank, mix, factors if scaled else None), weight, geometry, instructions)
    first = (torch.randn(7, inputs), torch.randn(7)) if generator.random() < 0.5 else None
    second = (torch.randn(outputs, inputs if first is None else 7), None)
    pooled = x.mean((2, 3))
    hidden = pooled if first is None else F.linear(pooled, *first).relu()
    found = native.perceptron(x, first, second, instructions=instructions)
    torch.testing.assert_close(found, F.linear(hidden, *second), rtol=1e-3, atol=1e-3)
    call_low_rank(generator, x, outputs, instructions)
    call_layer(generator, x, instructions)


def call_gradients(
    generator: random.Random,
    tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None],
    weight: torch.Tensor,
    geometry: Geometry,
    instructions: str,
) -> None:
    """One random backward pass: of input, bank, coefficients and factors, or of input and given kernels ``weight``."""
    if generator.random() < 0.5:
        x, bank, mix, factors = [None if t is None else t.clone().requires_grad_() for t in tensors]
        assert x is not None and bank is not None and mix is not None
        each = mix if mix.ndim == 3 else mix[:, :, None].expand(-1, -1, bank.shape[1])
        used = torch.einsum("bko,koihw->boihw", each, bank)
        if factors is not None:
            used = used * (factors[:, None] if factors.ndim == 4 else factors[:, None, None])
        leaves = [x, bank, mix, factors]
    else:
        x, used = tensors[0].clone().requires_grad_(), weight.clone().requires_grad_()
        leaves = [x, used, None, None]
    output = torch.cat([F.conv2d(x[b : b + 1], used[b], None, *geometry) for b in range(len(x))])
    grad, wanted = torch.randn_like(output), [generator.random() < 0.8 for _ in leaves]
    found = native.gradients(
        grad, *[None if leaf is None else leaf.detach() for leaf in leaves], geometry, wanted, instructions
    )
    assert found is not None
    chosen = [leaf for leaf in leaves if leaf is not None]
    expected = iter(torch.autograd.grad(output, chosen, grad))
    for leaf, ours in zip(leaves, found, strict=True):
        theirs = None if leaf is None else next(expected)
        if ours is not None and theirs is not None:
            scale = float(theirs.abs().max()) + 1
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * scale)


def call_low_rank(generator: random.Random, x: torch.Tensor, outputs: int, instructions: str) -> None:
    """One random low-rank kernel for ``x [B, C, H, W]``."""
    batch, channels = x.shape[:2]
    rank, width, pool = generator.choice([1, 4, 17, 40]), generator.choice([1, 6, 20]), generator.choice([1, 1, 2])
    make = lambda *shape: torch.randn(*shape) / math.sqrt(shape[-1])  # noqa: E731
    weights = native.LowRankWeights(
        squeeze=make(width, channels * pool**2),
        gate=make(width, width),
        predict=make(outputs + rank**2, width),
        predict_bias=make(outputs + rank**2),
        expand=make(outputs, rank),
        expand_bias=generator.choice([None, make(outputs)]),
        reduce=make(rank, channels),
        reduce_bias=make(rank),
        bias=generator.choice([None, make(outputs)]),
    )
    found = native.low_rank(x, weights, pool, instructions)
    assert found is not None
    squeezed = F.adaptive_avg_pool2d(x, pool).flatten(1) @ weights.squeeze.t()
    embedded = squeezed * F.relu6(squeezed @ weights.gate.t() + 3) / 3
    predicted = F.linear(embedded, weights.predict, weights.predict_bias)
    scale, phi = F.relu6(predicted[:, :outputs] + 3) / 3, predicted[:, outputs:].view(batch, rank, rank)
    torch.testing.assert_close(found.scale, scale, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.up, weights.expand @ phi, rtol=1e-3, atol=1e-3)
    kernel, stride = generator.choice([(1, 1), (1, 1), (3, 3)]), generator.choice([1, 1, 2])
    geometry, static = Geometry((stride, stride), (1, 1), (1, 1), 1), make(outputs, channels, *kernel)
    sizes = (batch, tuple(x.shape[2:]), tuple(static.shape), geometry, width, rank, pool)
    layer = native.low_rank_layer(*sizes, instructions=instructions)
    if layer is None:
        assert channels == 1
        return
    wide = scale[:, :, None, None, None] * static
    wide[..., (kernel[0] - 1) // 2, (kernel[1] - 1) // 2] += found.up @ weights.reduce
    each = [F.conv2d(x[b : b + 1], wide[b], found.shift[b], *geometry) for b in range(batch)]
    torch.testing.assert_close(layer(x, static, weights), torch.cat(each), rtol=1e-3, atol=1e-3)


def call_layer(generator: random.Random, x: torch.Tensor, instructions: str) -> None:
    """One random layer with all gates for ``x [B, C, H, W]``, of one group or depthwise."""
    batch, channels = x.shape[:2]
    groups, hidden, count = generator.choice([1, channels]), generator.choice([0, 5]), generator.randint(1, 5)
    outputs, kernel = groups * generator.choice([1, 2]), generator.choice([(1, 1), (3, 3)])
    gates = native.Gates(channels, outputs, kernel[0] * kernel[1], count)
    geometry = Geometry((1, 1), (1, 1), (1, 1), groups)
    bank = torch.randn(count, outputs, channels // groups, *kernel) / math.sqrt(channels)
    first, second = torch.randn(hidden, channels), torch.randn(gates.total, hidden or channels) / math.sqrt(channels)
    layer = native.layer(
        batch, tuple(x.shape[2:]), tuple(bank.shape[1:]), geometry, gates, hidden, instructions=instructions
    )
    assert layer is not None
    pooled = x.mean((2, 3))
    numbers = (F.linear(pooled, first).relu() if hidden else pooled) @ second.t()
    channel, filters, taps, mix = numbers.split([channels, outputs, gates.tap, count], 1)
    maps = x * channel.sigmoid()[:, :, None, None]
    weight = torch.einsum("bk,koihw->boihw", mix.softmax(1), bank) * taps.sigmoid().view(batch, 1, 1, *kernel)
    weight = weight * filters.sigmoid()[:, :, None, None, None]
    expected = torch.cat([F.conv2d(maps[b : b + 1], weight[b], None, *geometry) for b in range(batch)])
    found = layer(x, bank, None, first if hidden else None, None, second, None)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


if __name__ == "__main__":
    main()
