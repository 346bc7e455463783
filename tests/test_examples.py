"""The packages under docs/examples: as a reader installs them, imports them, and trains with what they register."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dyvision.cli import main
from tests.documents import ROOT
from tests.plugin_sandbox import plugin_sandbox

FOLDERS = sorted(path.parent for path in (ROOT / "docs" / "examples").glob("*/pyproject.toml"))
#: package -> kind of names, names
NAMES = {
    "own-backbone": ("backbones", ["four_stages"]),
    "own-data": ("formats", ["table"]),
    "own-head": ("heads", ["segmentation/sum_of_levels", "detection/small_fcos"]),
    "own-layer": ("layers", ["two_kernels"]),
}
ALL = [f"--import={path}" for folder in FOLDERS for path in folder.glob("*.py")]
SHORT = [
    *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--data.num_workers=0", "--trainer.limit_val_batches=1", "--data.batch_size=2", "--data.eval_batch_size=2"),
]


def run(*arguments: str) -> None:
    """As a process of its own: what is registered is forgotten afterwards."""
    with plugin_sandbox():
        assert main(arguments) == 0


def install(package: Path, target: Path) -> None:
    """What ``pip install --no-deps --target`` leaves, from the same ``pyproject.toml``, without a network."""
    text = (package / "pyproject.toml").read_text(encoding="utf-8")  # Python 3.10 has no reader of TOML
    name, version = (re.findall(rf'^{key} = "(.+)"$', text, re.MULTILINE)[0] for key in ("name", "version"))
    (points,) = re.findall(r'^\[project\.entry-points\."dyvision\.plugins"\]\n((?:.+\n)+)', text, re.MULTILINE)
    for module in re.findall(r'"(\w+)"', re.findall(r"^py-modules = (.+)$", text, re.MULTILINE)[0]):
        (target / f"{module}.py").write_bytes((package / f"{module}.py").read_bytes())
    info = target / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[dyvision.plugins]\n{points}".replace('"', ""))


def test_every_example_is_here() -> None:
    assert [folder.name for folder in FOLDERS] == list(NAMES)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_page_shows_the_whole_module(folder) -> None:
    (module,) = folder.glob("*.py")
    page = (ROOT / "docs" / "how-to" / f"{folder.name}.md").read_text(encoding="utf-8")
    assert f"```python\n{module.read_text(encoding='utf-8').rstrip()}\n```" in page
    assert (folder / "README.md").is_file()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_an_installed_package_is_listed_with_its_name(folder, tmp_path) -> None:
    install(folder, tmp_path)
    kind, names = NAMES[folder.name]
    # the package itself and what its finder adds have to be found by the other process, too
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "dyvision", "list", kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if "(from " in line] == sorted(
        (f"{name}  (from {folder.name} 0.1.0)" for name in names), key=lambda line: names.index(line.split()[0])
    )


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_a_file_is_listed_by_import(folder, capsys) -> None:
    kind, names = NAMES[folder.name]
    (module,) = folder.glob("*.py")
    run("list", kind, "--import", str(module))
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if "(from " in line] == names


def test_a_run_with_everything_of_ones_own_is_opened_again(sample_data, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    own = ["--model.layer=two_kernels", "--model.backbone=four_stages", "--model.head=sum_of_levels"]
    root = f"--data.root={sample_data / 'cityscapes'}"
    common = ["--config=segmentation/quickstart.yaml", "--sample_data=null", root, "--data.crop_size=[64,64]", *SHORT]
    run("fit", *common, *own, *ALL, "--data.train_transform=[{Stripes: {p: 1}}]", "--trainer.max_steps=2")
    out = capsys.readouterr().out
    assert "next: dyvision validate --ckpt_path " in out and "own_layer.py" in out
    last = "runs/segmentation/version_0/checkpoints/last.ckpt"
    stored = torch.load(last, weights_only=True)["plugins"]
    assert {(one["kind"], one["name"]) for one in stored} == {
        *(("layer", "two_kernels"), ("backbone", "four_stages")),
        *(("segmentation head", "sum_of_levels"), ("transform", "Stripes")),
    }
    run("validate", f"--ckpt_path={last}", *ALL, *SHORT)
    (tmp_path / "photos").mkdir()
    picture = next((sample_data / "cityscapes" / "leftImg8bit" / "val").rglob("*.*g"))
    (tmp_path / "photos" / f"a{picture.suffix}").write_bytes(picture.read_bytes())
    run("predict", f"--ckpt_path={last}", *ALL, *SHORT, "--data.predict_root=photos", "--output=out")
    run("fit", f"--ckpt_path={last}", *ALL, *SHORT, "--trainer.max_steps=3")
    assert torch.load(last, weights_only=True)["global_step"] == 3
    # the config of the run imports what the run imported
    run("validate", "--config=runs/segmentation/version_0/config.yaml", f"--ckpt_path={last}")
    capsys.readouterr()
    for command in ("validate", "predict", "fit"):
        with plugin_sandbox():
            assert main([command, f"--ckpt_path={last}", *SHORT]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "a checkpoint imports no code: " in said and "the layer 'two_kernels'" in said
    with plugin_sandbox():  # another layer given by the user is another network, but no missing name
        assert main(["validate", f"--ckpt_path={last}", "--model.layer=dcd", *ALL, *SHORT]) == 2
        assert "imports no code" not in capsys.readouterr().err


def test_a_detection_head_of_ones_own_trains_and_loads(sample_data, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--config=detection/quickstart.yaml", "--sample_data=null", f"--data.root={sample_data / 'coco'}"]
    own = ["--model.backbone=mobilenetv2_035", "--model.layer=static", "--model.head=small_fcos"]
    run("fit", *arguments, *own, *ALL, *SHORT, "--trainer.max_steps=1")
    run("validate", "--ckpt_path=last", *ALL, *SHORT)


def test_a_data_format_is_kept_by_the_checkpoint(sample_data, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        files = sorted((sample_data / "imagenet" / split).rglob("*.*g"))
        lines = [f"{path};{path.parent.name}" for path in files]
        (tmp_path / f"{split}.csv").write_text("\n".join(lines))
    fit = ["fit", "--task=classification", "--data_format=table", "--data.root=.", "--data.delimiter=;"]
    small = ["--data.image_size=32", "--model.backbone=four_stages", "--trainer.max_steps=2", "--trainer.max_epochs=1"]
    run(*fit, *small, *ALL, *SHORT)
    run("validate", "--ckpt_path=last", *ALL, *SHORT)
    capsys.readouterr()
    with plugin_sandbox():
        assert main(["validate", "--ckpt_path=last", *SHORT]) == 2
    assert "names the data format 'table', which nothing here registers" in capsys.readouterr().err
    with plugin_sandbox():
        assert main(["validate", "--ckpt_path=last", "--data_format=tabel", *ALL, *SHORT]) == 2
    assert "unknown data format 'tabel' (did you mean 'table'?)" in capsys.readouterr().err
