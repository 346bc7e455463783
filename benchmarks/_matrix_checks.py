"""What the matrix asks of a dynamic network: one function a column, which raises if the answer is no."""

from __future__ import annotations

import copy
import io
import pickle
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import dyvision
from benchmarks._matrix_networks import Network
from dyvision.export import export_onnx
from dyvision.layers import CoefficientBranch, DynamicConv2d

#: largest error over the largest number of an output; KernelWarehouse's coefficients are float32 in any network
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-5}
#: how far branches are from where they start, for those that scale each weight
_AWAY = {"fdconv": 0.001}
#: refusals that are right, by check: the library's own message is the reason
_REFUSALS = {
    "collapse": re.compile("cannot become ordinary convolutions"),
    "torch.export": re.compile("a two-stage detector"),
    "ONNX": re.compile("RCNN"),
}


class DifferentError(Exception):
    """The check is not passed."""


def make(network: Network, layer: str, dtype: torch.dtype | None = None, preserve: bool = True) -> nn.Module:
    """The dynamic network, in evaluation mode, with coefficients that depend on the image.

    A little: networks with much more of it, which nobody trained, let rounding decide their outputs.
    """
    model = _quietly(dyvision.dynamize, network.make(), layer, preserve_outputs=preserve)
    with torch.no_grad():
        for branch in [m for m in model.modules() if isinstance(m, CoefficientBranch)]:
            for parameter in branch.parameters():
                parameter.add_(torch.randn_like(parameter) * _AWAY.get(layer, 0.003))
        _estimate_statistics(model.eval(), network)
    return model.to(dtype or network.dtype).eval()


def _estimate_statistics(model: nn.Module, network: Network) -> None:
    """Of BatchNorms, as training would: else numbers grow from layer to layer until rounding decides the outputs."""
    if network.detects:  # its norms are frozen
        return
    for norm in [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches, here one
        norm.train()
    model(network.images(8, torch.float32, seed=11))


def outputs(network: Network, layer: str) -> str:
    """The outputs after ``dynamize`` are those before."""
    model = network.make().double().eval()
    images = network.images(2, torch.float64)
    expected = _run(model, images)
    converted = _quietly(dyvision.dynamize, model, layer).eval()
    layers = sum(isinstance(module, DynamicConv2d) for module in converted.modules())
    error = _compare(_run(converted, images), expected, torch.float64)
    return f"{layers} layers, {error:.0e}"


def training(network: Network, layer: str) -> str:
    """A step gives every parameter of the layers and their branches a finite gradient, and changes the network."""
    model = make(network, layer, torch.float32).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss = network.loss(model)
    loss.backward()
    own = [m for m in model.modules() if isinstance(m, (DynamicConv2d, CoefficientBranch))]
    names = {id(p): name for name, p in model.named_parameters()}
    parameters = {id(p): p for module in own for p in module.parameters() if p.requires_grad}
    wrong = [names[key] for key, p in parameters.items() if p.grad is None or not bool(p.grad.isfinite().all())]
    if wrong:
        raise DifferentError(f"no finite gradient: {', '.join(wrong[:3])} ({len(wrong)} of {len(parameters)})")
    before = [p.detach().clone() for p in parameters.values()]
    optimizer.step()
    if all(torch.equal(one, other) for one, other in zip(before, parameters.values(), strict=True)):
        raise DifferentError("a step changes none of the layers")
    return f"{len(parameters)} parameters"


# in double precision: DRConv chooses kernels by the largest of several numbers, which rounding may change


def compiles(network: Network, layer: str, backend: str) -> str:
    """``torch.compile`` computes the same for two sizes of batches."""
    model = make(network, layer, torch.float64)
    compiled = torch.compile(copy.deepcopy(model), backend=backend)
    errors = []
    for count in (2, 3):
        images = network.images(count, torch.float64, seed=count)
        if isinstance(images, Tensor):
            torch._dynamo.maybe_mark_dynamic(images, 0)  # one graph for both, where the layers allow it
        errors.append(_compare(_run(compiled, images), _run(model, images), torch.float64))
    return f"{max(errors):.0e}"


def exports(network: Network, layer: str) -> str:
    """``torch.export`` with a dynamic batch computes the same for other batches than the example's."""
    model = make(network, layer, torch.float64)
    if network.detects:
        raise ValueError("a two-stage detector: lists of images of any size in, as many regions as it finds within")
    example = network.images(2, torch.float64)
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.export.export(model, (example,), dynamic_shapes=shapes).module()
    errors = []
    for count in (1, 3, 5):
        images = network.images(count, torch.float64, seed=count)
        errors.append(_compare(_run(program, images), _run(model, images), torch.float64))
    return f"{max(errors):.0e}"


def onnx(network: Network, layer: str) -> str:
    """``export_onnx`` with a dynamic batch, checked by itself in ONNX Runtime with batches of 1, 3 and 8."""
    model = make(network, layer, torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        file = _quietly(export_onnx, model, Path(folder) / "model.onnx", image_size=network.image_size)
    return f"{file.nodes} nodes, {file.error:.0e}"


def collapses(network: Network, layer: str) -> str:
    """Collapsed over one image, the static network computes for it what the dynamic one does."""
    model = make(network, layer, torch.float64)
    images = network.images(1, torch.float64, seed=7)
    static = _quietly(dyvision.collapse, model, [images])
    left = [name for name, m in static.named_modules() if isinstance(m, (DynamicConv2d, CoefficientBranch))]
    if left:
        raise DifferentError(f"{left[0]} is dynamic still")
    return f"{_compare(_run(static, images), _run(model, images), torch.float64):.0e}"


def state_dict(network: Network, layer: str) -> str:
    """A state dict, saved and read as plain data, makes another dynamic network compute the same."""
    model = make(network, layer)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = _quietly(dyvision.dynamize, network.make(), layer, preserve_outputs=False).to(network.dtype).eval()
    other.load_state_dict(torch.load(buffer, weights_only=True))
    images = network.images(2, network.dtype)
    return f"{_compare(_run(other, images), _run(model, images), network.dtype):.0e}"


def copies(network: Network, layer: str) -> str:
    """Deep copies and pickles compute the same and share nothing."""
    model = make(network, layer)
    images = network.images(2, network.dtype)
    expected = _run(model, images)
    error = 0.0
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        if {id(p) for p in other.parameters()} & {id(p) for p in model.parameters()}:
            raise DifferentError("a copy shares parameters with its original")
        error = max(error, _compare(_run(other, images), expected, network.dtype))
    return f"{error:.0e}"


CHECKS: dict[str, Callable[..., str]] = {
    "outputs": outputs,
    "training": training,
    "compile": compiles,
    "torch.export": exports,
    "ONNX": onnx,
    "collapse": collapses,
    "state dict": state_dict,
    "pickle, deepcopy": copies,
}


def run_check(check: str, network: Network, layer: str, backend: str) -> tuple[str, str]:
    """One cell: ``pass``, ``not applicable`` or ``FAIL``, and the figure or the reason."""
    try:
        more = (backend,) if check == "compile" else ()
        return "pass", CHECKS[check](network, layer, *more)
    except Exception as error:
        message = " ".join(str(error).split())
        if check in _REFUSALS and isinstance(error, ValueError) and _REFUSALS[check].search(message):
            return "not applicable", message
        return "FAIL", f"{type(error).__name__}: {message[:300]}"


def _quietly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def _run(model: Callable[[Any], Any], images: Any) -> list[Tensor]:
    with torch.no_grad():
        found = list(_tensors(model(images)))
        if isinstance(images, list):  # boxes are few numbers, clipped to the image: the maps they are found on, too
            found += _tensors(model.backbone(torch.stack(images)))  # type: ignore[attr-defined]
        return found


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    else:
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _compare(found: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> float:
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        if one.shape != other.shape:
            raise DifferentError(f"shape {list(one.shape)} instead of {list(other.shape)}")
        if other.numel():
            scale = float(other.abs().max()) or 1.0
            error = float((one.double() - other.double()).abs().max()) / scale
            if not error <= _TOLERANCE[dtype]:
                raise DifferentError(f"differs by {error:.1e} of the largest number")
            worst = max(worst, error)
    return worst
