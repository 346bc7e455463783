"""Numerical agreement with the official implementations, file by file.

    python benchmarks/parity.py --fixtures DIR

DIR holds ``*.safetensors`` files, at any depth. Each was written by the official code of one method: the parameters
(``param.*``), the inputs and the outputs of one layer or network, and its gradients. The metadata say what to build:
``method``, ``class``, ``constructor``, ``state`` and ``inputs``. One line per file gives the largest relative error
(largest difference over the largest element of the tensor) of outputs and of gradients, and where the larger one is.
The exit status is 0 if all files agree, 1 if any does not, 2 if there is nothing to compare.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dyvision.checkpoints import build_network, get_method, is_network, load_official, translate_state
from dyvision.checkpoints.interface import fit
from dyvision.text import one_line


@dataclass(frozen=True)
class Fixture:
    """One file.

    Attributes:
        name: Its name without the ending.
        meta: Its metadata.
        tensors: Its tensors by name.
    """

    name: str
    meta: dict[str, str]
    tensors: dict[str, Tensor]

    def record(self, key: str, default: Any = None) -> Any:
        """One of the metadata written as JSON."""
        if key not in self.meta and default is None:
            raise ValueError(f"the file's metadata have no {key!r}")
        return json.loads(self.meta[key]) if key in self.meta else default

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under a prefix, by the rest of their names."""
        return {name[len(prefix) :]: tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}


@dataclass
class Comparison:
    """Relative errors by what was compared."""

    outputs: dict[str, float] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)


def main() -> int:
    """Compare all files and print; return the exit status."""
    options = parse()
    if not options.fixtures.is_dir():
        print(f"--fixtures: {options.fixtures} is not a directory", file=sys.stderr)
        return 2
    paths = sorted(options.fixtures.rglob("*.safetensors"))
    if not paths:
        print(f"--fixtures: no *.safetensors file in {options.fixtures} or below", file=sys.stderr)
        return 2
    width = max(len(path.stem) for path in paths)
    failures = 0
    for path in paths:
        passed, line = judge(path, options)
        failures += not passed
        print(f"{'ok  ' if passed else 'FAIL'}  {path.stem:<{width}}  {line}", flush=True)
    print(
        f"{len(paths) - failures} of {len(paths)} agree ({options.output_tolerance:g} of the largest element for ",
        end="",
    )
    print(f"outputs, {options.gradient_tolerance:g} for gradients)")
    return 1 if failures else 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fixtures", type=Path, required=True, help="directory of *.safetensors files")
    parser.add_argument("--output_tolerance", type=tolerance, default=1e-5, help="for outputs (default 1e-5)")
    parser.add_argument("--gradient_tolerance", type=tolerance, default=1e-4, help="for gradients (default 1e-4)")
    parser.add_argument(
        "--gradient_floor",
        type=tolerance,
        default=1e-3,
        help="gradients smaller than this share of the file's largest are compared with that share (default 1e-3)",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--trace", action="store_true", help="print the traceback of what cannot be run")
    return parser.parse_args()


def tolerance(text: str) -> float:
    """A finite number that is not negative."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"has to be a number that is not negative, not {text!r}")
    return value


def judge(path: Path, options: argparse.Namespace) -> tuple[bool, str]:
    """Compare one file; return whether it agrees, and its line."""
    try:
        errors = compare(read(path, options.device), options)
    # whatever goes wrong with one file is that file's failure, not the end of the list
    except Exception as error:
        if options.trace:
            traceback.print_exc()
        return False, f"{type(error).__name__}: {one_line(error)[:400]}"
    if not errors.outputs:
        return False, "nothing to compare: the file has no output_eval and no output_train"
    parts, passed = [], True
    for what, values, bound in (
        ("outputs", errors.outputs, options.output_tolerance),
        ("gradients", errors.gradients, options.gradient_tolerance),
    ):
        if values:
            name, worst = max(values.items(), key=lambda item: math.inf if math.isnan(item[1]) else item[1])
            parts.append(f"{what} {worst:.1e} ({name})")
            passed = passed and worst <= bound  # false for NaN
    return passed, ", ".join(parts)


def read(path: Path, device: str) -> Fixture:
    """Read a file.

    Raises:
        ValueError: If it is no safetensors file with metadata.
    """
    try:
        with safe_open(path, "pt", device=device) as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"the file cannot be read: {error}") from error
    for key in ("method", "class"):
        if key not in meta:
            raise ValueError(f"the file's metadata have no {key!r}")
    return Fixture(path.stem, meta, tensors)


def compare(fixture: Fixture, options: argparse.Namespace) -> Comparison:
    """Build what the file is of, run it in both modes and measure the differences."""
    network = is_network(fixture.meta["class"])
    module = (build_from_network if network else build_from_layer)(fixture).to(options.device)
    names = fixture.record("inputs")
    inputs = [fixture.tensors[name].clone() for name in names]
    errors = Comparison()
    if "output_eval" in fixture.tensors:
        with torch.no_grad():
            errors.outputs["eval"] = relative(module.eval()(*inputs), fixture.tensors["output_eval"])
    if "output_train" not in fixture.tensors:
        return errors
    for tensor in inputs:
        if tensor.is_floating_point():
            tensor.requires_grad_()
    output = module.train()(*inputs)
    errors.outputs["train"] = relative(output.detach(), fixture.tensors["output_train"])
    for name, ours, theirs in statistics(fixture, module):
        errors.outputs[name] = relative(ours, theirs)
    if "grad_seed" in fixture.tensors:
        (output * fixture.tensors["grad_seed"]).sum().backward()
        pairs = list(gradients(fixture, module, dict(zip(names, inputs, strict=True))))
        largest = max((theirs.abs().max().item() for _, _, theirs in pairs), default=0.0)
        for name, gradient, theirs in pairs:
            ours = torch.zeros_like(theirs) if gradient is None else gradient
            errors.gradients[name] = relative(ours, theirs, options.gradient_floor * largest)
    return errors


def build_from_network(fixture: Fixture) -> nn.Module:
    """Build a network and load the official parameters, every one of them."""
    parameters = fixture.group("param.")
    method = fixture.meta["method"]
    arguments, state = fixture.record("constructor"), fixture.record("state", {})
    if "widths" in fixture.meta:  # beside the constructor's own arguments
        arguments = {"widths": fixture.record("widths"), **arguments}
    text = f"{fixture.meta.get('case', '')} {fixture.name}"
    model = build_network(method, fixture.meta["class"], arguments, state, parameters, text)
    load_official(model, parameters, source_of(fixture))
    return model


def source_of(fixture: Fixture) -> str:
    """Whose names a network has: timm's CondConv networks are CondConv too."""
    is_timm = any(name.endswith(".routing_fn.weight") for name in fixture.tensors)
    return "timm" if is_timm else fixture.meta["method"]


def build_from_layer(fixture: Fixture) -> nn.Module:
    """Build a layer and load the official parameters, every one of them.

    Raises:
        ValueError: If a name is missing, unexpected or of another shape.
    """
    method = get_method(fixture.meta["method"])
    arguments, parameters = fixture.record("constructor"), fixture.group("param.")
    if hasattr(method, "adapt"):
        arguments = method.adapt(arguments, parameters)
    layer = method.build_layer(fixture.meta["class"], arguments, fixture.record("state", {}))
    absent: dict[str, Tensor] = method.with_bias(parameters) if hasattr(method, "with_bias") else {}
    ours = layer.load_state_dict(translate(fixture, layer, absent), strict=False)
    needed = {name for name, _ in layer.named_parameters()}
    needed |= {name for name, _ in layer.named_buffers() if name.endswith(("running_mean", "running_var"))}
    missing = [name for name in ours.missing_keys if name in needed]
    if missing or ours.unexpected_keys:
        raise ValueError(
            f"names do not fit: missing {', '.join(missing) or 'none'}; "
            f"unexpected {', '.join(ours.unexpected_keys) or 'none'}"
        )
    auxiliary = fixture.group("aux.")
    if auxiliary and hasattr(method, "apply_auxiliary"):
        method.apply_auxiliary(layer, auxiliary)
    return layer


def translate(fixture: Fixture, layer: nn.Module, replaced: dict[str, Tensor]) -> dict[str, Tensor]:
    """The official state under our names and shapes, with some of its tensors replaced."""
    official = {**fixture.group("param."), **replaced}
    if is_network(fixture.meta["class"]):
        return translate_state(layer, official, source_of(fixture))
    state = get_method(fixture.meta["method"]).layer_state(official)
    shapes = {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}
    return {name: fit(tensor, shapes.get(name, tuple(tensor.shape))) for name, tensor in state.items()}


def statistics(fixture: Fixture, module: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Our buffers and the official ones after one call in training mode, where the file has them."""
    after = fixture.group("after_train.")
    if not after:
        return
    buffers, before = dict(module.named_buffers()), translate(fixture, module, {})
    for name, theirs in translate(fixture, module, after).items():
        if name in buffers and theirs.is_floating_point() and not torch.equal(theirs, before[name]):
            yield name, buffers[name], theirs


def gradients(
    fixture: Fixture, module: nn.Module, inputs: dict[str, Tensor]
) -> Iterator[tuple[str, Tensor | None, Tensor]]:
    """Our gradients and the official ones, of every input and parameter that has one.

    Raises:
        ValueError: If a parameter with an official gradient has no counterpart.
    """
    for name, tensor in inputs.items():
        if f"grad_{name}" in fixture.tensors:
            yield f"input {name}", tensor.grad, fixture.tensors[f"grad_{name}"]
    official = fixture.group("grad.")
    if not official:
        return
    parameters = dict(module.named_parameters())
    # a parameter without an official gradient stands as zeros, so that what is put together of several has its parts
    silent = {
        name: torch.zeros_like(tensor)
        for name, tensor in fixture.group("param.").items()
        if name not in official and tensor.is_floating_point()
    }
    translated = translate(fixture, module, {**silent, **official})
    for name, theirs in translated.items():
        if name in parameters:
            yield name, parameters[name].grad, theirs
    covered = sum(translated[name].numel() for name in parameters if name in translated)
    expected = sum(tensor.numel() for tensor in official.values())
    if covered < expected:
        raise ValueError(f"only {covered} of {expected} official gradients have a counterpart among our parameters")


def relative(ours: Tensor, theirs: Tensor, floor: float = 0.0) -> float:
    """Largest difference over the largest element of the reference.

    Raises:
        ValueError: If the shapes differ.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"shape {list(ours.shape)} instead of {list(theirs.shape)}")
    if not theirs.numel():
        return 0.0
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp_min(max(floor, 1e-12))).item()


if __name__ == "__main__":
    sys.exit(main())
