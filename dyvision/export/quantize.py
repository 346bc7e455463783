"""Exported files with 8-bit convolutions: static quantisation by ONNX Runtime, compared with the file it was made from.

A convolution whose kernel is computed for each sample stays as it is, with the branch that computes it: eight bits for
the ranges of all images' kernels would leave few for any one. So do all numbers behind the last convolutions, such as
boxes. Networks with static kernels gain most, collapsed ones (:func:`dyvision.collapse`) among them.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dyvision.export._agreement import share_of_equal_answers
from dyvision.export._beside import beside, keeps_beside, replacing_whole
from dyvision.export._packages import need
from dyvision.export._quantized_nodes import choose_nodes
from dyvision.export.session import open_session, run
from dyvision.layers.arguments import check_positive
from dyvision.text import first_line

#: bytes of one message of protobuf, as which ONNX Runtime's quantisation hands networks about
_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class QuantizedFile:
    """A file with 8-bit layers beside the one it was made from.

    Attributes:
        path: The file.
        quantized: Number of convolutions and matrix products with 8 bits.
        kept: Number of those in float32.
        images: Number of images it was calibrated and compared with.
        agreement: Share of equal answers: classes of images, classes of pixels, or detections of the float file that
            are found again (same class, IoU of 0.5); None if the outputs are neither.
        error: Largest difference of a number over the largest number of its output.
        size: Of the file in bytes.
        float_size: Of the float file.
        milliseconds: Median time of one call with one thread.
        float_milliseconds: Of the float file, measured in turns.
    """

    path: Path
    quantized: int
    kept: int
    images: int
    agreement: float | None
    error: float
    size: int
    float_size: int
    milliseconds: float
    float_milliseconds: float

    def __str__(self) -> str:
        answers = "" if self.agreement is None else f"{self.agreement:.1%} of the answers unchanged, "
        return (
            f"{self.path}: int8, {self.quantized} layers quantised, {self.kept} in float32, {answers}largest error "
            f"{self.error:.1e} ({self.images} images), {self.float_size / 1e6:.1f} to {self.size / 1e6:.1f} MB, "
            f"{self.float_milliseconds:.1f} to {self.milliseconds:.1f} ms"
        )


def quantize_onnx(
    path: str | PathLike[str],
    output: str | PathLike[str],
    images: Iterable[Any],
    *,
    keep: Sequence[str] = (),
    max_images: int = 128,
    rounds: int = 20,
) -> QuantizedFile:
    """Write an exported file again, with 8-bit convolutions and matrix products.

    Args:
        path: A file of :func:`dyvision.export.export_onnx`; it stays.
        output: The new file. What was there is replaced when everything has been checked, and stays if anything fails.
        images: Batches ``[B, C, H, W]``, tensors or arrays, as the file takes them: of what it will be used for.
        keep: Patterns of layers that stay in float32, such as ``"*.head.*"``; a layer has the name of its weight.
        max_images: How many of the images are used, at most.
        rounds: Calls of each file that are timed.

    Returns:
        The file, with what it has in 8 bits, and how answers, size and time changed.

    Raises:
        ValueError: If a package is missing, there are no images or others than the file takes, a pattern matches no
            layer, there is nothing to quantise, the network is larger than 2 GB, or outputs are not finite; there is no
            new file then.
        OSError: If a file cannot be read or written.
    """
    onnx, quantization = need("onnx", "onnxruntime.quantization")
    check_positive("max_images", max_images)
    check_positive("rounds", rounds)
    source = _existing(Path(path))
    if Path(output).exists() and source.samefile(output):
        raise ValueError(f"{output}: the file to quantise, which stays; give another output")
    size = source.stat().st_size + (beside(source).stat().st_size if keeps_beside(source) else 0)
    if size > _LARGEST:
        raise ValueError(
            f"{source.name} has {size / 1e9:.1f} GB, and a network above 2 GB cannot be quantised: collapse a dynamic "
            "one first (dyvision.collapse), or take a smaller one"
        )
    session = open_session(source, threads=1)
    batches = _batches(images, session.get_inputs()[0], source.name, max_images)
    model = onnx.load(source)
    chosen, kept = choose_nodes(model, source.name, keep)
    with replacing_whole(Path(output)) as part:
        try:
            _quantize(quantization, model, part, chosen.all, batches)
        except Exception as error:  # its errors have no base class of their own
            raise ValueError(f"{source.name} cannot be quantised: {first_line(error)}") from error
        written = onnx.load(part)
        onnx.helper.set_model_props(
            written, {**{one.key: one.value for one in model.metadata_props}, "quantization": "int8"}
        )
        onnx.save(written, part)
        other = open_session(part, threads=1, name=f"{path}, which was not written,")
        names = [value.name for value in session.get_outputs()]
        agreement, largest = _compare(session, other, batches, names, output)
        float_time, time_ = _times(session, other, batches[0], rounds)
        size = part.stat().st_size
    return QuantizedFile(
        Path(output),
        chosen.layers,
        kept,
        sum(map(len, batches)),
        agreement,
        largest,
        size,
        source.stat().st_size,
        time_,
        float_time,
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; export it first")
    return path


def _batches(images: Iterable[Any], taken: Any, name: str, limit: int) -> list[Tensor]:
    """The images as batches that the file takes; of a fixed number, if it takes one."""
    wanted = [size if isinstance(size, int) else None for size in taken.shape]
    found: list[Tensor] = []
    for batch in images:
        batch = torch.as_tensor(batch)[: limit - sum(map(len, found))]
        fits = batch.dim() == len(wanted) and all(
            size is None or size == given for size, given in zip(wanted[1:], batch.shape[1:], strict=True)
        )
        if not fits or taken.type != _ONNX_TYPES.get(batch.dtype):
            sizes = ", ".join("any" if size is None else str(size) for size in wanted)
            raise ValueError(
                f"{name} takes images of shape [{sizes}] ({taken.type}), not {list(batch.shape)} ({batch.dtype}): "
                "calibrate with images prepared for this file"
            )
        if not bool(batch.isfinite().all()):
            raise ValueError(f"{name} cannot be calibrated with images that are not finite: look for broken ones")
        found += [batch] if len(batch) else []
        if sum(map(len, found)) >= limit:
            break
    if not found:
        raise ValueError(f"{name}: no images to calibrate with; give some of what the file will be used for")
    if wanted[0] is None:
        return found
    every = torch.cat(found)
    if len(every) < wanted[0]:
        raise ValueError(f"{name} takes {wanted[0]} images at once, there are {len(every)}: give more, or one batch")
    return list(every[: len(every) // wanted[0] * wanted[0]].split(wanted[0]))


_ONNX_TYPES = {torch.float32: "tensor(float)", torch.float16: "tensor(float16)", torch.uint8: "tensor(uint8)"}


def _quantize(quantization: Any, model: Any, path: Path, nodes: Sequence[str], batches: Sequence[Tensor]) -> None:
    name = model.graph.input[0].name

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.left, None)
            return None if batch is None else {name: batch.numpy()}

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # advice to optimise first, which the export has done
    try:
        quantization.quantize_static(
            model,
            path,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            # 7 bits: with 8, sums of products overflow without a word on x86 processors without VNNI
            reduce_range=True,
            nodes_to_quantize=list(nodes),
        )
    finally:
        logging.disable(before)


def _compare(
    session: Any, other: Any, batches: Sequence[Tensor], names: Sequence[str], output: str | PathLike[str]
) -> tuple[float | None, float]:
    """Share of equal answers, and the largest relative difference of an output."""
    shares, worst = [], 0.0
    for batch in batches:
        expected, found = run(session, batch), run(other, batch)
        for name, one in zip(names, found, strict=True):
            if not bool(one.isfinite().all()):
                raise ValueError(f"{output} was not written: its output {name} is not finite for images of the data")
        named = (dict(zip(names, outputs, strict=True)) for outputs in (expected, found))
        shares.append(share_of_equal_answers(*named))
        for one, right in zip(found, expected, strict=True):
            scale = float(right.double().abs().max()) if right.numel() else 0.0
            if one.shape == right.shape and scale:
                worst = max(worst, float((one.double() - right.double()).abs().max()) / scale)
    known = [share for share in shares if share is not None]
    return (statistics.fmean(known) if known else None), worst


def _times(session: Any, other: Any, batch: Tensor, rounds: int) -> tuple[float, float]:
    """Median milliseconds of both, called in turns, so that a busy machine slows both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for one, taken in zip((session, other), times, strict=True):
            start = time.perf_counter()
            run(one, batch)
            taken.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[0][1:]), statistics.median(times[1][1:])
