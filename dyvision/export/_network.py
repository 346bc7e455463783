"""What every format starts from: the images that a file takes, and a network for inference with named outputs."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from packaging.version import Version
from torch import Tensor, nn

from dyvision.convert import fuse as fold_norms
from dyvision.export.deciding import DecidingNetwork
from dyvision.layers import DynamicConv2d, get_layer, list_layers
from dyvision.layers.arguments import check_positive
from dyvision.ops.geometry import pair
from dyvision.text import first_line
from dyvision.version import VERSION

#: what numbers images are of: normalised ones, of 0 to 1, or bytes
ImageKind = Literal["normalised", "unit", "bytes"]
#: torch 2.6's exporter fails on BatchNorms that are not folded, and on DCD for any batch
_FULL_EXPORTER = (2, 7)
#: of the batch with which an export is traced: one of 1 would be taken for a constant
_EXAMPLE = 2
#: least height and width of the images with which free ones are traced: features of 1x1, which a small image has behind
#: a stride of 32, would be taken for a constant, too
_EXAMPLE_SIDE = 128
#: sizes of the batches that a file for any batch is checked with
_BATCHES = (1, 3, 8)


@dataclass(frozen=True)
class Images:
    """The images that a file takes.

    Attributes:
        shape: Of the example, ``[B, C, H, W]``.
        free: Axes of any size, with their names.
        kind: What numbers they are of.
    """

    shape: tuple[int, int, int, int]
    free: Mapping[int, str]
    kind: ImageKind = "normalised"

    @classmethod
    def of(
        cls,
        image_size: int | Sequence[int],
        batch: int | Literal["dynamic"],
        dynamic_size: bool,
        channels: int,
        kind: ImageKind,
    ) -> Images:
        """Check the arguments of an export.

        Raises:
            ValueError: If one is out of range.
        """
        height, width = pair("image_size", image_size, 1)
        check_positive("channels", channels)
        if batch != "dynamic":
            check_positive("batch", batch)
        if kind not in get_args(ImageKind):
            raise ValueError(f"images must be one of {', '.join(get_args(ImageKind))}, got {kind!r}")
        free = {0: "batch"} if batch == "dynamic" else {}
        free |= {2: "height", 3: "width"} if dynamic_size else {}
        return cls((_EXAMPLE if batch == "dynamic" else batch, channels, height, width), free, kind)

    def draw(self, shape: Sequence[int], dtype: torch.dtype, random: torch.Generator | None = None) -> Tensor:
        """Random images that differ in their means as well: coefficients depend on these first."""
        count, channels = shape[:2]
        noise = torch.randn(tuple(shape), generator=random) + torch.randn(count, channels, 1, 1, generator=random)
        if self.kind == "bytes":
            return (noise * 48 + 128).clamp(0, 255).to(torch.uint8)
        return (noise * 0.2 + 0.5).clamp(0, 1).to(dtype) if self.kind == "unit" else noise.to(dtype)

    @property
    def traced(self) -> tuple[int, ...]:
        """Shape of the images with which a network is traced; free sizes are multiples of the example's."""
        sides = [side * -(-_EXAMPLE_SIDE // side) if 2 in self.free else side for side in self.shape[2:]]
        return (*self.shape[:2], *sides)

    def shapes_to_check(self, network: nn.Module) -> list[tuple[int, ...]]:
        """Batches of 1, 3 and 8, or of the one size; other heights and widths where these are free."""
        count, channels, height, width = self.shape
        batches = _BATCHES if 0 in self.free else (count,)
        shapes: list[tuple[int, ...]] = [(number, channels, height, width) for number in batches]
        if 2 in self.free:
            number = 3 if 0 in self.free else count
            others = [(number, channels, height + 32, width + 64), (number, channels, height + 9, width + 4)]
            # a network that takes multiples of 32 only promises no more as a file
            shapes += [other for other in others if self._takes(network, other)]
        return shapes

    def _takes(self, network: nn.Module, shape: tuple[int, ...]) -> bool:
        try:
            with torch.no_grad():
                network(self.draw(shape, dtype_of(network)))
        except (RuntimeError, ValueError, AssertionError):
            return False
        return True


def check_types(model: nn.Module, program: str, known: Sequence[torch.dtype]) -> None:
    """Check before the work that a program computes with the types of a network's parameters.

    Raises:
        ValueError: If it does not.
    """
    kinds = dict.fromkeys(p.dtype for p in model.parameters() if p.is_floating_point())
    for kind in kinds:
        if kind not in known:
            names = [str(one).removeprefix("torch.") for one in (kind, *known)]
            raise ValueError(
                f"{type(model).__name__} has parameters of {names[0]}, with which {program} does not compute "
                f"({', '.join(names[1:])}): export model.float()"
            )


def prepared(model: nn.Module, images: Images, fuse: bool) -> nn.Module:
    """A copy for inference on the processor, folded if asked for.

    Raises:
        ValueError: If it cannot be copied, or cannot take the images.
    """
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters()):
        raise ValueError(f"{type(model).__name__} has parameters without values: call it once before the export")
    try:
        network = copy.deepcopy(model).cpu().eval()
    except Exception as error:
        raise ValueError(f"{type(model).__name__} cannot be copied for the export: {error}") from error
    network.requires_grad_(False)
    try:
        with torch.no_grad():
            network(images.draw(images.shape, dtype_of(network)))
    except Exception as error:
        size = f"[{', '.join(map(str, images.shape))}]"
        raise ValueError(f"{type(model).__name__} cannot take images of shape {size}: {cause(error)}") from error
    if not fuse or not any(True for _ in network.parameters()):
        return network
    if isinstance(network, DecidingNetwork):  # folding compares numbers
        network.dense = fold_norms(network.dense, (2, *images.shape[1:]))
        return network
    return fold_norms(network, (2, *images.shape[1:]))


def dtype_of(network: nn.Module) -> torch.dtype:
    """The floating-point type of a network's parameters."""
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)


def trace(network: nn.Module, images: Images) -> torch.export.ExportedProgram:
    """Trace a network with torch.export, for all sizes that are free."""
    shapes = ({axis: torch.export.Dim.DYNAMIC for axis in images.free},) if images.free else None
    example = images.draw(images.traced, dtype_of(network))
    with torch.no_grad():
        return torch.export.export(network, (example,), dynamic_shapes=shapes, strict=False)


def cannot_export(model: nn.Module, images: Images, error: BaseException) -> ValueError:
    """The error of an export that failed, with its first cause."""
    wanted = f" with a dynamic {', '.join(images.free.values())}" if images.free else ""
    release = Version(torch.__version__).release
    older = f" (by torch {torch.__version__}; later ones translate more)" if release < _FULL_EXPORTER else ""
    return ValueError(f"{type(model).__name__} cannot be exported{wanted}: {cause(error)}{older}")


def metadata_of(model: nn.Module, images: Images, more: Mapping[str, Any] | None) -> dict[str, str]:
    """What a file says about itself; what is no text is JSON."""
    names = {get_layer(name): name for name in list_layers()}
    layers = {names.get(type(m), type(m).__name__) for m in model.modules() if isinstance(m, DynamicConv2d)}
    said = {
        "dyvision_version": VERSION,
        "layer": ", ".join(sorted(layers)) or "static",
        "input_size": [images.free.get(axis, size) for axis, size in enumerate(images.shape)],
        "example_size": list(images.shape[2:]),
        **(more or {}),
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in said.items()}


def cause(error: BaseException) -> str:
    """The first line of the first cause: torch wraps what happened in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
