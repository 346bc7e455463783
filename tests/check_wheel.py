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
# what a compiler makes of an extension: in a wheel where there was one, in the clone where it is installed from
COMPILED = (".so", ".pyd")


def source_files(folder: Path) -> set[str]:
    """Every file of a package folder but caches, hidden and compiled ones, as POSIX paths relative to it."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix not in COMPILED)
    paths = (path.relative_to(folder) for path in files)
    return {
        path.as_posix()
        for path in paths
        if not any(part.startswith(".") or part == "__pycache__" for part in path.parts)
    }


def main(wheel: str) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"{package}/{path}" for package, folder in MAPPED.items() for path in source_files(folder)} | {MARKER}
    contents = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    compiled = {name for name in contents if name.startswith("dyvision/ops/native/_kernels.")}
    contents -= compiled
    missing, stray = sorted(expected - contents), sorted(contents - expected)
    if missing or stray:
        sys.exit(f"{wheel}: missing {missing}, stray {stray}")
    modules, configs = (sum(name.endswith(suffix) for name in contents) for suffix in (".py", ".yaml"))
    print(
        f"{wheel}: {modules} modules, {configs} configs, {len(contents) - modules - configs} other files, "
        f"{len(compiled)} compiled"
    )


if __name__ == "__main__":
    main(sys.argv[1])
