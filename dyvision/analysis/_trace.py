"""A forward pass, watched module by module: what each executes, keeps for the backward pass, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dyvision.analysis.cost import Call, Cost, cheapest_cost, executed_cost
from dyvision.layers import CoefficientBranch, DynamicConv2d
from dyvision.ops.counting import every_operation


@dataclass
class Row:
    """What one module costs, without the modules inside it that have rows of their own.

    Attributes:
        name: Its name in ``model.named_modules()``; empty for the model itself.
        kind: Its class.
        params: Parameters, each counted in the first row that has it.
        cost: Multiply-adds, of all calls together.
        activation_bytes: What autograd keeps for the backward pass.
        latency_ms: Median time; None if it was not measured.
        output_shape: Of the first tensor it returned; None if it returned none or was not called.
        calls: How often it was called.
    """

    name: str
    kind: str
    params: int = 0
    cost: Cost = field(default_factory=Cost)
    activation_bytes: int = 0
    latency_ms: float | None = None
    output_shape: tuple[int, ...] | None = None
    calls: int = 0


@dataclass
class _Frame:
    """A module that is running: what the counter showed when it started, and what the modules inside have used."""

    module: nn.Module
    started: float
    inside: float = 0
    branches: float = 0


def list_rows(model: nn.Module) -> dict[nn.Module, Row]:
    """Modules that get a row: dynamic layers and coefficient branches as a whole, all others without their children."""
    rows: dict[nn.Module, Row] = {}
    counted: set[int] = set()
    whole: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if whole and name.startswith(whole):
            continue
        opaque = isinstance(module, (DynamicConv2d, CoefficientBranch))
        if opaque:
            whole = (*whole, f"{name}." if name else "")
        own = {id(p): p.numel() for p in module.parameters(recurse=opaque) if id(p) not in counted}
        counted |= set(own)
        rows[module] = Row(name, type(module).__name__, sum(own.values()))
        if opaque and not name:
            break
    return rows


def measure_cost(model: nn.Module, x: Tensor, rows: dict[nn.Module, Row], as_executed: bool) -> None:
    """Fill in multiply-adds, activation memory, shapes and calls by one forward pass in evaluation mode."""
    counter = FlopCounterMode(display=False)
    rule = executed_cost if as_executed else cheapest_cost

    def read() -> float:
        return sum(counter.flop_counts["Global"].values()) / 2

    def finish(frame: _Frame, used: float, inputs: Tensor | None, output: Any) -> None:
        module, row = frame.module, rows.get(frame.module)
        if row is None:
            return
        row.calls += 1
        result = _first_tensor(output)
        row.output_shape = row.output_shape or (None if result is None else tuple(result.shape))
        if isinstance(module, CoefficientBranch):
            row.cost += Cost(branch=round(used))
        elif isinstance(module, DynamicConv2d) and inputs is not None and result is not None:
            call = Call(tuple(inputs.shape), tuple(result.shape), round(used), round(frame.branches))
            row.cost += rule(module, call)
        else:
            row.cost += Cost(static=round(used - frame.inside))

    fixed = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers()) if not t.is_meta}
    kept: dict[int, torch.UntypedStorage] = {}  # holding them keeps addresses from being used twice

    with _watch(model, rows, read, finish) as stack:

        def keep(tensor: Tensor) -> None:
            storage = tensor.untyped_storage()
            address = storage.data_ptr()
            if address and address not in fixed and address not in kept:
                kept[address] = storage
                owner = next((frame.module for frame in reversed(stack) if frame.module in rows), model)
                rows[owner].activation_bytes += storage.nbytes()
            # nothing is returned: a node that holds its own output, and with it the network, is never freed

        saving = torch.autograd.graph.saved_tensors_hooks(keep, lambda nothing: nothing)
        with every_operation(), torch.enable_grad(), saving, counter:
            model(x)


def measure_latency(model: nn.Module, x: Tensor, rows: dict[nn.Module, Row], runs: int) -> float:
    """Fill in the time of each row and return that of the whole model, in ms: medians over ``runs`` passes.

    The whole model is timed on its own, without the watching; on CUDA each row waits for the device.
    """

    def now() -> float:
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        return time.perf_counter() * 1e3

    times: dict[nn.Module, float] = {}

    def finish(frame: _Frame, used: float, inputs: Tensor | None, output: Any) -> None:
        if frame.module in rows:
            times[frame.module] = times.get(frame.module, 0.0) + used - frame.inside

    samples: dict[nn.Module, list[float]] = {module: [] for module in rows}
    total = []
    # a network of zeros may be faster than one of numbers
    x = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    with torch.no_grad():
        for _ in range(2):  # the first calls allocate memory and choose algorithms
            model(x)
        for _ in range(runs):
            start = now()
            model(x)
            total.append(now() - start)
        with _watch(model, rows, now, finish):
            for _ in range(runs):
                times.clear()
                model(x)
                for module, value in times.items():
                    samples[module].append(value)
    for module, row in rows.items():
        row.latency_ms = median(samples[module]) if samples[module] else 0.0
    return median(total)


@contextmanager
def _watch(
    model: nn.Module,
    rows: dict[nn.Module, Row],
    read: Callable[[], float],
    finish: Callable[[_Frame, float, Tensor | None, Any], None],
) -> Iterator[list[_Frame]]:
    """Call ``finish`` whenever a module with a row, or a branch inside such a module, has run.

    Args:
        model: The model.
        rows: From :func:`list_rows`.
        read: Reads a counter that only grows.
        finish: Gets the frame, how far the counter went, the module's first tensor and what it returned.

    Yields:
        The modules that are running, outermost first.
    """
    stack: list[_Frame] = []

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        stack.append(_Frame(module, read()))

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        frame = stack.pop()
        used = read() - frame.started
        if stack:
            stack[-1].inside += used
            stack[-1].branches += used if isinstance(module, CoefficientBranch) else frame.branches
        finish(frame, used, _first_tensor((args, kwargs)), output)

    watched = [module for module in model.modules() if module in rows or isinstance(module, CoefficientBranch)]
    handles = []
    for module in watched:
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()


def _first_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return next((found for found in map(_first_tensor, value) if found is not None), None)
    return None
