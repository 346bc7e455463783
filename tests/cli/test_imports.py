"""``--import`` and ``import:``: every command takes them, help and checks of configs know what they register."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from dyvision.cli import main
from dyvision.cli.parser import build_parser
from dyvision.cli.words import commands_of
from tests.onnx_files import metadata, write_network
from tests.plugin_sandbox import plugin_sandbox

LAYER = """
from dyvision.layers import get_layer, register_layer
from dyvision.data import CityscapesDataModule, register_data_format

@register_layer("spiral")
class Spiral(get_layer("se")):
    pass

@register_data_format("spirals")
class Spirals(CityscapesDataModule):
    def __init__(self, *args, turns: int = 3, **kwargs):
        super().__init__(*args, **kwargs)
"""


@pytest.fixture(autouse=True)
def forgotten():
    with plugin_sandbox():
        yield


@pytest.fixture
def module(place) -> Path:
    path = place / "spirals_own.py"
    path.write_text(LAYER, encoding="utf-8")
    return path


def test_every_command_has_the_option() -> None:
    commands = commands_of(build_parser())
    for name, command in commands.items():
        for one in commands_of(command).values() or [command]:
            if name not in ("fit", "validate", "test", "predict"):
                assert "--import" in one.format_help(), name


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_help_of_the_trainer_has_the_option(command, capsys) -> None:
    assert main([command, "--help"]) == 0
    assert "--import MODULE_OR_FILE" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ("list", "layers"),
        ("dynamize", "mobilenetv2_035", "--layer=spiral", "--dry-run", "--input-size=32"),
        ("profile", "mobilenetv2_035", "--layer=spiral", "--input-size=32", "--no-latency"),
        ("config", "check", "own.yaml"),
    ],
)
@pytest.mark.parametrize("typed", ["spirals_own", "spirals_own.py"])
def test_commands_know_the_name(arguments, typed, module, capsys) -> None:
    Path("own.yaml").write_text("task: segmentation\nmodel: {layer: spiral}\ndata: {root: x}\n")
    assert main([*arguments, "--import", typed]) == 0
    if arguments[0] == "list":
        assert f"spiral  (from --import {typed})" in capsys.readouterr().out.splitlines()


def test_without_it_the_name_is_told_with_the_way_out(module, capsys) -> None:
    assert main(["dynamize", "mobilenetv2_035", "--layer=spiral", "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert (
        said.startswith("dyvision: error: unknown layer 'spiral' (--import names the module") and said.count("\n") == 1
    )


def test_a_config_imports_and_its_base_too(place, module, capsys) -> None:
    (place / "below").mkdir()
    (place / "below" / "base.yaml").write_text("import: [../spirals_own.py]\nmodel: {layer: spiral}\n")
    (place / "own.yaml").write_text(
        "base: below/base.yaml\ntask: segmentation\ndata_format: spirals\ndata: {turns: 4}\n"
    )
    assert main(["config", "check", "own.yaml"]) == 0
    assert main(["config", "show", "own.yaml", "--import", "other", "--import", "more"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out.partition("fine\n")[2])
    assert shown["import"] == ["../spirals_own.py", "other", "more"]
    assert main(["config", "show", "own.yaml", "--defaults", "--data.root=x"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]["turns"] == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import: no_such_own.py", "own.yaml: import: no_such_own.py: no such file"),
        ("import: 3", "own.yaml: import=3: expected a module"),
        ("import: [3]", "own.yaml: import=[3]: expected a module"),
        ("import: [spirals_own.py]\nmodel: {layer: spirl}", "unknown layer 'spirl' (did you mean 'spiral'?)"),
        ("import: spirals_own.py\ndata_format: spirls", "unknown data format 'spirls' (did you mean 'spirals'?)"),
        ("import: spirals_own.py\ndata_format: spirals\ndata: {turs: 3}", "did you mean 'data.turns'"),
        ("import: spirals_own.py\ndata_format: spirals\ndata: {turns: many}", "data.turns='many': expected an integer"),
    ],
)
def test_errors_of_configs_are_found_by_a_check_and_by_a_run(text, said, module, capsys) -> None:
    Path("own.yaml").write_text(f"task: segmentation\n{text}\n")
    with pytest.raises(SystemExit, match="2"):
        main(["config", "check", "own.yaml"])
    assert said in capsys.readouterr().out
    assert main(["fit", "--config=own.yaml", "--data.root=x"]) == 2
    assert said in capsys.readouterr().err


def test_options_of_a_format_are_in_the_help(module, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--help", "--task=segmentation", "--data_format=spirals", "--import=spirals_own"])
    assert "--data.turns TURNS" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["fit", "validate", "list"])
def test_an_import_without_a_value_is_told(command, capsys) -> None:
    assert main([command, *(["layers"] if command == "list" else ["--task=detection"]), "--import"]) == 2
    assert "--import" in capsys.readouterr().err


RECORD = [{"kind": "layer", "name": "spiral", "module": "spirals_own", "import": "spirals_own.py"}]


@pytest.mark.parametrize(
    "arguments",
    [
        ("validate", "--ckpt_path=own.ckpt"),
        ("predict", "--ckpt_path=own.ckpt", "--data.predict_root=."),
        ("fit", "--ckpt_path=own.ckpt"),
        ("export", "own.ckpt"),
        ("collapse", "own.ckpt", "--output=static.ckpt"),
        ("profile", "own.ckpt"),
        ("compare", "own.ckpt"),
        ("predict", "--model=own.onnx", "--data.predict_root=."),
        ("validate", "--model=own.onnx"),
    ],
    ids=" ".join,
)
def test_a_file_of_a_run_names_the_module_that_it_needs(arguments, trained, place, capsys) -> None:
    content = torch.load(trained("classification", "static"), weights_only=True)
    content["hyper_parameters"]["layer"] = "spiral"
    content["plugins"] = RECORD
    torch.save(content, place / "own.ckpt")
    if "own.onnx" in arguments[1]:
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
        write_network(
            place / "own.onnx", metadata("classification", model={"layer": "spiral"}, plugins=json.dumps(RECORD))
        )
    capsys.readouterr()
    assert main([*arguments]) == 2
    said = capsys.readouterr().err
    assert "names the layer 'spiral', which nothing here registers" in said and "--import spirals_own.py" in said
    assert said.strip().count("\n") == 0
