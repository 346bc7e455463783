"""Check that a wheel holds the mapped folders, whole and nothing else: ``python tests/check_wheel.py WHEEL``."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAPPED = {
    "dyvision": ROOT / "dyvision",
    "dyvision/tasks": ROOT / "tasks",
    "dyvision/data": ROOT / "data",
    "dyvision/configs": ROOT / "configs",
}
# without it a type checker takes the package for untyped
MARKER = "dyvision/py.typed"


def source_files(folder: Path) -> set[str]:
    """Every file of a package folder but caches and hidden ones, as POSIX paths relative to it."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {
        path.as_posix()
        for path in paths
        if not any(part.startswith(".") or part == "__pycache__" for part in path.parts)
    }


def main(wheel: str) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"{package}/{path}" for package, folder in MAPPED.items() for path in source_files(folder)} | {MARKER}
    contents = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    missing, stray = sorted(expected - contents), sorted(contents - expected)
    if missing or stray:
        sys.exit(f"{wheel}: missing {missing}, stray {stray}")
    modules, configs = (sum(name.endswith(suffix) for name in contents) for suffix in (".py", ".yaml"))
    print(f"{wheel}: {modules} modules, {configs} configs, {len(contents) - modules - configs} other files")


if __name__ == "__main__":
    main(sys.argv[1])
