"""Data formats by name: ``--data_format`` on the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from dyvision.data.base import VisionDataModule
from dyvision.registry import OWN_NAMES, Registry, missing_plugin, records_of
from dyvision.text import did_you_mean

#: data modules, and the names in ``dyvision.data`` of dyvision's own
_FORMATS: dict[str, str | type[VisionDataModule]] = {
    "cityscapes": "CityscapesDataModule",
    "coco": "COCODataModule",
    "imagefolder": "ImageFolderDataModule",
}
_REGISTRY = Registry("data format", _FORMATS)
DataModuleType = TypeVar("DataModuleType", bound=type[VisionDataModule])


def register_data_format(name: str) -> Callable[[DataModuleType], DataModuleType]:
    """Decorator that gives a data module a name.

    Args:
        name: The name for ``--data_format``; the arguments of the class are then the options ``--data.*``.

    Raises:
        ValueError: If the name is no word, or taken.
        TypeError: If it is no subclass of :class:`dyvision.data.VisionDataModule`.
    """

    def check(cls: type[VisionDataModule]) -> type[VisionDataModule]:
        if not (isinstance(cls, type) and issubclass(cls, VisionDataModule)):
            raise TypeError(f"data format {name!r}: {cls!r} is no subclass of dyvision.data.VisionDataModule")
        return cls

    return _REGISTRY.decorator(name, check)


def list_data_formats() -> list[str]:
    """Names of the data formats, sorted."""
    return _REGISTRY.names()


def get_data_format(name: str) -> str | type[VisionDataModule]:
    """The data module of a format, or its name in ``dyvision.data`` if it is one of dyvision's.

    Raises:
        ValueError: If there is none of that name; the message gives the closest names.
    """
    found = _REGISTRY.find(name)
    if found is None:
        hint = did_you_mean(name, _FORMATS) or OWN_NAMES
        raise ValueError(f"unknown data format {name!r}{hint}; formats are {', '.join(list_data_formats())}")
    return found


def recorded_format(plugins: Any, where: str) -> str | None:
    """The data format of a file's data, if a plug-in had registered it; None for dyvision's own.

    Args:
        plugins: What the file says of plug-ins; from a stranger.
        where: The file, for messages.

    Raises:
        ValueError: If nothing here registers it, with the module that did.
    """
    records = [one for one in records_of(plugins) if one["kind"] == _REGISTRY.kind]
    if records and records[-1]["name"] not in list_data_formats():
        raise missing_plugin(records[-1:], where)
    return records[-1]["name"] if records else None
