"""The rules of docs/architecture.md on imports. If these fail, the floors of the house have a hole.

Imports are read from the source, those inside functions too, so that no cycle can hide there, and those that name a
module as text (``import_module("...")``) or reach it by its dotted path (``dyvision.layers._base.name``).
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
#: rooms, lowest floor first; an import goes to the own room or to a lower floor
FLOORS: tuple[tuple[str, ...], ...] = (
    ("ops", "visualize"),
    ("layers",),
    ("convert",),
    ("backbones",),
    ("analysis", "checkpoints", "export"),
    ("tasks", "data"),
    ("inference",),
    ("adapters", "cli"),
)
#: folders in the clone that are not where their package is
MAPPED = {"tasks": "dyvision.tasks", "data": "dyvision.data", "configs": "dyvision.configs"}


class Import(NamedTuple):
    """One import statement."""

    importer: str
    imported: str
    file: Path
    line: int

    def __str__(self) -> str:
        text = self.file.read_text(encoding="utf-8").splitlines()[self.line - 1].strip()
        return f"{self.file.relative_to(ROOT)}:{self.line}: {text}"


def module_name(file: Path, root: Path = ROOT) -> str:
    """``dyvision/ops/kernels.py`` is ``dyvision.ops.kernels``, ``tasks/base.py`` is ``dyvision.tasks.base``."""
    first, *rest = file.relative_to(root).with_suffix("").parts
    parts = [MAPPED.get(first, first), *rest]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, importer: str, file: Path, known: set[str]) -> Iterator[Import]:
    """Every import in a source, as the modules that it names.

    ``from package import name`` is an import of ``package.name`` where that is a module, else of ``package``.
    ``TYPE_CHECKING`` blocks count: they are edges of the drawing, too.
    """
    package = importer if file.name == "__init__.py" else importer.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer, alias.name, file, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield Import(importer, full if full in known else base, file, node.lineno)
        elif isinstance(node, ast.Call) and (named := module_by_text(node)):
            name = importlib.util.resolve_name(named, package)
            yield Import(importer, longest_known(name, known) or name, file, node.lineno)
        elif isinstance(node, ast.Attribute) and (private := private_path(node)) in known:
            yield Import(importer, private, file, node.lineno)


def module_by_text(call: ast.Call) -> str | None:
    """``"dyvision.ops"`` of ``importlib.import_module("dyvision.ops")`` and the like; None for another call."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
    first = call.args[0] if call.args else None
    if name not in ("import_module", "__import__", "resolve_name") or not isinstance(first, ast.Constant):
        return None
    return first.value.partition(":")[0] if isinstance(first.value, str) else None


def longest_known(name: str, known: set[str]) -> str | None:
    """The module of ours that a dotted name begins with."""
    parts = name.split(".")
    return next((module for n in range(len(parts), 0, -1) if (module := ".".join(parts[:n])) in known), None)


def private_path(node: ast.Attribute) -> str:
    """``dyvision.layers._base`` of that expression; empty if it is none whose last name has an underscore."""
    parts: list[str] = []
    inner: ast.expr = node
    while isinstance(inner, ast.Attribute):
        parts.append(inner.attr)
        inner = inner.value
    return ".".join([inner.id, *parts[::-1]]) if isinstance(inner, ast.Name) and node.attr.startswith("_") else ""


def sources(*folders: str) -> dict[str, Path]:
    """Module names and files below some folders of the clone."""
    return {module_name(file): file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))}


SHIPPED = sources("dyvision", "tasks", "data")
EVERYWHERE = SHIPPED | sources("tests", "benchmarks", "docs")
IMPORTS = [
    found
    for name, file in EVERYWHERE.items()
    for found in imports_of(file.read_text(encoding="utf-8"), name, file, set(EVERYWHERE))
]
INSIDE = [found for found in IMPORTS if found.importer in SHIPPED and found.imported in SHIPPED]


def room(module: str) -> str | None:
    """The room of a module of ours; None for the ground below all rooms (``dyvision.saving``, ``dyvision`` itself)."""
    parts = module.split(".")
    rooms = {name for floor in FLOORS for name in floor}
    return parts[1] if len(parts) > 1 and parts[1] in rooms else None


def floor(module: str) -> int:
    """The floor of a module: 0 is the ground."""
    return next((number for number, rooms in enumerate(FLOORS, 1) if room(module) in rooms), 0)


def goes_up(found: Import) -> bool:
    """An import of a higher floor, or of another room on the same one.

    ``dyvision`` itself and ``__main__`` are the front door: they may import everything, and nothing below imports them.
    """
    if found.importer in ("dyvision", "dyvision.__main__"):
        return False
    if found.imported == "dyvision":
        return True
    above = floor(found.imported) > floor(found.importer)
    beside = floor(found.imported) == floor(found.importer) and room(found.imported) != room(found.importer)
    return above or beside


def hidden_from(found: Import) -> bool:
    """An import of a module with a leading underscore from outside its own folder (or the tests of that)."""
    parts = found.imported.split(".")
    private = [k for k, part in enumerate(parts) if part.startswith("_") and not part.startswith("__")]
    importer = re.sub(r"^tests\.", "dyvision.", found.importer)
    return any(not f"{importer}.".startswith(".".join(parts[:k]) + ".") for k in private)


def circles(edges: list[Import]) -> list[list[str]]:
    """Groups of modules that import each other (Tarjan's strongly connected components of more than one)."""
    follow: dict[str, list[str]] = {}
    for found in edges:
        # a package's __init__ gathers what is in its folder: only what it gathers from elsewhere is a dependence
        follow.setdefault(found.importer, []).append(found.imported)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found_groups: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in follow.get(name, []):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = [stack.pop()]
            while group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                found_groups.append(sorted(group))

    for name in sorted(follow):
        if name not in index:
            visit(name)
    return found_groups


def lines(found: list[Import]) -> str:
    return "\n" + "\n".join(map(str, found))


def test_imports_point_down() -> None:
    wrong = [found for found in INSIDE if goes_up(found)]
    assert not wrong, lines(wrong)


def test_no_circles() -> None:
    assert circles(INSIDE) == []


def test_a_leading_underscore_is_kept() -> None:
    wrong = [found for found in IMPORTS if found.imported in EVERYWHERE and hidden_from(found)]
    assert not wrong, lines(wrong)


def test_lightning_is_for_tasks_and_above() -> None:
    above = floor("dyvision.tasks")
    wrong = [
        found
        for found in IMPORTS
        if found.importer in SHIPPED
        and floor(found.importer) < above
        and found.imported.split(".")[0] in ("lightning", "pytorch_lightning", "lightning_fabric")
    ]
    assert not wrong, lines(wrong)


def test_files_hold_one_idea() -> None:
    """What is longer than 300 lines has more than one."""
    long = {
        str(file.relative_to(ROOT)): n for file in SHIPPED.values() if (n := len(file.read_text().splitlines())) > 300
    }
    assert not long


@pytest.mark.parametrize(
    ("importer", "source", "rule"),
    [
        ("dyvision.ops.planner", "from dyvision.layers import DyConv", goes_up),
        ("dyvision.ops.planner", "def f():\n    import dyvision.tasks.base", goes_up),
        ("dyvision.data.base", "from dyvision.tasks import BaseTask", goes_up),
        ("dyvision.layers.dcd", "import dyvision", goes_up),
        ("dyvision.ops.planner", 'def f():\n    import_module("dyvision.tasks.base")', goes_up),
        ("dyvision.ops.planner", 'importlib.import_module("..layers", __package__)', goes_up),
        ("dyvision.ops.planner", '__import__("dyvision.layers")', goes_up),
        ("dyvision.ops.planner", 'pkgutil.resolve_name("dyvision.layers:DyConv")', goes_up),
        ("dyvision.cli.fit", "from dyvision.ops._checks import check", hidden_from),
        ("dyvision.cli.fit", 'import_module("dyvision.ops._checks")', hidden_from),
        ("dyvision.cli.fit", "dyvision.ops._checks.check()", hidden_from),
        ("tests.layers.test_dcd", "from dyvision.ops import _checks", hidden_from),
    ],
)
def test_a_planted_fault_is_found(importer, source, rule) -> None:
    known = set(EVERYWHERE) | {"dyvision.ops._checks"}
    (found,) = imports_of(source, importer, ROOT / "planted.py", known)
    assert rule(found)


def test_a_planted_circle_is_found() -> None:
    edges = [Import(a, b, ROOT / "x.py", 1) for a, b in [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")]]
    assert circles(edges) == [["a", "b", "c"]]
