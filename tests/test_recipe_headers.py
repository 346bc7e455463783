"""Headers of the recipes. If these failed, somebody who opens one would not learn what to type and what to expect."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from dyvision.analysis import profile
from dyvision.backbones import create_backbone, create_model
from dyvision.cli.configs import load_layers
from dyvision.layers import get_layer
from dyvision.tasks.heads.segmentation import default_output_stride
from tests.documents import RECIPES, ROOT, expand

DATASETS = [path for path in RECIPES if path.parent.name != "layers" and path.stem != "quickstart"]
SIZES = {"classification": (224, 224), "segmentation": (512, 1024), "detection": (800, 1344)}


def name(path: Path) -> str:
    return path.relative_to(ROOT / "configs").as_posix()


def header(path: Path) -> str:
    """The comment at the top, line by line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines[: next(n for n, line in enumerate(lines) if not line.startswith("#"))])


def content(path: Path) -> dict:
    merged: dict = {}
    for _, part in load_layers(path):
        for section, values in part.items():
            merged[section] = {**merged.get(section, {}), **values} if isinstance(values, dict) else values
    return merged


def test_there_are_recipes_of_every_task() -> None:
    assert len(DATASETS) >= 42 and {path.parent.name for path in DATASETS} == set(SIZES)


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_a_recipe_says_what_to_type(path) -> None:
    """That its commands parse is tested with those of the documents."""
    (typed,) = re.findall(r"dyvision fit .+", header(path))
    ((_, _, *words),) = expand(typed)
    assert words[words.index(name(path)) - 1] == "--config"
    assert 1 <= header(path).count("\n") + 1 <= 5


@pytest.mark.parametrize("path", DATASETS, ids=name)
def test_a_recipe_says_what_to_expect(path) -> None:
    text, task = " ".join(header(path).replace("#", " ").split()), path.parent.name
    options = content(path)
    trained = options["trainer"]
    network = {"mobilenetv2_100": "MobileNetV2 1.0", "resnet50": "ResNet-50"}[options["model"]["backbone"]]
    length = f"{trained['max_epochs']} epochs" if "max_epochs" in trained else f"{trained['max_steps'] // 1000}k steps"
    assert network in text and length in text
    layer = options["model"]["layer"]
    assert (get_layer(layer).__name__.removesuffix("Conv2d") or layer).lower() in text.lower() or layer in text
    assert "GPUs" in text and "not measured" in text
    published = text.partition("Published: ")[2]
    figure = re.search(r"\d\d\.\d+ (top-1|mIoU)|box AP \d\d\.\d", published)
    assert published.startswith("none") or (figure and not published.startswith(("nearest", "after")))
    assert not figure or re.search(r"\((ODConv|DCD|DyConv|README|its README|abstract|arXiv|ICLR)", published), (
        "whose figure?"
    )
    assert re.search(r"[\d.]+ M parameters, [\d.]+ [MG] multiply-adds at ", text) and task in SIZES


def costs(path: Path) -> tuple[float, float]:
    """Parameters and multiply-adds of the network that the header counts."""
    task, model = path.parent.name, content(path)["model"]
    if task == "classification":
        network = create_model(model["backbone"], layer=model["layer"])
    else:
        stride = default_output_stride(model["head"]) if task == "segmentation" else 32
        network = create_backbone(model["backbone"], layer=model["layer"], output_stride=stride)
    found = profile(network, (1, 3, *SIZES[task]), latency=False)
    return found.params / 1e6, found.macs


QUICK = ("imagenet.yaml", "imagenet_dcd.yaml")


@pytest.mark.parametrize(
    "path",
    [path if path.name in QUICK else pytest.param(path, marks=pytest.mark.slow) for path in DATASETS],
    ids=name,
)
def test_the_costs_of_a_header_are_counted(path) -> None:
    params, macs, unit = re.findall(r"([\d.]+) M parameters, ([\d.]+) ([MG]) multiply-adds", header(path))[0]
    height, width = SIZES[path.parent.name]
    assert re.search(rf"at (?:{height} pixels|{height}x{width})", header(path))
    found_params, found = costs(path)
    digits = len(macs.partition(".")[2])
    assert params == f"{found_params:.2f}"
    assert macs == f"{found / {'M': 1e6, 'G': 1e9}[unit]:.{digits}f}"


def test_a_recipe_of_a_base_only_names_its_layer() -> None:
    for path in DATASETS:
        own = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "_" in path.stem:
            assert own == {
                "base": f"{path.stem.partition('_')[0]}.yaml",
                "model": {"layer": path.stem.partition("_")[2]},
            }
