"""Set-up of a COCO file of train2017's size: processor time and peak memory, pycocotools beside dyvision.

    python benchmarks/large_coco.py [--scale 1.0] [--repeat 3] [--steps 0]

Writes a file of 118,287 images and 860,001 annotations (times ``--scale``) into a temporary folder; the images are links
to one. Every measurement is a process of its own; the imports are not counted as time, but in the peak. ``--steps``
also reads that many batches with two workers and prints how the memory of all processes grew. Prints medians.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

IMAGES, ANNOTATIONS, CATEGORIES = 118_287, 860_001, 80
READERS = ("pycocotools", "boxes", "masks", "evaluation")
HEIGHT, WIDTH = 480, 640


def write(root: Path, scale: float) -> None:
    """Writes the annotation file and the links."""
    rng = np.random.default_rng(0)
    images, annotations = round(IMAGES * scale), round(ANNOTATIONS * scale)
    folder = root / "train2017"
    folder.mkdir(parents=True)
    (root / "annotations").mkdir()
    first = folder / "first.jpg"
    Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(first, quality=60)
    names = [f"{number:012d}.jpg" for number in range(1, images + 1)]
    source = first
    for number, name in enumerate(names):
        if number % 30_000 == 29_999:  # file systems limit the number of links to a file
            source = folder / f"first{number}.jpg"
            source.write_bytes(first.read_bytes())
        os.link(source, folder / name)
    with (root / "annotations" / "instances_train2017.json").open("w", encoding="utf-8") as file:
        file.write('{"info": {}, "licenses": [], "images": [')
        url = "http://images.cocodataset.org/train2017/"
        for number, name in enumerate(names, start=1):
            record = {
                "license": 3, "file_name": name, "coco_url": url + name, "height": HEIGHT, "width": WIDTH,
                "date_captured": "2013-11-14 16:28:13", "flickr_url": f"http://farm9.staticflickr.com/{name}", "id": number,
            }  # fmt: skip
            file.write(("" if number == 1 else ", ") + json.dumps(record))
        file.write('], "annotations": [')
        owners = np.sort(rng.integers(1, images + 1, annotations)).tolist()
        for number in range(annotations):
            x, y = rng.uniform(0, WIDTH - 60), rng.uniform(0, HEIGHT - 60)
            corners = rng.integers(6, 44)
            points = np.round(rng.uniform(0, 55, (corners, 2)) + (x, y), 2)
            low, high = points.min(axis=0), points.max(axis=0)
            crowd = number % 86 == 0
            runs = {"size": [HEIGHT, WIDTH], "counts": [1000, 50, HEIGHT * WIDTH - 1050]}
            record = {
                "segmentation": runs if crowd else [points.ravel().tolist()], "area": float(np.prod(high - low)),
                "iscrowd": int(crowd), "image_id": owners[number], "bbox": np.round([*low, *(high - low)], 2).tolist(),
                "category_id": int(rng.integers(1, CATEGORIES + 1)), "id": 100_000 + number,
            }  # fmt: skip
            file.write(("" if number == 0 else ", ") + json.dumps(record))
        file.write('], "categories": ')
        file.write(json.dumps([{"id": k, "name": f"class {k}"} for k in range(1, CATEGORIES + 1)]) + "}")


def measure(reader: str, root: Path) -> dict[str, float]:
    """Processor time in seconds and peak memory in GB of one set-up, in this process."""
    if reader == "pycocotools":
        from pycocotools.coco import COCO

        start = time.process_time()
        kept: object = COCO(str(root / "annotations" / "instances_train2017.json"))
    else:
        from dyvision.data import COCODataModule

        data = COCODataModule(str(root), masks=reader == "masks", num_workers=0, val_split="train2017")
        start = time.process_time()
        kept = data.build_dataset("train2017", train=reader != "evaluation")
    seconds = time.process_time() - start
    assert kept is not None
    return {"seconds": seconds, "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def _memory() -> float:
    """Memory of this process and its children in GB, shared pages counted once per process that touches them."""
    total, own = 0, os.getpid()
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
            rollup = (status.parent / "smaps_rollup").read_text()
        except OSError:
            continue
        if int(fields["Pid"]) == own or int(fields["PPid"]) == own:
            total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 2**20


def steps(root: Path, count: int) -> dict[str, float]:
    """Memory in GB early and late in a training epoch with two workers."""
    from dyvision.data import COCODataModule

    data = COCODataModule(str(root), masks=True, num_workers=2, batch_size=2)
    data.datasets["train"] = data.build_dataset("train2017", train=True)
    seen = {}
    for number, _ in enumerate(data.train_dataloader(), start=1):
        if number in (count // 10, count):
            seen[f"step {number}"] = _memory()
        if number == count:
            break
    return seen


def main() -> None:
    """Measure everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--readers", nargs="*", default=list(READERS))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, root = options.child
        print(json.dumps(steps(Path(root), options.steps) if name == "steps" else measure(name, Path(root))))
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.scale)
        size = (Path(folder) / "annotations" / "instances_train2017.json").stat().st_size / 2**20
        table = Table("reader", "processor time, s", "peak, GB", title=f"{size:.0f} MB, median of {options.repeat}")
        results: dict[str, list[dict[str, float]]] = {}
        for _ in range(options.repeat):
            for name in options.readers:
                results.setdefault(name, []).append(_child(name, folder, options.steps))
        for name, runs in results.items():
            table.add_row(name, *(f"{np.median([run[key] for run in runs]):.2f}" for key in ("seconds", "gigabytes")))
        Console().print(table)
        if options.steps:
            print("memory of a run with two workers, GB:", _child("steps", folder, options.steps))


def _child(name: str, folder: str, count: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--steps", str(count), "--child", name, folder]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
