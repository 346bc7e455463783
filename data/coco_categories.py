"""The categories of an annotation file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from dyvision.data.class_names import look_alikes, normal
from dyvision.data.coco_fields import Fields, RefusedError, short
from dyvision.data.errors import DataError
from dyvision.text import some


def check_categories(records: Any, fields: Fields, used: Collection[Any] | None, drop_root: bool) -> dict[int, str]:
    """Checks the categories and gives those without a name of their own one.

    Args:
        records: ``categories`` of the file.
        fields: Reports repairs and refusals.
        used: ``category_id`` of the annotations, if they are known.
        drop_root: Leave out a category without objects that is the supercategory of others.

    Returns:
        ``{category id: name}``, by id.

    Raises:
        DataError: If there is none, or one cannot be used.
    """
    found: dict[int, str] = {}
    parents: dict[int, Any] = {}
    for position, record in enumerate(records):
        where = f"category number {position}"
        try:
            key, name = _category(record, where, fields)
        except RefusedError:
            continue
        if key in found:
            fields.findings.refused_because(
                fields.path, f"category id {key} is used twice", "ids have to be unique", where
            )
            continue
        found[key], parents[key] = name, record.get("supercategory")
    if not found:
        raise DataError(f"{fields.path}: 'categories' is empty; there is nothing to detect.")
    found = dict(sorted(found.items()))
    _check_root(found, parents, fields, used, drop_root)
    return _distinct(found, fields)


def _category(record: Any, where: str, fields: Fields) -> tuple[int, str]:
    if not isinstance(record, dict):
        raise fields.refuse("not an object with 'id' and 'name'", f"{where}, {short(record)}")
    key = fields.identity(record.get("id"), "id", where)
    if isinstance(key, str):
        raise fields.wrong(key, "id", "a whole number", where)
    name = record.get("name")
    if not isinstance(name, str):
        raise fields.wrong(name, "name", "text", where)
    if not name.strip():
        fields.findings.repaired(fields.path, "a category has an empty name", "named by its id", f"category {key}")
        name = f"category {key}"
    return key, normal(name)


def _check_root(
    found: dict[int, str], parents: dict[int, Any], fields: Fields, used: Collection[Any] | None, drop: bool
) -> None:
    for key, name in list(found.items()):
        children = [other for other, parent in parents.items() if parent == name and other != key]
        # a root of its own only if nothing is above it
        if not children or len(found) == 1 or parents[key] not in (None, "", "none", name):
            continue
        empty = used is None or not any(str(value).strip() == str(key) for value in used)
        if drop and empty:
            del found[key]
        elif drop:
            fields.findings.refused_because(
                fields.path, f"category {name!r} has objects", "set drop_root_category to false"
            )
        elif used is not None and empty:
            fields.findings.warned(
                fields.path,
                f"category {name!r} has no object and is the supercategory of others",
                "it becomes a class; set drop_root_category to true to leave it out",
            )


def _distinct(found: dict[int, str], fields: Fields) -> dict[int, str]:
    counts = Counter(found.values())
    for key, name in found.items():
        if counts[name] > 1:
            found[key] = f"{name} ({key})"
            fields.findings.repaired(
                fields.path, "categories have the same name", "told apart by their ids", f"category {key} {name!r}"
            )
    for names in look_alikes(found.values()):
        fields.findings.warned(
            fields.path, "names of categories that differ in case, spaces or Unicode form only",
            "each is a class of its own", some(map(repr, names)),
        )  # fmt: skip
    return found
