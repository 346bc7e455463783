"""A network as a program of ``torch.export`` (``.pt2``), which PyTorch runs without the code of the network."""

from __future__ import annotations

import io
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dyvision.export._check import Agreement, ExportedFile, Runner
from dyvision.export._check import check as compare
from dyvision.export._network import ImageKind, Images, cannot_export, metadata_of, prepared, trace
from dyvision.export._outputs import outputs_of
from dyvision.saving import replacing

#: the file inside a program that has what it says about itself
METADATA = "dyvision"


@dataclass(frozen=True, kw_only=True)
class ProgramFile(ExportedFile):
    """A program of ``torch.export``.

    Attributes:
        nodes: Number of nodes of its graph.
    """

    nodes: int

    @property
    def kind(self) -> str:
        """Format and nodes."""
        return f"torch.export, {self.nodes} nodes"

    @property
    def program(self) -> str:
        """What runs it."""
        return "torch.export"

    def runner(self, threads: int | None = None) -> Runner:
        """Load it, and what runs it."""
        return program_runner(self.path)


def export_program(
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
) -> ProgramFile:
    """Write a network as a program of ``torch.export``, load it again and compare.

    ``torch.export.load(path).module()`` runs it; it needs PyTorch, and not dyvision. What it says about itself is its
    extra file ``dyvision``, JSON.

    Args:
        model: As for :func:`~dyvision.export.export_onnx`, like all others.
        path: The file.
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
        ValueError: As for :func:`~dyvision.export.export_onnx`.
    """
    start = time.perf_counter()
    taken = Images.of(image_size, batch, dynamic_size, channels, images)
    network = prepared(model, taken, fuse)
    try:
        traced = trace(network, taken)
    except Exception as error:
        raise cannot_export(network, taken, error) from error
    checked: tuple[Agreement, ...] = ()
    said = json.dumps(metadata_of(model, taken, metadata))
    # into memory first: on a full disk torch's own writer of files ends the process
    content = io.BytesIO()
    with warnings.catch_warnings():
        # of weights that are a part of another tensor's memory; what was written is compared below
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        torch.export.save(traced, content, extra_files={METADATA: said})
    with replacing(path, content.tell()) as file:
        file.write_bytes(content.getbuffer())
        if check:
            checked = compare(Path(path), "the program", program_runner(file), network, taken, tolerance)
    seconds = time.perf_counter() - start
    return ProgramFile(path=Path(path), seconds=seconds, checked=checked, nodes=len(traced.graph.nodes))


def program_runner(path: Path) -> Runner:
    """Load a program, and what runs it: all its outputs for a batch of images."""
    program = torch.export.load(path).module()

    def run(images: Tensor) -> list[Tensor]:
        return list(outputs_of(program, images).values())

    return run
