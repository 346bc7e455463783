"""Augmentation pipelines written as lists in YAML, run by albumentations.

Each item is one transform, in any of these forms::

    - HorizontalFlip                                   # defaults
    - RandomResizedCrop: {size: [224, 224]}            # arguments
    - {name: ColorJitter, brightness: 0.2}             # the same, flat
    - {class_path: albumentations.HorizontalFlip, init_args: {p: 0.5}}
    - OneOf: {transforms: [Blur, {GaussNoise: {p: 1}}], p: 0.3}

A pipeline holds geometry and colour only; normalisation and the conversion to a tensor follow by themselves.
"""

from __future__ import annotations

import importlib
import inspect
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from dyvision.data.errors import did_you_mean
from dyvision.registry import Registry
from dyvision.text import one_line, some

# albumentations asks the network for its newest version when it is imported
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    import albumentations as A

#: What a YAML list holds.
TransformSpec = str | dict[str, Any]

_APPENDED = ("Normalize", "ToFloat", "FromFloat", "ToTensorV2", "ToTensor3D")
_COMPOSITIONS = ("OneOf", "SomeOf", "Sequential", "RandomOrder", "OneOrOther")
_INNER = ("transforms", "first", "second")
_OWN: dict[str, type] = {}
_REGISTRY = Registry(
    "transform",
    _OWN,
    ("train_transform", "eval_transform"),
    lambda name: "by albumentations" if hasattr(A, name) else None,
)
TransformType = TypeVar("TransformType", bound=type)


def register_transform(name: str) -> Callable[[TransformType], TransformType]:
    """Decorator that gives a transform, a subclass of albumentations' ``BasicTransform`` or ``BaseCompose``, a name.

    Args:
        name: The name in a pipeline, beside albumentations' own.

    Raises:
        ValueError: If the name is no word, or taken, here or by albumentations.
        TypeError: If it is another class.
    """

    def check(cls: type) -> type:
        if not _is_transform(cls):
            raise TypeError(f"transform {name!r}: expected a subclass of albumentations' transforms")
        return cls

    return _REGISTRY.decorator(name, check)


def _is_transform(cls: Any) -> bool:
    return inspect.isclass(cls) and issubclass(cls, A.BasicTransform | A.BaseCompose)


def available_transforms() -> list[str]:
    """Names of the transforms and compositions a pipeline may use, sorted."""
    names = []
    for name, value in vars(A).items():
        if inspect.isclass(value) and not inspect.isabstract(value) and not name.startswith("_"):
            # the base classes live in albumentations.core; the transforms do not
            if name in _COMPOSITIONS or (issubclass(value, A.BasicTransform) and ".core." not in value.__module__):
                names.append(name)
    return sorted(set(names) - set(_APPENDED))


def build_transforms(
    spec: Sequence[TransformSpec], where: str = "transforms", fill_mask: int | None = None
) -> list[Any]:
    """Builds the transforms of a list.

    Args:
        spec: Items as in the module's docstring.
        where: Name of the argument, for messages.
        fill_mask: Value that geometry puts into a mask where the image has no pixels, for every transform that takes
            ``fill_mask`` and whose item does not set it.

    Returns:
        albumentations transforms, in order.

    Raises:
        ValueError: For an unknown transform or argument (with close matches), or a value a transform refuses.
    """
    if isinstance(spec, str | Mapping) or not isinstance(spec, Sequence):
        raise ValueError(f"{where}: expected a list of transforms, got {type(spec).__name__}: {spec!r}.")
    return [_build(item, f"{where}[{position}]", fill_mask) for position, item in enumerate(spec)]


def plain_spec(spec: Any) -> Any:
    """The same pipeline without objects: dictionaries for the transforms that Python code or a parser made already.

    Hyperparameters have to be plain, or a checkpoint with them cannot be loaded with ``weights_only=True``.
    """
    if isinstance(spec, A.BasicTransform):
        cls = type(spec)
        arguments = {key: plain_spec(value) for key, value in spec.get_transform_init_args().items()}
        return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": {**arguments, "p": spec.p}}
    if isinstance(spec, A.BaseCompose):
        cls = type(spec)
        inner = {"transforms": [plain_spec(item) for item in spec.transforms], "p": spec.p}
        return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": inner}
    if isinstance(spec, Mapping):
        return {key: plain_spec(value) for key, value in spec.items()}
    return [plain_spec(item) for item in spec] if isinstance(spec, list) else spec


def _build(item: Any, where: str, fill_mask: int | None) -> Any:
    if isinstance(item, A.BasicTransform | A.BaseCompose):
        return item
    name, arguments = _split(item, where)
    cls = _find(name, where)
    for key, value in arguments.items():
        _check_finite(value, f"{where}: {cls.__name__}: {key}")
    arguments = {
        key: build_transforms(value if isinstance(value, list) else [value], f"{where}.{key}", fill_mask)
        if key in _INNER and issubclass(cls, A.BaseCompose)
        else value
        for key, value in arguments.items()
    }
    for key in ("first", "second"):  # OneOrOther takes one transform under each of these
        if issubclass(cls, A.BaseCompose) and key in arguments:
            arguments[key] = arguments[key][0]
    parameters = inspect.signature(cls.__init__).parameters
    allowed = [key for key in parameters if key != "self"]
    for key in arguments:
        # albumentations only warns about these, and then ignores them
        if key not in allowed and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            raise ValueError(f"{where}: {cls.__name__} has no argument {key!r}.{did_you_mean(key, allowed)}")
    if fill_mask is not None and "fill_mask" not in arguments and _fills(parameters):
        arguments["fill_mask"] = fill_mask
    return _construct(cls, arguments, where)


def _check_finite(value: Any, what: str) -> None:
    if isinstance(value, list | tuple):
        for item in value:
            _check_finite(item, what)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{what}={value}: expected a finite number.")


def _fills(parameters: Mapping[str, inspect.Parameter]) -> bool:
    # None means that this transform leaves the mask as it is
    return "fill_mask" in parameters and parameters["fill_mask"].default is not None


def _split(item: Any, where: str) -> tuple[str, dict[str, Any]]:
    forms = "write a name, {Name: {argument: value}} or {class_path: ..., init_args: {...}}"
    if isinstance(item, str):
        return item, {}
    if not isinstance(item, Mapping) or not item:
        raise ValueError(f"{where}: {item!r} is not a transform; {forms}.")
    if "class_path" in item:
        extra = set(item) - {"class_path", "init_args"}
        if extra:
            raise ValueError(f"{where}: {some(sorted(extra))} must stand under init_args.")
        name, arguments = item["class_path"], item.get("init_args")
    elif "name" in item:
        name, arguments = item["name"], {key: value for key, value in item.items() if key != "name"}
    elif len(item) == 1:
        name, arguments = next(iter(item.items()))
    else:
        raise ValueError(f"{where}: one item holds one transform, got {some(item)}; {forms}.")
    if not isinstance(name, str) or not (arguments is None or isinstance(arguments, Mapping)):
        raise ValueError(f"{where}: {item!r} is not a transform; {forms}.")
    return name, dict(arguments or {})


def _find(name: str, where: str) -> Any:
    module, _, last = name.rpartition(".")
    if last in _APPENDED:
        raise ValueError(
            f"{where}: {last} is not needed: normalisation (arguments mean and std) and the conversion to a tensor "
            "follow every pipeline; remove it."
        )
    if module in ("", "albumentations", "A"):
        names = available_transforms()
        if last in names:
            return getattr(A, last)
        own = None if module else _REGISTRY.find(last)
        if own is None:
            raise ValueError(f"{where}: unknown transform {name!r}.{did_you_mean(last, [*names, *_OWN])}")
        return own
    try:
        cls = getattr(importlib.import_module(module), last)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{where}: cannot import {name!r} ({error}).") from error
    if not _is_transform(cls):
        raise ValueError(f"{where}: {name!r} is not an albumentations transform.")
    return cls


def _construct(cls: Any, arguments: dict[str, Any], where: str) -> Any:
    try:
        with warnings.catch_warnings():
            # what it warns about here is an argument it is going to ignore
            warnings.filterwarnings("error", category=UserWarning)
            return cls(**arguments)
    except (TypeError, ValueError, UserWarning) as error:
        raise ValueError(f"{where}: {cls.__name__}: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    """One line out of pydantic's many."""
    details = getattr(error.__cause__, "errors", None)
    if details is None:
        return one_line(error).rstrip(".")
    lines = []
    for detail in details():
        name = ".".join(str(part) for part in detail["loc"] if isinstance(part, str) and part.isidentifier())
        given = "" if detail["type"] == "missing" else f", got {detail['input']!r}"
        lines.append(f"{name}: {detail['msg']}{given}")
    return "; ".join(dict.fromkeys(lines))
