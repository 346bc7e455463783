"""A network as an ONNX file: traced for any batch, written, compared with PyTorch, and only then called done."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dyvision.export import _scan, detections
from dyvision.export._beside import beside, check_beside, keeps_beside, replacing_whole
from dyvision.export._check import Agreement, ExportedFile, Judge, Runner, judge_numbers
from dyvision.export._check import check as compare
from dyvision.export._graph import count_nodes, drop_outputs, name_sizes, tidy
from dyvision.export._network import (
    ImageKind,
    Images,
    cannot_export,
    check_types,
    dtype_of,
    metadata_of,
    prepared,
    trace,
)
from dyvision.export._optimiser import without_pair_rules
from dyvision.export._outputs import outputs_of
from dyvision.export._packages import need
from dyvision.export.deciding import DecidingNetwork, WithNumbers
from dyvision.export.session import open_session, run
from dyvision.ops.modes import exporting_to_onnx
from dyvision.saving import replacing

#: of the file's operators; every runtime of the last years knows it
OPSET = 18
#: with which ONNX Runtime convolves on the processor
_TYPES = (torch.float32, torch.float16)
#: bytes of parameters from which they are kept in a file of their own: one message of protobuf holds 2 GB
_LARGE = 1_900_000_000


@dataclass(frozen=True, kw_only=True)
class OnnxFile(ExportedFile):
    """An ONNX file.

    Attributes:
        opset: Version of the operators.
        nodes: Number of nodes, those in bodies of ``Scan`` included.
    """

    opset: int
    nodes: int

    @property
    def kind(self) -> str:
        """Format, operators and nodes."""
        return f"ONNX opset {self.opset}, {self.nodes} nodes"

    @property
    def program(self) -> str:
        """What runs it."""
        return "ONNX Runtime"

    @property
    def beside(self) -> Path | None:
        """The parameters, if they are too large for the file."""
        return beside(self.path) if keeps_beside(self.path) else None

    def runner(self, threads: int | None = None) -> Runner:
        """Load it, and what runs it."""
        return partial(run, open_session(self.path, threads))


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
    images: ImageKind = "normalised",
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
        tolerance: Largest difference allowed, over the largest number of the output; of integers the share that may
            differ.
        channels: Of the images.
        metadata: What the file is to say about itself beside version, layer and input size; what is no string is JSON.
        images: What numbers the images are of: ``"normalised"``, ``"unit"`` for 0 to 1, or ``"bytes"`` (uint8).

    Returns:
        The file, with its opset, number of nodes and largest error.

    Raises:
        ValueError: If an argument is out of range, a package is missing, ONNX Runtime does not compute with the type of
            the parameters, the network cannot take such images, it cannot be traced, or the outputs differ; there is no
            new file then.
    """
    start = time.perf_counter()
    need("onnx", "onnxscript", *(["onnxruntime"] if check else []))
    if opset < OPSET:
        raise ValueError(f"opset must be at least {OPSET}, got {opset}")
    taken = Images.of(image_size, batch, dynamic_size, channels, images)
    # without a check the file may be for another program, as OpenVINO, which computes with double precision
    check_types(model, "ONNX Runtime", _TYPES if check else (*_TYPES, torch.float64))
    network = prepared(model, taken, fuse)
    traced = WithNumbers(network) if isinstance(network, DecidingNetwork) else network
    expected = outputs_of(traced, taken.draw(taken.shape, dtype_of(network)))
    onnx_model = _translate(traced, model, taken, opset).model
    _name(onnx_model, expected)
    name_sizes(onnx_model, dict(taken.free))
    tidy(onnx_model)
    onnx_model.metadata_props.update(metadata_of(model, taken, metadata))
    checked: tuple[Agreement, ...] = ()

    def compared(file: Path, error: Judge | None = None) -> tuple[Agreement, ...]:
        session = partial(run, open_session(file, name=f"{path}, which was not written,"))
        return compare(Path(path), "ONNX Runtime", session, network, taken, tolerance, error)

    if isinstance(network, DecidingNetwork):
        if check:  # the numbers behind the decisions, which the file does not return when it is done
            with TemporaryDirectory(prefix="dyvision-") as folder:
                with _written(onnx_model, Path(folder, "numbers.onnx")) as file:
                    checked = compared(file, judge_numbers(network))
        drop_outputs(onnx_model, len(network.outputs))
    with _written(onnx_model, Path(path)) as file:
        if check:
            checked += compared(file)
    return OnnxFile(
        path=Path(path),
        seconds=time.perf_counter() - start,
        checked=checked,
        opset=onnx_model.opset_imports[""],
        nodes=count_nodes(onnx_model),
    )


def _translate(network: nn.Module, model: nn.Module, images: Images, opset: int) -> Any:
    """Trace and translate.

    torch's own function would fall back to other ways of tracing if the first fails, and to a file for the example's
    batch alone; so the tracing is ours.
    """
    try:
        with torch.no_grad(), exporting_to_onnx():
            traced = trace(network, images)
        table = _scan.translation() | detections.translation()
        with without_pair_rules():
            return torch.onnx.export(
                traced, (), dynamo=True, verbose=False, opset_version=opset, custom_translation_table=table
            )
    except Exception as error:
        raise cannot_export(model, images, error) from error


def _name(onnx_model: Any, expected: Mapping[str, Tensor]) -> None:
    (image,) = onnx_model.graph.inputs
    image.name = "image"
    for value, name in zip(onnx_model.graph.outputs, expected, strict=True):
        value.name = name


@contextmanager
def _written(onnx_model: Any, path: Path) -> Iterator[Path]:
    """Write beside ``path``; the file takes that name if the block ends well. Large parameters go beside it."""
    (ir,) = need("onnxscript.ir")
    size = sum(one.const_value.nbytes for graph in onnx_model.graphs() for one in graph.initializers.values())
    if size <= _LARGE:
        with replacing_whole(path, size) as file:
            ir.save(onnx_model, file)
            yield file
        return
    path = Path(os.path.realpath(path))  # a link stays one, and leads to both
    path.parent.mkdir(parents=True, exist_ok=True)
    check_beside(path)
    # a file names its parameters, so both are written under their names, in a folder of their own; those of an earlier
    # file stay until then
    with TemporaryDirectory(prefix=f".{path.stem}.part-", dir=path.parent) as folder:
        file = Path(folder, path.name)
        with replacing(file, size):  # says what is missing if there is no room
            pass
        ir.save(onnx_model, file, external_data=beside(file).name)
        yield file
        os.replace(beside(file), beside(path))
        os.replace(file, path)
