"""Names that modules declare, read from their source: importing them would take as long as importing PyTorch does."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path


def decorated_names(package: str, decorator: str) -> list[str]:
    """The texts that a decorator is called with in the modules of a package, sorted.

    Args:
        package: Such as ``"dyvision.layers"``; subpackages are left out.
        decorator: Such as ``"register_layer"``, whose calls look like ``@register_layer("dcd")``.
    """
    found = set()
    for path in sorted(_folder(package).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for call in getattr(node, "decorator_list", ()):
                named = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == decorator
                if named and isinstance(call.args[0], ast.Constant):
                    found.add(str(call.args[0].value))
    return sorted(found)


def declared_keys(package: str, module: str, name: str) -> list[str]:
    """The keys of a dictionary that a module assigns, sorted.

    Args:
        package: Such as ``"dyvision.tasks"``.
        module: Path of the module in it, such as ``"heads/detection/create.py"``.
        name: Of the dictionary.

    Raises:
        LookupError: If the module assigns no such dictionary.
    """
    tree = ast.parse((_folder(package) / module).read_text(encoding="utf-8"))
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        named = any(isinstance(target, ast.Name) and target.id == name for target in targets)
        value = getattr(node, "value", None)
        if named and isinstance(value, ast.Dict):
            return sorted(str(key.value) for key in value.keys if isinstance(key, ast.Constant))
    raise LookupError(f"{package}: {module} assigns no dictionary {name}")


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise LookupError(f"no package {package}")
    return Path(next(iter(spec.submodule_search_locations)))
