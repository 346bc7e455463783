"""Check that a wheel holds the mapped packages and every packaged config: ``python tests/check_wheel.py WHEEL``."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAPPED = {"dyvision": ROOT / "dyvision", "dyvision/tasks": ROOT / "tasks", "dyvision/data": ROOT / "data"}


def main(wheel: str) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in MAPPED.items()
        for path in folder.rglob("*.py")
    }
    configs = {
        f"dyvision/configs/{path.relative_to(ROOT / 'configs').as_posix()}"
        for path in (ROOT / "configs").rglob("*.yaml")
    }
    missing = (expected | configs) - names
    top_level = {name.split("/")[0] for name in names}
    stray = {name for name in top_level if name != "dyvision" and not name.endswith(".dist-info")}
    if missing or stray or not configs:
        sys.exit(f"{wheel}: missing {sorted(missing)}, stray top-level names {sorted(stray)}, {len(configs)} configs")
    print(f"{wheel}: {len(expected)} modules and {len(configs)} configs")


if __name__ == "__main__":
    main(sys.argv[1])
