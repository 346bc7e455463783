"""Modules of the user's own that register layers, backbones, heads, data formats and transforms.

Two ways lead here. A package declares an entry point in the group ``dyvision.plugins``, a module or a function that
registers; it is loaded when a name is not known or names are listed. Or the user names a module or a file
(:func:`import_plugin`; ``--import`` on the command line). A checkpoint never imports anything.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from traceback import walk_tb
from types import ModuleType

from dyvision.text import one_line, printable

GROUP = "dyvision.plugins"
#: what is being imported: ``("package", "name 1.0")`` or ``("import", "my_layers.py")``
_origin: tuple[str, str] | None = None
_looked = False


def current_origin() -> tuple[str, str] | None:
    """How the module came here whose registrations happen now: ``("package", NAME)``, ``("import", TYPED)`` or None."""
    return _origin


def load_installed() -> None:
    """Load the plug-ins of all installed packages, once. One that fails is left out with a warning that names it."""
    global _looked
    if _looked:
        return
    _looked = True
    for point in installed():
        package = f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"
        try:
            with _from("package", package):
                found = point.load()
                if inspect.isroutine(found):
                    found()
        except (Exception, SystemExit) as error:  # whatever somebody else's package does when it is imported
            said = f"plug-in {point.name!r} of {package} ({point.value}) is left out: {_explain(error)}"
            warnings.warn(printable(said), stacklevel=2)


def installed() -> list[EntryPoint]:
    """The entry points of all installed packages, each once, without loading them."""
    return list({(point.name, point.value): point for point in entry_points(group=GROUP)}.values())


def import_plugin(name: str, option: str = "--import", beside: Path | None = None) -> str:
    """Import a module or a file that the user names.

    A module is looked for where Python looks, and in the working directory. A file is a module under its own name, with
    its package's in front if it lies in one: worker processes find by that name what they are sent. Its folder goes to
    the end of Python's path, so that no file there hides a module of Python or of a package.

    Args:
        name: ``my_package.layers``, or ``path/to/layers.py``.
        option: Where it was named, for messages.
        beside: A folder that a relative path is looked for in first.

    Returns:
        What leads to the same module from any place: its name, or the absolute path of the file.

    Raises:
        ValueError: If there is no such module or file, or it fails, with the file and the line.
    """
    where = f"{option} {name}".strip()
    if not isinstance(name, str) or not name.strip() or name.startswith("-") or not _has_parts(name):
        raise ValueError(f"{option}: expected a module or a file, such as my_layers or path/to/my_layers.py")
    is_file = name.endswith(".py") or "/" in name or os.sep in name
    module = _of_file(name, where, beside) if is_file else name
    if not is_file:
        _add_to_path(Path.cwd())
    try:
        with _from("import", name):
            found = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever a file does when it is run
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            raise ValueError(
                f"{where}: there is no module {error.name!r}, neither in the working directory ({Path.cwd()}) nor "
                "where Python looks (installed packages, PYTHONPATH); a file is named with its .py"
            ) from error
        raise ValueError(f"{where}: {_explain(error)}") from error
    return os.path.abspath(str(found.__file__)) if is_file else module


def _has_parts(name: str) -> bool:
    """Whether a name of a module is whole: a relative one (``.layers``) is relative to nothing here."""
    return "/" in name or os.sep in name or all(name.split("."))


def _of_file(name: str, where: str, beside: Path | None) -> str:
    """The name under which a file is a module, once its folder is on Python's path."""
    path = Path(name).expanduser()
    places = [place / path for place in (beside, Path.cwd()) if place is not None]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        looked = " and ".join(dict.fromkeys(os.path.abspath(place) for place in places))
        raise ValueError(f"{where}: no such file; looked at {looked}")
    file = file.resolve()
    parts, folder = [file.stem], file.parent
    if file.stem == "__init__":
        parts = []
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    if file.suffix != ".py" or any("." in part for part in parts):
        raise ValueError(f"{where}: expected a Python file, NAME.py, without another dot in its name")
    module = ".".join(parts)
    _add_to_path(folder)
    taken = sys.modules.get(parts[0]) or find_spec(parts[0])
    there = _file_of(taken)
    own = (folder / parts[0] / "__init__.py") if len(parts) > 1 or file.stem == "__init__" else file
    if there is None or not there.exists() or not there.samefile(own):
        raise ValueError(
            f"{where}: Python has another module {parts[0]!r} ({there or 'built in'}); give the file another name"
        )
    return module


def _file_of(module: object) -> Path | None:
    """The file of a module or of a specification of one."""
    found = getattr(module, "__file__", None) if isinstance(module, ModuleType) else getattr(module, "origin", None)
    return Path(found) if found and found not in ("built-in", "frozen") else None


def _add_to_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    importlib.invalidate_caches()  # the file may be younger than what the finders remember


@contextmanager
def _from(kind: str, text: str) -> Iterator[None]:
    global _origin
    before, _origin = _origin, (kind, text)
    try:
        yield
    finally:
        _origin = before


def _explain(error: BaseException) -> str:
    """``FILE:LINE: Error: message`` of what an imported module raised: the last line of its own, not of a library's."""
    said = f"{type(error).__name__}: {one_line(error)}" if str(error) else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    own = [frame for frame in frames if not _is_pythons(frame[0])]
    if not own:
        return said
    installed_one = "site-packages" in own[0][0]
    mine = [frame for frame in own if installed_one or "site-packages" not in frame[0]]
    return f"{mine[-1][0]}:{mine[-1][1]}: {said}"


def _is_pythons(file: str) -> bool:
    """Whether a frame is of Python's import system or of dyvision."""
    standard = Path(importlib.__file__).parent.parent
    here = Path(__file__).parent
    return file.startswith("<") or (
        (Path(file).is_relative_to(standard) and "site-packages" not in file) or Path(file).is_relative_to(here)
    )
