"""A network as an ONNX file: traced for any batch, written, compared with PyTorch, and only then called done."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dyvision.convert import fuse as fold_norms
from dyvision.export import _scan, detections
from dyvision.export._check import Agreement, compare, judge, judge_numbers
from dyvision.export._graph import count_nodes, drop_outputs, name_sizes, tidy
from dyvision.export._outputs import outputs_of
from dyvision.export._packages import need
from dyvision.export.deciding import DecidingNetwork, WithNumbers
from dyvision.layers import DynamicConv2d, get_layer, list_layers
from dyvision.layers.arguments import check_positive
from dyvision.ops.geometry import pair
from dyvision.ops.modes import exporting_to_onnx
from dyvision.saving import replacing
from dyvision.text import first_line
from dyvision.version import VERSION

#: of the file's operators; every runtime of the last years knows it
OPSET = 18
#: bytes of parameters from which they are kept in a file of their own: one message of protobuf holds 2 GB
_LARGE = 1_900_000_000
#: of the batch with which an export is traced: one of 1 would be taken for a constant
_EXAMPLE = 2
#: sizes of the batches that a file for any batch is checked with
_BATCHES = (1, 3, 8)


@dataclass(frozen=True)
class OnnxFile:
    """An exported file.

    Attributes:
        path: The file.
        opset: Version of the operators.
        nodes: Number of nodes, those in bodies of ``Scan`` included.
        seconds: How long the export took, the check included.
        checked: Shapes of images and errors; none if it was not checked.
    """

    path: Path
    opset: int
    nodes: int
    seconds: float
    checked: tuple[Agreement, ...] = ()

    @property
    def error(self) -> float | None:
        """The largest difference from PyTorch over the largest number of an output; None if it was not checked."""
        return max((one.error for one in self.checked), default=None)

    def __str__(self) -> str:
        checked = "not checked"
        if self.error is not None:
            batches = ", ".join(sorted({"x".join(map(str, one.shape)) for one in self.checked}))
            checked = f"largest error {self.error:.1e} ({batches})"
        return f"{self.path}: ONNX opset {self.opset}, {self.nodes} nodes, {self.seconds:.0f} s, {checked}"


def export_onnx(
    model: nn.Module,
    path: str | PathLike[str],
    *,
    image_size: int | Sequence[int],
    batch: int | Literal["dynamic"] = "dynamic",
    dynamic_size: bool = False,
    fuse: bool = True,
    opset: int = OPSET,
    check: bool = True,
    tolerance: float = 1e-3,
    channels: int = 3,
    metadata: Mapping[str, Any] | None = None,
) -> OnnxFile:
    """Write a network as an ONNX file and compare ONNX Runtime's outputs with PyTorch's.

    Args:
        model: A module with one input, images ``[B, channels, H, W]``, and one tensor, or a list, tuple or dict of
            tensors, as output. It is not changed, and exported in evaluation mode.
        path: The file. What was there is replaced when everything has been checked, and stays if anything fails.
        image_size: Height and width, or an int for squares; with ``dynamic_size`` those of the example.
        batch: ``"dynamic"``, or the one number of images that the file takes. A file for one image is the fastest.
        dynamic_size: Whether the file takes images of other heights and widths, too.
        fuse: Fold BatchNorms and branches first (:func:`dyvision.fuse`).
        opset: Version of ONNX's operators, at least 18.
        check: Compare with PyTorch: batches of 1, 3 and 8, or of ``batch``; with ``dynamic_size`` another size, too.
        tolerance: Largest difference allowed, over the largest number of the output.
        channels: Of the images.
        metadata: What the file is to say about itself beside version, layer and input size; what is no string is JSON.

    Returns:
        The file, with its opset, number of nodes and largest error.

    Raises:
        ValueError: If an argument is out of range, a package is missing, the network cannot take such images, it cannot
            be traced, or the outputs differ; there is no new file then.
    """
    start = time.perf_counter()
    need("onnx", "onnxscript", *(["onnxruntime"] if check else []))
    height, width = pair("image_size", image_size, 1)
    check_positive("channels", channels)
    if batch != "dynamic":
        check_positive("batch", batch)
    if opset < OPSET:
        raise ValueError(f"opset must be at least {OPSET}, got {opset}")
    free = {0: "batch"} if batch == "dynamic" else {}
    free |= {2: "height", 3: "width"} if dynamic_size else {}
    shape = (_EXAMPLE if batch == "dynamic" else batch, channels, height, width)
    network = _prepared(model, shape, fuse)
    example = torch.randn(shape, dtype=_dtype(network))
    traced = WithNumbers(network) if isinstance(network, DecidingNetwork) else network
    expected = outputs_of(traced, example)
    program = _translate(traced, type(model).__name__, example, free, opset)
    onnx_model = program.model
    _name(onnx_model, expected)
    name_sizes(onnx_model, free)
    tidy(onnx_model)
    onnx_model.metadata_props.update(_metadata(model, shape, free, metadata))
    shapes = _shapes_to_check(network, shape, free) if check else []
    checked: list[Agreement] = []
    if isinstance(network, DecidingNetwork):
        checked += _check_numbers(onnx_model, network, shapes, example.dtype)
        drop_outputs(onnx_model, len(network.outputs))
    with _written(onnx_model, Path(path)) as file:
        checked += compare(file, judge(network, tolerance), shapes, example.dtype) if shapes else []
        _require_agreement(checked, path, tolerance)
    seconds = time.perf_counter() - start
    return OnnxFile(Path(path), onnx_model.opset_imports[""], count_nodes(onnx_model), seconds, tuple(checked))


def _check_numbers(
    onnx_model: Any, network: DecidingNetwork, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype
) -> list[Agreement]:
    """Compare the numbers behind the decisions, which the file does not return when it is done."""
    if not shapes:
        return []
    with TemporaryDirectory(prefix="dyvision-") as folder, _written(onnx_model, Path(folder) / "numbers.onnx") as file:
        return compare(file, judge_numbers(network), shapes, dtype)


def _require_agreement(checked: Sequence[Agreement], path: str | PathLike[str], tolerance: float) -> None:
    worst = max(checked, key=lambda one: one.error, default=None)
    if worst is not None and not worst.error <= tolerance:
        raise ValueError(
            f"{path} was not written: for images of shape {list(worst.shape)} ONNX Runtime's output differs "
            f"from PyTorch's by {worst.error:.1e} of its largest number (tolerance={tolerance:g})"
        )


def _prepared(model: nn.Module, shape: Sequence[int], fuse: bool) -> nn.Module:
    """A copy for inference on the processor, folded if asked for."""
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters()):
        raise ValueError(f"{type(model).__name__} has parameters without values: call it once before the export")
    try:
        network = copy.deepcopy(model).cpu().eval()
    except Exception as error:
        raise ValueError(f"{type(model).__name__} cannot be copied for the export: {error}") from error
    network.requires_grad_(False)
    try:
        with torch.no_grad():
            network(torch.randn(tuple(shape), dtype=_dtype(network)))
    except Exception as error:
        size = f"[{', '.join(map(str, shape))}]"
        raise ValueError(f"{type(model).__name__} cannot take images of shape {size}: {_cause(error)}") from error
    if not fuse or not any(True for _ in network.parameters()):
        return network
    if isinstance(network, DecidingNetwork):  # folding compares numbers
        network.dense = fold_norms(network.dense, (2, *shape[1:]))
        return network
    return fold_norms(network, (2, *shape[1:]))


def _dtype(network: nn.Module) -> torch.dtype:
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)


def _translate(network: nn.Module, name: str, example: Tensor, free: Mapping[int, str], opset: int) -> Any:
    """Trace and translate.

    torch's own function would fall back to other ways of tracing if the first fails, and to a file for the example's
    batch alone; so the tracing is ours.
    """
    wanted = f" with a dynamic {', '.join(free.values())}" if free else ""
    try:
        with torch.no_grad(), exporting_to_onnx():
            shapes = ({axis: torch.export.Dim.DYNAMIC for axis in free},) if free else None
            traced = torch.export.export(network, (example,), dynamic_shapes=shapes, strict=False)
        return torch.onnx.export(
            traced,
            (),
            dynamo=True,
            verbose=False,
            opset_version=opset,
            custom_translation_table=_scan.translation() | detections.translation(),
        )
    except Exception as error:
        raise ValueError(f"{name} cannot be exported{wanted}: {_cause(error)}") from error


def _name(onnx_model: Any, expected: Mapping[str, Tensor]) -> None:
    (image,) = onnx_model.graph.inputs
    image.name = "image"
    for value, name in zip(onnx_model.graph.outputs, expected, strict=True):
        value.name = name


def _metadata(
    model: nn.Module, shape: Sequence[int], free: Mapping[int, str], more: Mapping[str, Any] | None
) -> dict[str, str]:
    names = {get_layer(name): name for name in list_layers()}
    layers = {names.get(type(m), type(m).__name__) for m in model.modules() if isinstance(m, DynamicConv2d)}
    said = {
        "dyvision_version": VERSION,
        "layer": ", ".join(sorted(layers)) or "static",
        "input_size": [free.get(axis, size) for axis, size in enumerate(shape)],
        "example_size": list(shape[2:]),
        **(more or {}),
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in said.items()}


@contextmanager
def _written(onnx_model: Any, path: Path) -> Iterator[Path]:
    """Write beside ``path``; the file takes that name if the block ends well. Large parameters go beside it."""
    (ir,) = need("onnxscript.ir")
    size = sum(value.const_value.nbytes for value in onnx_model.graph.initializers.values())
    beside = f"{path.name}.data" if size > _LARGE else None
    with replacing(path, size) as file:
        try:
            ir.save(onnx_model, file, external_data=beside)
            yield file
        except BaseException:
            if beside is not None:
                (path.parent / beside).unlink(missing_ok=True)
            raise


def _shapes_to_check(network: nn.Module, shape: tuple[int, ...], free: Mapping[int, str]) -> list[tuple[int, ...]]:
    count, channels, height, width = shape
    batches = _BATCHES if 0 in free else (count,)
    shapes: list[tuple[int, ...]] = [(number, channels, height, width) for number in batches]
    if 2 in free:
        number = 3 if 0 in free else count
        others = [(number, channels, height + 32, width + 64), (number, channels, height + 9, width + 4)]
        # a network that takes multiples of 32 only promises no more as a file
        shapes += [other for other in others if _takes(network, other)]
    return shapes


def _takes(network: nn.Module, shape: tuple[int, ...]) -> bool:
    try:
        with torch.no_grad():
            network(torch.zeros(shape, dtype=_dtype(network)))
    except (RuntimeError, ValueError, AssertionError):
        return False
    return True


def _cause(error: BaseException) -> str:
    """The first line of the first cause: torch wraps what happened in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
