"""What ``dyvision benchmark`` measures: convolutions of real networks, and networks against their dynamic versions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dyvision.analysis.benchmark.timing import Run
from dyvision.analysis.macs import evaluating
from dyvision.backbones import create_model
from dyvision.backbones.registry import find_builder
from dyvision.layers import get_layer
from dyvision.ops import dynamic_conv2d, formulation, mixture_conv2d
from dyvision.ops.formulations import applicable
from dyvision.ops.geometry import Geometry
from dyvision.ops.problem import describe_problem

#: kernels K of the operators
NUM_KERNELS = 4
#: the published settings that are compared
SETTINGS: dict[str, dict[str, Any]] = {
    "condconv": {"num_kernels": 8},
    "dyconv": {"num_kernels": 4},
    "odconv": {"num_kernels": 4},
}
LAYERS = ("odconv", "dyconv", "condconv", "dcd")
OPERATOR_NETWORKS = ("mobilenetv2_100", "resnet18")
NETWORKS = ("mobilenetv2_100", "resnet18", "efficientnet_b0", "dy_mobilenetv2", "dy_resnet18", "dy_resnet50")

#: networks that another library has with dynamic layers: layer, name of its version
_RIVALS = {"efficientnet_b0": ("condconv", "efficientnet_cc_b0_8e")}
#: DyNet's networks beside the ordinary ones; the others have their fixed twins only
_ORDINARY = {"dy_mobilenetv2": "mobilenetv2_100", "dy_resnet18": "resnet18", "dy_resnet50": "resnet50"}


@dataclass(frozen=True)
class Setting:
    """Where and how everything runs."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    compiled: bool = False

    @property
    def memory_format(self) -> torch.memory_format:
        """Of images and static kernels."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def random(self, *shape: int) -> Tensor:
        """Normal numbers, contiguous."""
        return torch.randn(*shape, device=self.device).to(self.dtype)

    def compile(self, function: Any) -> Any:
        """Compile for this shape only, or return it as it is."""
        return torch.compile(function, dynamic=False) if self.compiled else function


@dataclass(frozen=True)
class ConvShape:
    """One convolution: channels, kernel, geometry and the height and width of its input, before padding."""

    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    size: tuple[int, int]
    geometry: Geometry

    def __str__(self) -> str:
        """Write as ``96>576 1x1 on 14x14``, with what differs from the ordinary."""
        text = f"{self.in_channels}>{self.out_channels} {_by(self.kernel)} on {_by(self.size)}"
        geometry = self.geometry
        text += f" stride {geometry.stride[0]}" if geometry.stride != (1, 1) else ""
        text += f" dilation {geometry.dilation[0]}" if geometry.dilation != (1, 1) else ""
        return text + (f" groups {geometry.groups}" if geometry.groups > 1 else "")

    @property
    def arguments(self) -> dict[str, Any]:
        """Keywords of a convolution."""
        return self.geometry._asdict()


def trace_shapes(model: nn.Module, size: int) -> dict[ConvShape, int]:
    """Find the convolutions that run for one image, and how often each shape occurs.

    Args:
        model: The network; it runs once, in evaluation mode.
        size: Height and width of the image.
    """
    with evaluating(model), torch.no_grad(), _Convolutions() as found:
        model(torch.zeros(1, 3, size, size))
    return found.shapes


class _Convolutions(TorchDispatchMode):
    """Counts convolutions below everything that pads or reshapes on the way to them."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: dict[ConvShape, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            x, weight, _, stride, padding, dilation, _, _, groups = args
            kernel, size = tuple(weight.shape[2:]), tuple(x.shape[2:])
            geometry = Geometry(tuple(stride), tuple(padding), tuple(dilation), groups)
            shape = ConvShape(x.shape[1], weight.shape[0], kernel, size, geometry)
            self.shapes[shape] = self.shapes.get(shape, 0) + 1
        return func(*args, **(kwargs or {}))


def operator_runs(shape: ConvShape, batch: int, setting: Setting, formulations: bool = False) -> dict[str, Run]:
    """Functions that compute one convolution, to be called in inference mode.

    Args:
        shape: The convolution.
        batch: Samples.
        setting: Where it runs.
        formulations: Add the mixture by every formulation that can compute it.

    Returns:
        ``static``: one kernel for all samples; ``mixture``: K kernels mixed per sample; ``dynamic``: one given kernel
        per sample; ``timm``: timm's ``CondConv2d`` with K experts, for 1x1 kernels; then formulations by their names.
    """
    import timm.layers

    kernel_shape = (shape.out_channels, shape.in_channels // shape.geometry.groups, *shape.kernel)
    fan_in = kernel_shape[1] * shape.kernel[0] * shape.kernel[1]
    x = setting.random(batch, shape.in_channels, *shape.size).contiguous(memory_format=setting.memory_format)
    kernels = setting.random(NUM_KERNELS, *kernel_shape) * fan_in**-0.5
    kernel = kernels[0].contiguous(memory_format=setting.memory_format)
    weight = setting.random(batch, *kernel_shape) * fan_in**-0.5
    coefficients = setting.random(batch, NUM_KERNELS).softmax(1)
    arguments = shape.arguments
    static = setting.compile(lambda x, kernel: F.conv2d(x, kernel, **arguments))
    mixture = setting.compile(lambda x, *two: mixture_conv2d(x, *two, **arguments))
    dynamic = setting.compile(lambda x, weight: dynamic_conv2d(x, weight, **arguments))
    runs: dict[str, Run] = {
        "static": partial(static, x, kernel),
        "mixture": partial(mixture, x, kernels, coefficients),
        "dynamic": partial(dynamic, x, weight),
    }
    if shape.kernel == (1, 1):
        rival = timm.layers.CondConv2d(
            shape.in_channels,
            shape.out_channels,
            1,
            shape.geometry.stride[0],
            num_experts=NUM_KERNELS,
            groups=shape.geometry.groups,
        )
        rival.to(setting.device, setting.dtype).requires_grad_(False)
        runs["timm"] = partial(setting.compile(rival), x, coefficients)
    if formulations:
        # where one does not apply, forcing it would measure the ordinary choice under its name
        for name in applicable(describe_problem(x, kernels, shape.geometry, NUM_KERNELS, False)):
            function = setting.compile(lambda x, *two: mixture_conv2d(x, *two, **arguments))
            runs[name] = partial(_forced, name, function, x, kernels, coefficients)
    return runs


@dataclass(frozen=True)
class Group:
    """Networks measured in turn.

    Attributes:
        name: The network all of them are versions of; for DyNet's also the ordinary one.
        builders: By label.
        pairs: Which is compared with which: ``(label, reference)``.
    """

    name: str
    builders: Mapping[str, Callable[[], nn.Module]]
    pairs: tuple[tuple[str, str], ...]


def make_groups(
    networks: Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> list[Group]:
    """List the networks to compare.

    Args:
        networks: Names; each is compared with its dynamic versions. A ``dy_*`` network of DyNet's is compared with its
            ``fix_*`` twin and the ordinary network instead. By default :data:`NETWORKS`.
        layers: By default :data:`LAYERS`; of EfficientNet-B0 only CondConv, beside timm's.
        arguments: Of the layers, beside the published settings; they are part of the label.

    Raises:
        ValueError: For an unknown network or layer; the message gives the closest names.
    """
    for layer in layers or ():
        get_layer(layer)
    for network in networks or ():
        find_builder(network)
    groups = []
    for network in dict.fromkeys(networks or NETWORKS):
        if network.startswith("dy_"):
            groups.append(_dynet_group(network))
            continue
        rival_layer, rival = _RIVALS.get(network, ("", ""))
        chosen = layers or ([rival_layer] if rival else LAYERS)
        builders: dict[str, Callable[[], nn.Module]] = {"static": partial(create_model, network)}
        for layer in dict.fromkeys(chosen):
            settings = {**SETTINGS.get(layer, {}), **(arguments or {})}
            if layer != "static":
                builders[_label(layer, settings)] = partial(create_model, network, layer, **settings)
        if rival_layer in chosen:
            builders[f"timm {rival}"] = partial(create_model, rival)
        pairs = tuple((label, "static") for label in builders if label != "static")
        groups.append(Group(network, builders, pairs))
    return groups


def inference_run(model: nn.Module, images: Tensor) -> Run:
    """Forward pass in inference mode; the model has to be in evaluation mode."""

    def run() -> object:
        with torch.inference_mode():
            return model(images)

    return run


def training_run(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Run:
    """Forward pass, cross-entropy and backward pass; in ``dtype`` by autocast unless it is float32."""
    labels = torch.arange(len(images), device=images.device)
    autocast = partial(torch.autocast, images.device.type, dtype=dtype, enabled=dtype != torch.float32)
    parameters = list(model.parameters())

    def run() -> None:
        for parameter in parameters:
            parameter.grad = None
        with autocast():
            output = model(images)
        F.cross_entropy(output.float(), labels % output.shape[1]).backward()

    return run


def _dynet_group(network: str) -> Group:
    fixed, ordinary = network.replace("dy_", "fix_", 1), _ORDINARY.get(network)
    find_builder(fixed)
    names = {"fixed": fixed, "dynet": network}
    if ordinary is None:
        return Group(network, _builders(names), (("dynet", "fixed"),))
    pairs = (("dynet", "static"), ("dynet", "fixed"), ("fixed", "static"))
    return Group(f"{network}, static {ordinary}", _builders({"static": ordinary, **names}), pairs)


def _builders(names: Mapping[str, str]) -> dict[str, Callable[[], nn.Module]]:
    return {label: partial(create_model, name) for label, name in names.items()}


def _label(layer: str, settings: Mapping[str, Any]) -> str:
    words = ("K" if name == "num_kernels" else name for name in settings)
    return " ".join([layer, *(f"{word}={value}" for word, value in zip(words, settings.values(), strict=True))])


def _forced(name: str, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    with formulation(name):
        return function(*tensors)


def _by(pair: tuple[int, int]) -> str:
    return f"{pair[0]}x{pair[1]}"
