"""A network as files of OpenVINO (``.xml`` and ``.bin``), converted from its ONNX file."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dyvision.export._check import Agreement, ExportedFile, Runner
from dyvision.export._check import check as compare
from dyvision.export._network import ImageKind, Images, check_types, metadata_of, prepared
from dyvision.export._packages import need
from dyvision.export.onnx import export_onnx
from dyvision.saving import replacing
from dyvision.text import first_line


@dataclass(frozen=True, kw_only=True)
class OpenvinoFile(ExportedFile):
    """Files of OpenVINO: ``path`` and, beside it, ``.bin``.

    Attributes:
        nodes: Number of operators, without those in bodies.
    """

    nodes: int

    @property
    def kind(self) -> str:
        """Format and nodes."""
        return f"OpenVINO, {self.nodes} nodes"

    @property
    def program(self) -> str:
        """What runs it."""
        return "OpenVINO"

    @property
    def beside(self) -> Path:
        """The parameters."""
        return self.path.with_suffix(".bin")

    def runner(self, threads: int | None = None) -> Runner:
        """Load it, and what runs it."""
        return openvino_runner(self.path, threads)


def export_openvino(
    model: nn.Module,
    path: str | PathLike[str],
    *,
    image_size: int | Sequence[int],
    batch: int | Literal["dynamic"] = "dynamic",
    dynamic_size: bool = False,
    fuse: bool = True,
    check: bool = True,
    tolerance: float = 1e-3,
    channels: int = 3,
    metadata: Mapping[str, Any] | None = None,
    images: ImageKind = "normalised",
) -> OpenvinoFile:
    """Write a network as files of OpenVINO and compare what its runtime computes with PyTorch's outputs.

    What the files say about themselves is in their runtime information, under ``dyvision``.

    Args:
        model: As for :func:`~dyvision.export.export_onnx`, like all others.
        path: The ``.xml`` file; parameters go into the ``.bin`` file beside it.
        image_size: Height and width.
        batch: ``"dynamic"``, or a number.
        dynamic_size: Whether it takes other heights and widths.
        fuse: Fold BatchNorms and branches first.
        check: Compare.
        tolerance: Largest difference allowed.
        channels: Of the images.
        metadata: What it is to say about itself.
        images: What numbers the images are of.

    Raises:
        ValueError: As for :func:`~dyvision.export.export_onnx`, or if ``path`` does not end in ``.xml``.
        FileExistsError: If the ``.bin`` file is there already and is not that of an earlier network.
    """
    start = time.perf_counter()
    (openvino,) = need("openvino", extra="openvino")
    path = Path(path)
    if path.suffix != ".xml":
        raise ValueError(f"{path}: files of OpenVINO end in .xml (and .bin)")
    _check_beside(path)
    taken = Images.of(image_size, batch, dynamic_size, channels, images)
    check_types(model, "OpenVINO", (torch.float32, torch.float16, torch.float64))
    network = prepared(model, taken, fuse)
    checked: tuple[Agreement, ...] = ()
    with TemporaryDirectory(prefix="dyvision-") as folder:
        onnx, xml = Path(folder, "network.onnx"), Path(folder, path.name)
        options: dict[str, Any] = {"batch": batch, "dynamic_size": dynamic_size, "channels": channels, "images": images}
        export_onnx(network, onnx, image_size=image_size, fuse=False, check=False, **options)
        try:
            converted = openvino.convert_model(str(onnx))
        except Exception as error:
            raise ValueError(f"OpenVINO cannot convert {type(network).__name__}: {first_line(error)}") from error
        for name, value in metadata_of(model, taken, metadata).items():
            converted.set_rt_info(value, ["dyvision", name])
        try:
            # half precision would be another network; whoever wants it converts this one
            openvino.save_model(converted, str(xml), compress_to_fp16=False)
        except RuntimeError as error:  # whatever the system says about the file
            raise OSError(f"{path} could not be written: {xml.parent}: {first_line(error)}") from error
        if check:
            checked = compare(path, "OpenVINO", openvino_runner(xml), network, taken, tolerance)
        for suffix in (".bin", ".xml"):
            with replacing(path.with_suffix(suffix)) as file:
                shutil.copyfile(xml.with_suffix(suffix), file)
    seconds = time.perf_counter() - start
    return OpenvinoFile(path=path, seconds=seconds, checked=checked, nodes=len(converted.get_ops()))


def _check_beside(path: Path) -> None:
    """Check that the file of parameters replaces nothing but that of an earlier network of this name."""
    beside = path.with_suffix(".bin")
    if not beside.exists():
        return
    if path.is_file():
        with path.open("rb") as file:
            if b"<net" in file.read(4096):
                return
    raise FileExistsError(
        f"{path}: its parameters go into {beside.name}, which is there already and is not that of an earlier network; "
        "move it, or give another name"
    )


def openvino_runner(path: Path, threads: int | None = None) -> Runner:
    """Load files of OpenVINO, and what runs them: all outputs for a batch of images.

    Raises:
        ValueError: If OpenVINO is not installed, or cannot run them.
    """
    (openvino,) = need("openvino", extra="openvino")
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    settings |= {} if threads is None else {"INFERENCE_NUM_THREADS": str(threads)}
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    except Exception as error:
        raise ValueError(f"{path.name} cannot be run by OpenVINO: {first_line(error)}") from error

    def run(images: Tensor) -> list[Tensor]:
        found = compiled([images.numpy()])
        return [torch.from_numpy(found[output].copy()) for output in compiled.outputs]

    return run
