"""What the branches of a network decide: coefficients per image and class, and how alike the resulting kernels are.

Kernels are formed for every image on its own; their correlations are then averaged over the images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from dyvision.analysis.correlation import BINS, Correlation, correlate, count_pairs, effective_kernel, write_dense
from dyvision.analysis.macs import evaluating
from dyvision.layers import CondConv2d, DCDConv2d, DyConv2d, DynamicConv2d, DyNetConv2d, ODConv2d
from dyvision.layers.bank import BankedConv2d
from dyvision.text import did_you_mean

#: layers whose coefficients and kernels are reported, and what the coefficients are
SUPPORTED: dict[type[DynamicConv2d], str] = {
    CondConv2d: "routing weights of the K kernels",
    DyConv2d: "attention over the K kernels",
    DyNetConv2d: "coefficients eta of g_t kernels per output channel",
    ODConv2d: "kernel attention a_w over the K kernels",
    DCDConv2d: "scale Lambda per output channel",
}

#: how many unusable layers a message lists
_LISTED = 3


@dataclass(frozen=True)
class LayerRouting:
    """One layer.

    Attributes:
        name: Its name in the network.
        kind: Its class.
        meaning: What the coefficients are.
        coefficients: ``[N, F]``, one row per image; a layer with one mixture per output channel has ``F = K * C_out``.
        labels: Class of each row ``[N]``, None if there are no classes.
        dynamic: Of the kernels formed for the images.
        static: Of the kernels it is compared with.
        static_source: Which kernels those are.
        correlation_images: Images whose kernels were formed.
    """

    name: str
    kind: str
    meaning: str
    coefficients: Tensor
    labels: Tensor | None
    dynamic: Correlation
    static: Correlation
    static_source: str
    correlation_images: int

    @property
    def class_share(self) -> float | None:
        """Variance between classes over total variance, both summed over the coefficients, in [0, 1].

        NaN for coefficients that do not vary; None without classes. Labels that mean nothing give
        :attr:`chance_share` on average, not 0.
        """
        return None if self.labels is None else variance_share(self.coefficients, self.labels)

    @property
    def chance_share(self) -> float | None:
        """The share expected when classes mean nothing: ``(classes - 1) / (N - 1)``."""
        if self.labels is None or len(self.labels) < 2:
            return None
        return (len(self.labels.unique()) - 1) / (len(self.labels) - 1)

    def class_means(self, classes: int) -> Tensor:
        """Mean coefficients per class ``[classes, F]``; NaN for a class without an image."""
        assert self.labels is not None
        rows = [self.coefficients[self.labels == index] for index in range(classes)]
        return torch.stack([part.mean(0) if len(part) else part.new_full(part.shape[1:], torch.nan) for part in rows])


@dataclass
class _Recorder:
    """Collects what one layer receives or predicts; a second call in the same forward pass is ignored."""

    layer: DynamicConv2d
    wanted: int
    rows: list[Tensor] = field(default_factory=list)
    matrices: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    counts: Tensor = field(default_factory=lambda: torch.zeros(BINS))
    called: bool = False

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.called:
            return
        self.called = True
        handed = args[1] if len(args) > 1 else kwargs.get("coefficients")
        coefficients = self.layer.coefficients(args[0] if args else kwargs["x"]) if handed is None else handed
        self.rows.append(_as_rows(coefficients).float().cpu())
        for index in range(min(self.wanted - self.matrices, len(self.rows[-1]))):
            matrix = correlate(effective_kernel(self.layer, coefficients, index))
            self.total = self.total + matrix
            self.counts += count_pairs(matrix)
            self.matrices += 1


def analyze_routing(
    model: nn.Module,
    batches: Iterable[tuple[Any, Tensor | None]],
    static: nn.Module | None = None,
    layers: Sequence[str] = ("*",),
    correlation_images: int = 16,
) -> list[LayerRouting]:
    """Record the coefficients of a network's layers, and correlate the kernels they form.

    The network runs in evaluation mode without gradients, on the device it is on. Layers that share a block's branch
    are recorded with the entry they are handed.

    Args:
        model: The network; ``model(images)`` is called.
        batches: ``(images, labels)``; labels int ``[B]``, or None everywhere.
        static: The same network with static convolutions, to compare with: its layers have the same names. None
            compares with each layer's own kernels (``LayerRouting.static_source`` says which).
        layers: Glob patterns of the layers' names, or of their ends from some module on.
        correlation_images: Kernels are formed for that many images, the first ones.

    Returns:
        One entry per layer, in the order of ``model.named_modules()``.

    Raises:
        ValueError: If a pattern names only layers without coefficients of a supported kind, if there are no images,
            or if ``static`` has no convolution of a layer's name.
    """
    if correlation_images < 1:
        raise ValueError(f"correlation_images must be at least 1, got {correlation_images}")
    recorders = {name: _Recorder(layer, correlation_images) for name, layer in select_layers(model, layers).items()}
    references = {name: _reference(recorder.layer, name, static) for name, recorder in recorders.items()}
    labels: list[Tensor] = []
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.no_grad())
        for recorder in recorders.values():
            stack.callback(recorder.layer.register_forward_pre_hook(recorder, with_kwargs=True).remove)
        for images, truth in batches:
            for recorder in recorders.values():
                recorder.called = False
            model(images)
            if truth is not None:
                labels.append(truth.cpu())
    if not any(recorder.rows for recorder in recorders.values()):
        raise ValueError("no coefficients were recorded: there were no images, or the network calls none of its layers")
    classes = torch.cat(labels) if labels else None
    results = []
    for name, recorder in recorders.items():
        if not recorder.rows:
            continue  # in the network, but not on the way to its output
        rows = torch.cat(recorder.rows)
        if classes is not None and len(rows) != len(classes):
            raise ValueError(f"layer {name!r} has {len(rows)} rows of coefficients for {len(classes)} labels")
        histogram = recorder.counts / recorder.counts.sum().clamp(min=1)
        dynamic = Correlation(recorder.total / recorder.matrices, histogram)
        kind, meaning = type(recorder.layer).__name__, SUPPORTED[_kind(recorder.layer)]
        results.append(LayerRouting(name, kind, meaning, rows, classes, dynamic, *references[name], recorder.matrices))
    return results


def variance_share(values: Tensor, labels: Tensor) -> float:
    """Variance between classes over total variance of ``values [N, F]``, both summed over F; NaN if it is zero."""
    values = values.double()
    mean = values.mean(0)
    total = float((values - mean).square().sum())
    # float32 branches: below this, differences between images are rounding
    if total <= 1e-12 * float(values.square().sum()):
        return float("nan")
    between = 0.0
    for label in labels.unique():
        part = values[labels == label]
        between += len(part) * float((part.mean(0) - mean).square().sum())
    return between / total


def select_layers(model: nn.Module, patterns: Sequence[str] = ("*",)) -> dict[str, DynamicConv2d]:
    """Layers of supported kinds that match, by name.

    Raises:
        ValueError: If a pattern matches none; the message says what it does match.
    """
    found: dict[str, Any] = {}
    convs = {name: child for name, child in model.named_modules() if isinstance(child, (DynamicConv2d, nn.Conv2d))}
    for pattern in patterns:
        matching = {name: module for name, module in convs.items() if fnmatchcase(name, pattern)}
        if not matching:  # as the table prints names: without the modules that all layers are in
            matching = {name: module for name, module in convs.items() if fnmatchcase(name, f"*.{pattern}")}
        usable = {name: module for name, module in matching.items() if _is_supported(module)}
        if not usable:
            raise ValueError(_nothing(pattern, matching, list(convs)))
        found.update(usable)
    return {name: found[name] for name in convs if name in found}


def _nothing(pattern: str, matching: Mapping[str, nn.Module], names: list[str]) -> str:
    supported = ", ".join(f"{kind.__name__} ({meaning})" for kind, meaning in SUPPORTED.items())
    if not matching:
        return f"no convolution is named {pattern!r}{did_you_mean(pattern, names, _LISTED)}"
    # dynamic layers first: they are what the user may have expected to see
    ordered = sorted(matching.items(), key=lambda item: not isinstance(item[1], DynamicConv2d))
    kinds = [f"{name!r} is {type(module).__name__}{_why(module)}" for name, module in ordered[:_LISTED]]
    more = f" and {len(ordered) - _LISTED} more" if len(ordered) > _LISTED else ""
    return f"no layer here has coefficients to report: {', '.join(kinds)}{more}. Supported: {supported}"


def _why(module: nn.Module) -> str:
    return " with num_kernels=1: no kernel attention" if isinstance(module, ODConv2d) else ""


def _kind(layer: DynamicConv2d) -> type[DynamicConv2d]:
    return next(kind for kind in SUPPORTED if isinstance(layer, kind))


def _is_supported(module: nn.Module) -> bool:
    return isinstance(module, tuple(SUPPORTED)) and not (isinstance(module, ODConv2d) and module.num_kernels == 1)


def _as_rows(coefficients: Any) -> Tensor:
    """``[B, F]`` of what a branch predicts: K weights, K * C_out weights, a_w or Lambda."""
    for attribute in ("kernel", "scale"):
        coefficients = getattr(coefficients, attribute, coefficients)
    rows: Tensor = coefficients.detach().flatten(1)
    return rows


def _reference(layer: DynamicConv2d, name: str, static: nn.Module | None) -> tuple[Correlation, str]:
    """Correlation of the static kernels a layer is compared with, and which those are."""
    dcd = isinstance(layer, DCDConv2d)
    if static is None:
        kernel = layer.kernels().mean(0) if isinstance(layer, BankedConv2d) else layer.weight
        source = "own static kernel W0" if dcd else "mean of its own kernels"
    else:
        convs = {key: module for key, module in static.named_modules() if isinstance(module, nn.Conv2d)}
        if name not in convs:
            hint = did_you_mean(name, convs, _LISTED)
            raise ValueError(f"static: the network has no static convolution at {name!r}{hint}")
        kernel, source = convs[name].weight, "static network"
    # DCD's residual is dense: the kernel it is compared with is written out likewise
    kernel = write_dense(kernel, layer.groups) if dcd else kernel
    matrix = correlate(kernel)
    counts = count_pairs(matrix)
    return Correlation(matrix, counts / counts.sum().clamp(min=1)), source
