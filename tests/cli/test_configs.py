"""Every packaged config parses and builds its task and its data."""

from __future__ import annotations

import pytest

from dyvision.cli.configs import closest, find_config, load_layers, packaged_configs, unknown_keys
from dyvision.cli.trainer import TaskCLI, read_request

RECIPES = [name for name in packaged_configs() if not name.startswith("layers/")]
LAYERS = [name for name in packaged_configs() if name.startswith("layers/")]


def test_there_are_configs_for_every_task_and_layer() -> None:
    from dyvision.layers import list_layers

    datasets = {"classification": "imagenet", "segmentation": "cityscapes", "detection": "coco"}
    expected = {f"{task}/quickstart.yaml" for task in datasets}
    for task, dataset in datasets.items():
        names = [dataset, *(f"{dataset}_{layer}" for layer in list_layers() if layer != "static")]
        expected |= {f"{task}/{name}.yaml" for name in names}
    assert set(RECIPES) == expected
    assert [name.removeprefix("layers/").removesuffix(".yaml") for name in LAYERS] == list_layers()


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


@pytest.mark.parametrize("name", LAYERS)
def test_layer_config_stacks(name, tmp_path) -> None:
    typed = ["--model.backbone=mobilenetv2_035", "--model.num_classes=5", f"--trainer.default_root_dir={tmp_path}"]
    recipe = ["--config=classification/quickstart.yaml", "--sample_data=null", f"--config={name}", *typed]
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
