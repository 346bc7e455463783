"""``dyvision config``: what is shown is what a run would use, and every error is reported at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dyvision.cli import main
from dyvision.cli._merged import merge
from dyvision.cli.configs import load_layers, packaged_configs
from dyvision.cli.task_parser import task_parser
from dyvision.cli.typed import TypedOptions

THREE_ERRORS = """
base: segmentation/cityscapes.yaml
model: {lr: fast, bakbone: resnet18}
data: {batch_size: 0}
"""


@pytest.fixture(scope="module")
def segmentation() -> Any:
    return task_parser("fit", "segmentation")


def shown(capsys: Any, *arguments: str) -> dict[str, Any]:
    assert main(["config", *arguments]) == 0, capsys.readouterr().err
    content: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return content


def test_bases_and_what_is_typed_are_merged(capsys) -> None:
    given = ["segmentation/cityscapes_dcd.yaml", "layers/odconv.yaml", "--model.lr", "0.5", "--trainer.max_steps=3"]
    content = shown(capsys, "show", *given)
    assert content["model"]["layer"] == "odconv" and content["model"]["lr"] == 0.5
    assert content["model"]["head"] == "deeplabv3" and content["trainer"]["max_steps"] == 3
    assert "base" not in content and "optimizer" in content["model"]
    assert shown(capsys, *given) == content
    assert shown(capsys, given[0], "--config", given[1], "-c=" + given[1], *given[2:]) == content


@pytest.mark.parametrize(
    ("configs", "typed"),
    [
        (["{optimizer: {name: sgd, momentum: 0.9}}", "{optimizer: {name: adamw}}"], []),
        (["{optimizer: {name: sgd, momentum: 0.9}}"], ["--model.optimizer.momentum=0.5"]),
        (["{optimizer: sgd}"], ["--model.optimizer.momentum=0.5", "--model.class_names=[a, b]"]),
        (["{head: {name: fcn, channels: 3}}"], ["--model.head=lraspp", "--model.pretrained", "true"]),
    ],
)
def test_what_is_merged_is_what_is_parsed(segmentation, configs, typed) -> None:
    layers = [(None, {"model": yaml.safe_load(config)}) for config in configs]
    merged = merge(layers, TypedOptions.read(typed))  # type: ignore[arg-type]
    stacked = [f"--config={yaml.safe_dump(content)}" for _, content in layers]
    root = ["--data.root=x"]
    expected = segmentation.parse_args([*root, *stacked, *TypedOptions.read(typed).arguments()])
    assert segmentation.parse_args([*root, f"--config={yaml.safe_dump(merged)}"]).model == expected.model


@pytest.mark.parametrize(
    "typed",
    [
        ["--trainer.callbacks+=LearningRateMonitor"],
        ["--trainer.callbacks=LearningRateMonitor", "--trainer.callbacks.logging_interval=step"],
        ["--trainer.callbacks.patience=7"],
    ],
)
def test_lists_of_objects_are_merged_as_they_are_parsed(segmentation, typed) -> None:
    content = {"trainer": {"callbacks": [{"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss"}}]}}
    merged = merge([(None, content)], TypedOptions.read(typed))  # type: ignore[list-item]
    expected = segmentation.parse_args(["--data.root=x", f"--config={yaml.safe_dump(content)}", *typed])
    found = segmentation.parse_args(["--data.root=x", f"--config={yaml.safe_dump(merged)}"])
    as_list = [
        given if isinstance(given, list) else [given] for given in (found.trainer.callbacks, expected.trainer.callbacks)
    ]
    assert as_list[0] == as_list[1]


def test_with_defaults_every_option_is_there(capsys, segmentation) -> None:
    content = shown(capsys, "show", "segmentation/quickstart.yaml", "--defaults", "--model.lr=0.25")
    assert set(content["model"]) == set(segmentation.get_defaults()["model"].as_dict())
    assert content["model"]["lr"] == 0.25 and content["model"]["drop_path_rate"] == 0.0


def test_every_packaged_config_is_fine(capsys) -> None:
    assert main(["config", "check", *packaged_configs()]) == 0
    assert capsys.readouterr().out.count(": fine") == len(packaged_configs())


def test_three_errors_are_three_lines(tmp_path, capsys) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(THREE_ERRORS)
    with pytest.raises(SystemExit) as end:
        main(["config", "check", str(path)])
    assert end.value.code == 2
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"{path}: 3 errors"
    assert len(lines) == 3
    assert all(line.startswith("  mine.yaml: ") for line in lines)
    for words in (
        ("bakbone", "model.backbone"),
        ("model.lr='fast'", "a number"),
        ("data.batch_size=0", "at least 1|1,"),
    ):
        assert any(words[0] in line and any(word in line for word in words[1].split("|")) for line in lines), lines


def test_a_run_reports_the_same_three(tmp_path, capsys) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(THREE_ERRORS)
    assert main(["fit", f"--config={path}", f"--trainer.default_root_dir={tmp_path / 'runs'}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith("dyvision: error: mine.yaml: ") for line in lines), lines


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("base: nowhere.yaml\n", "base: no config 'nowhere.yaml'"),
        ("task: segmentaton\n", "did you mean 'segmentation'"),
        ("task: detection\nmodel: {head: {type: retinanet}}\n", "'type' is for the heads of mmsegmentation"),
        ("task: detection\nmodel: {head: {name: fcos, num_conv: 2}}\n", "num_convs"),
        ("task: classification\nmodel: {backbone: resnet81}\n", "resnet18"),
        ("model: {layer: odconv, layer_kwargs: {num_kernel: 2}}\n", "model.layer_kwargs: ODConv2d has no argument"),
        ("model: {layer: odconv, layer_kwargs: {bank: tucker, rank: 2.0}}\n", "ODConv2d: rank must be a share"),
        ("model: {num_classes: 3, class_names: [a, b]}\n", "class_names"),
        ("model: [1, 2]\n", "expected a mapping"),
        ("model: {lr: [}\n", "not valid YAML"),
        ("task: segmentation\ndata: {crop_size: 12}\n", "data.crop_size=12: expected a list of 2 integers"),
        ("task: detection\nmodel: {mixup_alpha: 0.2}\n", "there is one in classification"),
    ],
)
def test_one_error_is_one_line(content, words, tmp_path, capsys) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(SystemExit) as end:
        main(["config", "check", str(path)])
    lines = capsys.readouterr().out.splitlines()
    assert end.value.code == 2 and len(lines) == 2 and words in lines[1], lines


def test_every_section_is_checked_and_what_is_right_is_fine(tmp_path, capsys) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "task: classification\nmodel: {lr: 0}\ndata: {root: x, val_fraction: 2}\ntrainer: {logger: csv, devices: 0}\n"
        "checkpoint: {save_top_k: -3}\nlast: {every_minutes: 0}\nprediction: {top_k: 0}\nseed_everything: 3\n"
    )
    with pytest.raises(SystemExit):
        main(["config", "check", str(path)])
    lines = capsys.readouterr().out.splitlines()[1:]
    wrong = ("data.val_fraction", "trainer.devices", "checkpoint.save_top_k", "last.every_minutes", "prediction.top_k")
    assert len(lines) == 5 and all(any(f"mine.yaml: {name}=" in line for line in lines) for name in wrong), lines


def test_a_misspelt_action_is_told(capsys) -> None:
    assert main(["config", "chek"]) == 2
    assert "did you mean 'check'" in capsys.readouterr().err


def test_a_layer_and_the_arguments_of_another_are_one_error(tmp_path, capsys) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("model: {layer: dyconv, layer_kwargs: {min_width: 8}, lr: 0.1, weight_decay: 0.1}\n")
    with pytest.raises(SystemExit):
        main(["config", "check", str(path)])
    assert "mine.yaml: 1 error" in capsys.readouterr().out


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_found(seed, tmp_path, capsys) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"task: classification\nseed_everything: {seed}\n")
    with pytest.raises(SystemExit):
        main(["config", "check", str(path)])
    assert f"mine.yaml: seed_everything={seed}: expected an integer in [0, 4_294_967_295]" in capsys.readouterr().out


def test_a_section_without_options_is_none(tmp_path, capsys) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: classification/quickstart.yaml\nmodel:\n  # lr: 3\ntrainer:\n")
    assert main(["config", "check", str(path)]) == 0
    assert shown(capsys, str(path))["model"]["backbone"]


def test_one_wrong_value_is_named_by_where_it_stands(tmp_path, capsys) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: classification/quickstart.yaml\nmodel: {weight_decay: -1}\n")
    for given, where in (([], "mine.yaml: model.weight_decay=-1"), (["--data.batch_size=0"], "--data.batch_size=0")):
        assert main(["fit", f"--config={path}", *given, f"--trainer.default_root_dir={tmp_path}"]) == 2
        assert f"dyvision: error: {where}" in capsys.readouterr().err


def test_an_empty_section_takes_what_is_typed() -> None:
    assert merge([(Path("a.yaml"), {"model": None})], TypedOptions.read(["--model.lr=1"])) == {"model": {"lr": 1}}


def test_arguments_of_a_class_that_was_given_none() -> None:
    head = {"class_path": "own.Head"}
    merged = merge([(Path("a.yaml"), {"model": {"head": head}})], TypedOptions.read(["--model.head.channels=3"]))
    assert merged["model"]["head"] == {**head, "init_args": {"channels": 3}}
    assert "init_args" not in head


@pytest.mark.parametrize("command", [["config", "show", "classification/quickstart"], ["fit", "--task=classification"]])
def test_an_option_below_one_that_has_none(command, capsys) -> None:
    assert main([*command, "--task.x=1"]) == 2
    said = capsys.readouterr().err
    assert "--task.x" in said and "no options below it" in said and "DYVISION_DEBUG" not in said


def test_what_bases_say_stays_in_them(tmp_path, capsys) -> None:
    """If this fails, merging changed what a packaged config says for the next one that builds on it."""
    before = [content for _, content in load_layers("segmentation/cityscapes.yaml")]
    merge(load_layers("segmentation/cityscapes.yaml"), TypedOptions.read(["--model.optimizer.momentum=0"]))
    assert [content for _, content in load_layers("segmentation/cityscapes.yaml")] == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"], ["--version"], ["list", "layers"], ["list", "heads"], ["list", "policies"], ["list", "configs"],
        ["config", "segmentation/cityscapes_dcd.yaml"], ["config", "cat", "layers/dcd.yaml"], ["config", "--help"],
        ["fit", "--help"], ["validate", "--help"], ["test", "-h"], ["predict", "--help"],
    ],
)  # fmt: skip
def test_needs_no_torch(arguments) -> None:
    code = (
        "import sys\nfrom dyvision.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_a_key_that_is_given_twice_is_refused(tmp_path, capsys) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: segmentation/quickstart.yaml\nmodel: {layer: odconv}\ndata: {}\nmodel: {head: fcn}\n")
    assert main(["config", "show", str(path)]) == 2
    said = capsys.readouterr().err
    assert "'model' stands in line 2 and again in line 4" in said


def test_dotted_keys_are_options(tmp_path, capsys) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: segmentation/quickstart.yaml\nmodel.layer: odconv\nmodel.lr: 0.5\n")
    content = shown(capsys, str(path))
    assert (content["model"]["layer"], content["model"]["lr"]) == ("odconv", 0.5)
    assert "model.layer" not in content
    complete = shown(capsys, str(path), "--defaults")
    assert (complete["model"]["layer"], complete["model"]["lr"]) == ("odconv", 0.5)


@pytest.mark.parametrize(
    ("key", "right"), [("modle", "'model'"), ("_base_", "'base'"), ("data_dir", "'data.root'"), ("MODEL", "'model'")]
)
def test_a_section_or_a_word_of_another_tool_is_recognised(key, right, tmp_path, capsys) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"task: segmentation\n{key}: x\n")
    with pytest.raises(SystemExit):
        main(["config", "check", str(path)])
    assert f"{key!r} is no option (did you mean {right}" in capsys.readouterr().out


def test_wrong_values_are_told_before_sample_data_is_drawn(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config=segmentation/quickstart.yaml", "--model.lr=-1"]) == 2
    assert "--model.lr=-1" in capsys.readouterr().err and not list(tmp_path.iterdir())
