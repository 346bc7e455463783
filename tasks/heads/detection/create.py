"""Detection heads by name, behind one interface.

``create_detector("fcos", backbone, num_classes=80)`` works for every head and any network with ``feature_info``. The
``Detector`` it returns has the same labels for all of them: 1..num_classes, the background is not a class.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dyvision.registry import Registry
from dyvision.tasks.components import (
    Component,
    ComponentSpec,
    choose,
    closest,
    import_object,
    parse_component,
    takes_three,
)
from dyvision.tasks.heads.arguments import check_head_arguments
from dyvision.tasks.heads.detection.condinst import build_condinst
from dyvision.tasks.heads.detection.config import DetectorConfig
from dyvision.tasks.heads.detection.faster_rcnn import build_faster_rcnn
from dyvision.tasks.heads.detection.fcos import build_fcos
from dyvision.tasks.heads.detection.mask_rcnn import build_mask_rcnn
from dyvision.tasks.heads.detection.retinanet import build_retinanet
from dyvision.tasks.heads.detection.ssdlite import build_ssdlite

_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "condinst": build_condinst,
    "faster_rcnn": build_faster_rcnn,
    "fcos": build_fcos,
    "mask_rcnn": build_mask_rcnn,
    "retinanet": build_retinanet,
    "ssdlite": build_ssdlite,
}
#: heads with sigmoid scores: label 1 is their class 0
_SIGMOID = {"condinst", "fcos", "retinanet"}
#: what torchvision's detectors decide by: maps, then the numbers of one stage, or of two
_DECIDING = (
    "backbone",
    "head",
    "rpn.head",
    "roi_heads.box_predictor",
    "roi_heads.mask_predictor",
    "roi_heads.keypoint_predictor",
)
_REGISTRY = Registry("detection head", _BUILDERS, ("head",))
Head = TypeVar("Head", bound=Callable[..., nn.Module])


def register_detection_head(name: str, background: bool = True) -> Callable[[Head], Head]:
    """Decorator that gives a function that builds a detector a name.

    Args:
        name: The name for ``head``.
        background: Whether class 0 of the detector is the background; False if it is the first class, as with sigmoid
            scores.

    The function takes the backbone, the number of classes without background and a ``DetectorConfig`` by position, then
    arguments of its own; it returns a detector with torchvision's interface that holds the backbone.

    Raises:
        ValueError: If the name is no word, or taken.
        TypeError: If it is no function of three arguments by position.
    """

    def check(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        if not takes_three(build):
            raise TypeError(f"detection head {name!r}: expected a function (backbone, num_classes, config, ...)")
        if background:
            _SIGMOID.discard(name)
        else:
            _SIGMOID.add(name)
        return build

    return _REGISTRY.decorator(name, check)


class Detector(nn.Module):
    """A torchvision detector with labels in 1..num_classes and results in float32.

    Args:
        model: Detector with torchvision's interface: losses in training, detections in evaluation.
        backbone: The backbone inside the model.
        first_label: Label of the model's class 0: 0 if that is the background, 1 for sigmoid scores.
        predicts_masks: Whether detections have masks, and training needs them.

    Raises:
        ValueError: If the model does not contain the backbone.
    """

    def __init__(self, model: nn.Module, backbone: nn.Module, first_label: int, predicts_masks: bool) -> None:
        super().__init__()
        names = [name for name, module in model.named_modules() if module is backbone]
        if not names:
            raise ValueError(f"{type(model).__name__} does not contain the backbone it was given.")
        self.model = model
        self._backbone_name = names[0]
        self.first_label = first_label
        self.predicts_masks = predicts_masks

    @property
    def backbone(self) -> nn.Module:
        """The backbone inside the detector."""
        return self.model.get_submodule(self._backbone_name)

    def deciding_modules(self) -> list[nn.Module]:
        """The backbone, and the modules whose outputs the detector decides by (of those that torchvision's have)."""
        modules = dict(self.model.named_modules())
        return [self.backbone, *(modules[name] for name in _DECIDING if name in modules)]

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Any]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Compute losses (in training) or detections.

        Args:
            images: Images ``[3, H_i, W_i]`` in 0..1, of any sizes.
            targets: In training, dictionaries with ``boxes`` ``[N, 4]`` (xyxy, pixels), ``labels`` ``[N]`` in
                1..num_classes and for Mask R-CNN and CondInst ``masks`` ``[N, H_i, W_i]``.

        Returns:
            Losses by name, or per image ``boxes``, ``labels``, ``scores`` and for Mask R-CNN and CondInst ``masks``
            ``[N, 1, H_i, W_i]`` in 0..1, best first, in pixels of the given image.
        """
        if self.training:
            return self.model(list(images), [self._to_model(target) for target in targets or ()])
        detections = self.model(list(images))
        return [{**found, "labels": found["labels"] + self.first_label} for found in detections]

    def _to_model(self, target: Mapping[str, Any]) -> dict[str, Tensor]:
        # torchvision wants float32 boxes, whatever precision the batch came in
        moved = {"boxes": target["boxes"].to(torch.float32), "labels": target["labels"] - self.first_label}
        return {**moved, "masks": target["masks"]} if self.predicts_masks else moved


def list_detection_heads() -> list[str]:
    """Names of the detection heads, sorted."""
    return _REGISTRY.names()


def create_detector(
    head: ComponentSpec, backbone: nn.Module, num_classes: int, config: DetectorConfig | None = None, **shared: Any
) -> Detector:
    """Build a detector on a backbone.

    Args:
        head: Name of a head; ``{"name": "fcos", "num_convs": 2, ...}`` with arguments of its ``build_*`` function; or
            ``{"class_path": "package.build", "init_args": {...}}`` for a function like those, called with the backbone,
            the number of classes and the config, that returns a detector with torchvision's interface, whose class 0 is
            the background.
        backbone: Network that returns a list of maps and has timm's ``feature_info``.
        num_classes: Number of classes, without background.
        config: Settings that all heads share.
        **shared: Further arguments of the head, where ``head`` does not have them; None is left out.

    Returns:
        The detector, in training mode.

    Raises:
        ValueError: If the head or one of its arguments does not exist, or a value is out of range.
    """
    component = check_head(head, **shared)
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes}: expected at least 1.")
    arguments = _with_shared(component, shared)
    model = _builder(component)(backbone, num_classes, config or DetectorConfig(), **arguments)
    has_mask = getattr(getattr(model, "roi_heads", None), "has_mask", None)
    return Detector(
        model,
        backbone,
        first_label=int(component.kind == "name" and component.name in _SIGMOID),
        predicts_masks=getattr(model, "predicts_masks", False) or bool(has_mask and has_mask()),
    )


def check_head(head: ComponentSpec, **shared: Any) -> Component:
    """Take a head argument apart, and check that the head exists and takes the arguments.

    Args:
        head: As for ``create_detector``.
        **shared: As for ``create_detector``.

    Raises:
        ValueError: If there is no such head or argument; the message gives the closest ones.
    """
    component = parse_component(head, "head", types=False)
    _check_arguments(component, _builder(component), _with_shared(component, shared))
    return component


def _with_shared(component: Component, shared: Mapping[str, Any]) -> dict[str, Any]:
    return {**{name: value for name, value in shared.items() if value is not None}, **component.arguments}


def _builder(component: Component) -> Callable[..., nn.Module]:
    if component.kind == "class_path":
        return import_object(component.name, "head", nn.Module, builders=True)
    found = _REGISTRY.find(component.name)
    return _BUILDERS[choose(component.name, _BUILDERS, "detection head")] if found is None else found


def _check_arguments(component: Component, build: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> None:
    parameters = inspect.signature(build).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return
    # the first three are not the user's: backbone, num_classes, config
    known = [parameter.name for parameter in list(parameters)[3:]]
    for argument in arguments:
        if argument not in known:
            raise ValueError(f"head {component.name!r} has no argument {argument!r}; {closest(argument, known)}")
    if component.kind == "name":
        check_head_arguments(arguments, f"head {component.name!r}")
