"""Tables of the documents beside the registries: if these failed, a table would promise what is not so."""

from __future__ import annotations

import re
import sys
from fnmatch import fnmatch

import pytest
import timm
import torch

from benchmarks.fuzz.__main__ import KINDS
from dyvision import data
from dyvision.analysis import profile
from dyvision.analysis.reproduce import read_published
from dyvision.backbones import create_model, list_backbones
from dyvision.cli.task_table import TASKS
from dyvision.convert.policies import default_policy, list_policies, select_convs
from dyvision.layers import get_layer, list_layers
from dyvision.ops.formulations import TABLE as FORMULATIONS
from dyvision.signatures import constructor_signature
from dyvision.tasks.arguments import TaskArguments
from dyvision.tasks.callbacks import TemperatureAnnealing
from dyvision.tasks.heads import list_heads
from tests.documents import ROOT, reference, tables


def rows_of(document: str, *header: str) -> list[list[str]]:
    """The rows below the only table of a document whose header begins like this."""
    found = [table[1:] for table in tables(ROOT / document) if table[0][: len(header)] == list(header)]
    assert len(found) == 1, f"{document}: {len(found)} tables with the header {header}"
    return found[0]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


METHODS = {name: row[1:] for row in rows_of("README.md", "layer") for name in names(row[0])}
LAYERS = {names(row[0])[0]: row[1:] for row in rows_of("docs/layers.md", "name")}
DYNAMIC = [name for name in list_layers() if name != "static"]


def defaults(layer: str) -> dict[str, object]:
    return {name: one.default for name, one in constructor_signature(get_layer(layer)).parameters.items()}


def test_layers_of_both_tables_are_those_of_the_registry() -> None:
    assert sorted(METHODS) == DYNAMIC
    assert sorted(LAYERS) == list_layers()


@pytest.mark.parametrize("layer", DYNAMIC)
def test_numbers_of_the_methods_are_defaults(layer) -> None:
    text = METHODS[layer][0]
    stated = [int(number) for number in re.findall(r"\b(\d+) (?:generated )?kernels", text)]
    stated += [2] * ("two dilations" in text)
    arguments = defaults(layer)
    actual = next((arguments[name] for name in ("num_kernels", "regions", "branches") if name in arguments), None)
    assert stated == ([actual] if isinstance(actual, int) else []), text


def convolutions(network: str) -> tuple[dict[str, set[str]], set[str]]:
    """The convolutions of two of timm's networks by what the table calls them, and those of the last blocks."""
    modules = timm.create_model(network).named_modules()
    sizes = {name: conv for name, conv in modules if isinstance(conv, torch.nn.Conv2d)}
    stem = {"conv_stem", "conv1"} & set(sizes)
    shortcuts = {name for name in sizes if "downsample" in name}
    inside = {name for name in sizes if re.match(r"(blocks|layer\d)\.", name)} - shortcuts
    blocks = list(dict.fromkeys(name.rpartition(".")[0] for name in sizes if name in inside))
    ends = {max((name for name in inside if name.startswith(f"{block}.")), key=list(sizes).index) for block in blocks}
    pointwise = {name for name in inside if sizes[name].kernel_size == (1, 1)}
    kinds = {
        "all": set(sizes),
        "all in blocks": inside,
        "all but the stem": set(sizes) - stem,
        "the last of each block": ends,
        "1x1": pointwise,
        "k x k": inside - pointwise,
    }
    last = {name for name in inside if name.rpartition(".")[0] in blocks[-6 if network.startswith("mobile") else -3 :]}
    return kinds, last


def meant(text: str, network: str) -> set[str]:
    """The convolutions that a phrase of the table names.

    Raises:
        KeyError: If the phrase says something that is not understood here.
    """
    kinds, last = convolutions(network)
    inverted = network.startswith("mobilenet")
    blocks, but_stem = kinds["all in blocks"], kinds["all but the stem"]
    # the first block does not expand: nothing to fuse
    expanded = {name for name in kinds["1x1"] if not name.startswith("blocks.0.")}
    phrases = {
        "the last blocks": last,
        "all but the stem": but_stem,
        "all in blocks": blocks,
        "the last of each block": kinds["the last of each block"],
        "k x k in blocks": kinds["k x k"],
        "1x1 of inverted residuals, all in residual blocks": expanded if inverted else blocks,
        "all in blocks; but for the stem, all of MobileNetV2": but_stem if inverted else blocks,
        "1x1 of inverted residuals, k x k in other blocks": kinds["1x1" if inverted else "k x k"],
    }
    return phrases[text]


@pytest.mark.parametrize("network", ["mobilenetv2_035", "resnet18"])
@pytest.mark.parametrize("layer", DYNAMIC)
def test_what_is_made_dynamic_by_default(layer, network) -> None:
    chosen = {site.name for site in select_convs(timm.create_model(network), default_policy(layer))}
    assert chosen == meant(METHODS[layer][1], network)


def test_shortcuts_of_which_layers_are_dynamic() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    network = timm.create_model("resnet18")
    dynamic = {
        layer
        for layer in DYNAMIC
        if any("downsample" in site.name for site in select_convs(network, default_policy(layer)))
    }
    assert dynamic == {"dyconv"} and "Shortcuts stay static but for DyConv's." in text


@pytest.mark.parametrize("layer", list_layers())
def test_the_source_of_a_layer_is_that_of_its_docstring(layer) -> None:
    papers = re.findall(r"arxiv\.org/abs/([\d.]+)", LAYERS[layer][2])
    source = sys.modules[get_layer(layer).__module__].__doc__ or ""
    assert papers or layer == "static"
    assert all(paper in source for paper in papers), papers


@pytest.mark.parametrize("layer", DYNAMIC)
def test_shapes_of_coefficients(layer) -> None:
    """Every ``[B, K]`` of the table, in order, for a layer whose sizes all differ."""
    shapes = [cell.strip("[]").split(", ") for cell in names(LAYERS[layer][1]) if cell.startswith("[")]
    module = get_layer(layer)(32, 48, 3, padding=1)
    found = module.coefficients(torch.randn(2, 32, 9, 9))
    found = [found] if isinstance(found, torch.Tensor) else list(found)
    sizes = {"B": 2, "C_in": 32, "C_out": 48}
    for symbol, path in (
        *(("K", "num_kernels"), ("g", "num_kernels"), ("heads", "heads"), ("branches", "branches")),
        *(("blocks", "blocks"), ("L", "rank"), ("pieces", "num_mixtures"), ("N", "warehouse.num_cells")),
    ):
        value = module
        for part in path.split("."):
            value = getattr(value, part, None)
        sizes[symbol] = value if isinstance(value, int) else -1
    stated = [[sizes[symbol] for symbol in shape] for shape in shapes]
    assert stated == [list(one.shape) for one in found[: len(shapes)]]


def test_schedules() -> None:
    rows = rows_of("docs/layers.md", "what", "layers")
    setters = {"temperature": "set_temperature", "share of the fixed": "set_mixing", "share of dropped": "set_progress"}
    for start, setter in setters.items():
        (row,) = [row for row in rows if row[0].startswith(start)]
        assert names(row[1]) == [layer for layer in DYNAMIC if hasattr(get_layer(layer), setter)]
        option = row[2]
        assert option == "always" or names(option)[0] in constructor_signature(TaskArguments).parameters
    annealing = TemperatureAnnealing()
    assert f"falls from {annealing.start:.0f} to {annealing.end:.0f}" in rows[0][0]
    assert len(rows) == len(setters)


def test_policies() -> None:
    rows = rows_of("docs/layers.md", "policy")
    assert sorted(name for row in rows for name in names(row[0])) == list_policies()
    assert [name for name in names(rows[-1][0]) if default_policy(name) != name] == []


def test_published_networks() -> None:
    patterns: list[str] = []
    for row in rows_of("docs/backbones.md", "names"):
        for name in names(row[0].replace("`dyvision list backbones 'kw*'`", "")):
            patterns.append(patterns[-1].rpartition("_x")[0] + name if name.startswith("_") else name)
    ours = {name for name in list_backbones() if re.match("dy_|fix_|kw|weightnet_", name)}
    assert [name for name in patterns if not any(fnmatch(one, name) for one in ours)] == []
    assert {name for name in ours if not any(fnmatch(name, one) for one in patterns)} == {
        name for name in ours if name.startswith("kw") and name not in patterns
    }


def test_tasks_and_their_data() -> None:
    assert [row[0].split()[-1] for row in rows_of("docs/index.md", "task")] == list(TASKS)
    assert [row[0] for row in rows_of("docs/command-line.md", "task", "files")] == list(TASKS)
    assert [row[0] for row in rows_of("docs/architecture.md", "task", "`image`")] == list(TASKS)
    modules = [names(row[0])[0] for row in rows_of("docs/data.md", "data module")]
    assert modules == [entry.data for entry in TASKS.values()] and all(hasattr(data, name) for name in modules)


def test_options_of_the_data() -> None:
    every = {name: one.default for entry in TASKS.values() for name, one in of(entry.data).items()}
    for row in rows_of("docs/data.md", "option"):
        for option in names(row[0]):
            name, _, _ = option.partition(":")
            assert name.removeprefix("data.") in every, option
        if stated := re.search(r"\(default `?([^:)`]+)", row[1]):
            default = every[names(row[0])[0].partition(":")[0].removeprefix("data.")]
            assert stated[1].replace(",", "") == str(default)


def of(module: str) -> dict:
    return dict(constructor_signature(getattr(data, module)).parameters)


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_option_of_the_head_names_every_head(task) -> None:
    text = reference().options_of(reference().task_parser("fit", task))["model.head"].help
    assert [name for name in list_heads(task) if name.islower() and f'"{name}"' not in text] == []


def test_networks_and_formulations_of_the_measurements() -> None:
    for columns in (("batch 1", "batch 1, off"), ("batch 1", "batch 8")):
        for row in rows_of("docs/performance.md", "network", "layer", "over", *columns):
            for name in names(row[0]):
                assert name in list_backbones()
            if (stated := re.fullmatch(r"(\w+) K=(\d+)", row[1])) and stated[1] != "timm":
                assert defaults(stated[1].lower())["num_kernels"] == int(stated[2])
    for row in rows_of("docs/performance.md", "chosen for", "kind"):
        assert names(row[4])[0] in FORMULATIONS


def test_rows_of_the_publications() -> None:
    rows = rows_of("docs/published.md", "table")
    counted = {names(row[0])[0]: int(row[1]) for row in rows if names(row[0])}
    assert counted == {name: len(read_published(name)) for name in counted}
    assert set(counted) == {row.table for row in read_published()}
    assert int(rows[-1][1]) == len(read_published()) and int(rows[-1][2]) + int(rows[-1][3]) == len(read_published())


@pytest.mark.slow
def test_costs_of_dynet() -> None:
    """The four networks of the text, and two more, in the unit of each row."""
    for network, *numbers, unit, _ in rows_of("docs/published.md", "network"):
        cost = profile(create_model(network.lower().replace("dy-", "dy_").replace("-", "_")), latency=False).cost
        parts = (cost.total - cost.branch - cost.mixing, cost.branch, cost.mixing, cost.total)
        size = {"10^6": 10**6, "2^20": 2**20}[unit]
        assert numbers == [
            f"{part / size:.{len(stated.partition('.')[2])}f}" for part, stated in zip(parts, numbers, strict=True)
        ]


def test_kinds_of_made_up_input() -> None:
    assert {names(row[0])[0] for row in rows_of("docs/security.md", "kind")} == set(KINDS)


def test_multiply_adds_of_the_quickstart() -> None:
    from dyvision.analysis import count_macs
    from dyvision.backbones import create_backbone

    for row in rows_of("README.md", "task", "metric"):
        side = {"classification": 64, "segmentation": 128, "detection": 128}[row[0]]
        name = "mobilenetv4_conv_small_relu6"
        sizes = [count_macs(create_backbone(name, layer=layer), (1, 3, side, side)) for layer in ("static", "dcd")]
        assert row[4] == " / ".join(f"{size / 1e6:.1f} M" for size in sizes)
