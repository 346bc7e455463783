"""Every packaged config parses and builds its task and its data."""

from __future__ import annotations

import pytest

from dyvision.cli.configs import closest, find_config, load_layers, packaged_configs, unknown_keys
from dyvision.cli.trainer import TaskCLI, read_request
from dyvision.layers import list_layers

RECIPES = [name for name in packaged_configs() if not name.startswith("layers/")]
LAYERS = [name for name in packaged_configs() if name.startswith("layers/")]


DATASETS = {"classification": "imagenet", "segmentation": "cityscapes", "detection": "coco"}
# published names, which stay; layers that come later need their layers/NAME.yaml only
WITH_RECIPES = """
condconv dcd dgc drconv dyconv dynet eca fdconv kernelwarehouse odconv se sk weightnet
""".split()


def test_there_are_configs_for_every_task_and_layer() -> None:
    expected = {f"{task}/{name}.yaml" for task, dataset in DATASETS.items() for name in ("quickstart", dataset)}
    expected |= {f"{task}/{dataset}_{layer}.yaml" for task, dataset in DATASETS.items() for layer in WITH_RECIPES}
    assert set(RECIPES) >= expected
    assert [name.removeprefix("layers/").removesuffix(".yaml") for name in LAYERS] == list_layers()


@pytest.mark.parametrize("name", [name for name in RECIPES if "_" in name])
def test_a_recipe_is_its_base_and_a_layer(name) -> None:
    base, layer = name.removesuffix(".yaml").rsplit("_", 1)
    stacked = [content for part in (f"{base}.yaml", f"layers/{layer}.yaml") for _, content in load_layers(part)]
    assert [content for _, content in load_layers(name)] == stacked


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_builds(name, tmp_path) -> None:
    typed = ["--model.pretrained=false", "--model.num_classes=5", f"--trainer.default_root_dir={tmp_path}"]
    arguments = [
        f"--config={name}",
        *typed,
        "--sample_data=null",
        "--trainer.precision=32-true",
        "--trainer.accelerator=cpu",
    ]
    run = TaskCLI("fit", read_request(arguments))
    assert sum(parameter.numel() for parameter in run.model.parameters()) > 1e5
    if "_" in name:
        assert run.model.hparams.layer == name.removesuffix(".yaml").rsplit("_", 1)[1]


@pytest.mark.parametrize("task", DATASETS)
@pytest.mark.parametrize("name", LAYERS)
def test_layer_config_stacks(name, task, tmp_path) -> None:
    typed = ["--model.backbone=mobilenetv2_035", "--model.num_classes=5", f"--trainer.default_root_dir={tmp_path}"]
    recipe = [f"--config={task}/quickstart.yaml", "--sample_data=null", f"--config={name}", *typed]
    run = TaskCLI("fit", read_request(recipe))
    assert run.model.hparams.layer == name.removeprefix("layers/").removesuffix(".yaml")


def test_unknown_keys_are_found_with_their_nearest() -> None:
    known = ["model.backbone", "model.head", "trainer.max_steps", "data.root"]
    content = {"model": {"bakbone": 1, "head": {"anything": 2}}, "trainer": {"max_step": 3}, "dat": {"root": 4}}
    assert unknown_keys(content, known) == ["model.bakbone", "trainer.max_step", "dat"]
    assert "model.backbone" in closest("model.bakbone", known)


def test_all_unknown_options_in_one_error(tmp_path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("task: segmentation\nmodel: {bakbone: resnet18}\n")
    with pytest.raises(ValueError, match=r"bakbone.*model\.backbone.*--trainer\.max_step.*trainer\.max_steps"):
        TaskCLI("fit", read_request([f"--config={path}", "--trainer.max_step=3"]))


def test_missing_config_names_the_nearest() -> None:
    with pytest.raises(FileNotFoundError, match=r"segmentation/quickstart\.yaml"):
        find_config("segmentation/quikstart.yaml")


def test_bases_in_a_circle(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(ValueError, match="leads back"):
        load_layers(tmp_path / "a.yaml")


@pytest.mark.parametrize("base", ["below/../a.yaml", "link.yaml"])
def test_a_base_that_is_the_file_by_another_name(base, tmp_path) -> None:
    """If this fails, the paths grow with each round until the system refuses them."""
    (tmp_path / "below").mkdir()
    (tmp_path / "link.yaml").symlink_to("a.yaml")
    (tmp_path / "a.yaml").write_text(f"base: {base}\n")
    with pytest.raises(ValueError, match="leads back"):
        load_layers(tmp_path / "a.yaml")
