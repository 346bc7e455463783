"""Top-1 of a pretrained classifier on real images, static and with every layer, through the command line.

``python -m benchmarks.pretrained FILE FOLDER`` evaluates ``dyvision validate --model.pretrained WEIGHTS`` on folders
of images that are named by ImageNet's synsets (``IMAGES/n01443537/*.JPEG``): a layer that starts from the static
network has its accuracy, to the last image. The first row normalises as ImageNet's statistics say, whatever the weights
were trained with.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from timm.data import ImageNetInfo

from dyvision.cli.trainer import run_trainer
from dyvision.layers import list_layers

#: what data modules normalise with if neither the user nor the weights say anything
_IMAGENET = ["--data.mean=[0.485,0.456,0.406]", "--data.std=[0.229,0.224,0.225]", "--data.crop_ratio=0.875"]


def link_images(images: Path, root: Path, per_class: int) -> int:
    """A data set with all of ImageNet's classes, and links to the images there are; returns how many."""
    count = 0
    for synset in ImageNetInfo().label_names():
        (root / "train" / synset).mkdir(parents=True)
        (root / "val" / synset).mkdir(parents=True)
        found = [path for path in sorted((images / synset).rglob("*")) if path.is_file()]
        for path in found[:per_class]:
            (root / "val" / synset / path.name).symlink_to(path.resolve())
            count += 1
    return count


def top1(root: Path, options: Sequence[str]) -> float:
    """``val/top1`` of ``dyvision validate``."""
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", "--data.num_workers=0"]
    arguments = ["--task=classification", f"--data.root={root}", f"--output={root / 'results'}", *quiet, *options]
    with contextlib.redirect_stdout(io.StringIO()):
        done = run_trainer("validate", arguments)
    return float(done.trainer.callback_metrics["val/top1"])


def main() -> None:
    """Evaluate and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="file of ImageNet weights of the static network")
    parser.add_argument("images", type=Path, help="folder with a folder of images per synset")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--layers", nargs="*", default=list_layers())
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--per-class", type=int, default=1, help="images of each class")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        count = link_images(options.images, root, options.per_class)
        common = [
            *(f"--model.backbone={options.backbone}", f"--model.pretrained={options.weights}"),
            *("--model.num_classes=1000", f"--data.image_size={options.image_size}", "--data.batch_size=50"),
        ]
        rows = [("static, ImageNet's statistics", top1(root, [*common, *_IMAGENET]))]
        for layer in ["static", *(name for name in options.layers if name != "static")]:
            rows.append((layer, top1(root, [*common, f"--model.layer={layer}"])))
    table = Table("layer", "top-1")
    for name, value in rows:
        table.add_row(name, f"{value:.4f}")
    print(f"{options.backbone}, {count} images, {options.image_size} pixels")
    Console().print(table)


if __name__ == "__main__":
    main()
