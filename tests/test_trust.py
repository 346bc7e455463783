"""If these failed, opening a stranger's checkpoint would run the stranger's program."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.fuzz.checkpoints import TASKS, made
from dyvision.checkpoint_file import check_finite
from dyvision.cli import main
from dyvision.data import CityscapesDataModule
from dyvision.tasks import ClassificationTask, SegmentationTask
from dyvision.tasks.components import import_object
from dyvision.trust import code_in, hyperparameters_of, is_known, name_unknown

#: written below, imported by nobody: importing it leaves a trace, so does calling anything in it
MODULE = "module_of_a_stranger"


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A module on the path that leaves ``marker`` behind when it is imported; the path of that file."""
    marker = tmp_path / "marker"
    text = f"import pathlib, torch\npathlib.Path({str(marker)!r}).touch()\nclass Head(torch.nn.Module):\n    pass\n"
    (tmp_path / f"{MODULE}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield marker
    sys.modules.pop(MODULE, None)


@pytest.fixture(scope="session")
def plain_checkpoints() -> dict[str, dict[str, Any]]:
    """What a checkpoint of each task holds."""
    return made()


def popen(marker: Path) -> dict[str, Any]:
    return {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(marker)]}}


def foreign(marker: Path) -> dict[str, Any]:
    return {"class_path": f"{MODULE}.Head"}


#: (task, hyperparameter, value): every argument of a task that may name code
DOORS = [
    *(("segmentation", name, spec) for name in ("head", "aux_head", "loss") for spec in (popen, foreign)),
    *(("detection", "head", spec) for spec in (popen, foreign)),
    *((task, name, spec) for task in TASKS for name in ("optimizer", "lr_schedule") for spec in (popen, foreign)),
    ("segmentation", "head", lambda marker: {"name": "fcn", "channels": popen(marker)}),
    ("segmentation", "backbone_kwargs", lambda marker: {"model_kwargs": {"block": foreign(marker)}}),
    ("segmentation", "layer_kwargs", foreign),
    ("classification", "anneal_temperature", foreign),
]


@pytest.mark.parametrize(("task", "name", "spec"), DOORS)
def test_no_door_of_a_checkpoint_runs_code(task, name, spec, stranger, plain_checkpoints, tmp_path, capsys):
    content = plain_checkpoints[task]
    value = spec(stranger)
    torch.save({**content, "hyper_parameters": {**content["hyper_parameters"], name: value}}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"allow it by trust=\["):
        TASKS[task].load_from_checkpoint(tmp_path / "a.ckpt")
    assert main(["validate", f"--ckpt_path={tmp_path / 'a.ckpt'}", "--data.root=x"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    code = next(iter(code_in(name, value)))
    assert f"model.{name} names {code!r}" in error and f"--trust {code}" in error
    assert not stranger.exists() and MODULE not in sys.modules


TRANSFORMS = [
    f"{MODULE}.Head",
    {f"{MODULE}.Head": {"p": 1.0}},
    {"name": f"{MODULE}.Head"},
    {"class_path": f"{MODULE}.Head", "init_args": {}},
    {"OneOf": {"transforms": [f"{MODULE}.Head"]}},
    {"OneOf": {"transforms": f"{MODULE}.Head"}},
    {"OneOrOther": {"first": {f"{MODULE}.Head": None}, "second": "Blur"}},
]


@pytest.mark.parametrize("item", TRANSFORMS)
@pytest.mark.parametrize("name", ["train_transform", "eval_transform"])
def test_no_transform_of_a_checkpoint_runs_code(name, item, stranger, plain_checkpoints, tmp_path, capsys):
    stored = {"root": str(tmp_path), name: [item]}
    torch.save({**plain_checkpoints["segmentation"], "datamodule_hyper_parameters": stored}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=MODULE):
        CityscapesDataModule.load_from_checkpoint(tmp_path / "a.ckpt")
    assert main(["validate", f"--ckpt_path={tmp_path / 'a.ckpt'}"]) == 2
    assert f"--trust {MODULE}.Head" in capsys.readouterr().err
    assert not stranger.exists() and MODULE not in sys.modules


def test_transforms_of_albumentations_need_no_trust(tmp_path, plain_checkpoints):
    known = "albumentations.augmentations.geometric.flip.HorizontalFlip"
    spec = [{"class_path": known}, "A.VerticalFlip", {"albumentations.Blur": None}]
    stored = {"root": str(tmp_path), "eval_transform": spec, "gone": 1}
    torch.save({**plain_checkpoints["segmentation"], "datamodule_hyper_parameters": stored}, tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match="does not have are ignored: gone"):
        data = CityscapesDataModule.load_from_checkpoint(tmp_path / "a.ckpt", batch_size=3)
    assert data.batch_size == 3 and len(data._eval_pipeline._compose.transforms) == 3


@pytest.mark.parametrize("network", ["local-dir:somewhere", "hf-hub:a/b", "HF-HUB:a/b"])
@pytest.mark.parametrize("name", ["backbone", "backbone_kwargs"])
def test_networks_of_elsewhere_are_named_by_the_user(network, name, plain_checkpoints, tmp_path):
    content = plain_checkpoints["classification"]
    value = network if name == "backbone" else {"name": network}
    torch.save({**content, "hyper_parameters": {**content["hyper_parameters"], name: value}}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=f"names '{network}'.*allow it by"):
        ClassificationTask.load_from_checkpoint(tmp_path / "a.ckpt")


def test_a_checkpoint_names_no_weights_and_no_place_to_write(plain_checkpoints):
    places = {"pretrained": "w.pth", "backbone_weights": "b.ckpt", "teacher": "t.ckpt", "results_dir": "/somewhere"}
    nested = {"pretrained": True, "model_kwargs": {"checkpoint_path": "x", "pretrained_cfg": {"file": "y"}, "width": 2}}
    with pytest.warns(
        UserWarning, match=r"pretrained, backbone_weights, teacher, results_dir.*backbone_kwargs.model_kwargs"
    ):
        kept = hyperparameters_of({**places, "backbone_kwargs": nested}, "a.ckpt")
    assert kept == {
        "pretrained": False,
        "backbone_weights": None,
        "teacher": None,
        "results_dir": None,
        "backbone_kwargs": {"model_kwargs": {"width": 2}},
    }


class Named(torch.nn.Module):
    """A head of the user's own."""

    def __init__(self, in_channels: list[int], num_classes: int) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(in_channels[-1], num_classes, 1)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        return self.layer(features[-1])


def test_what_the_user_names_again_is_used(tmp_path, sample_data, capsys):
    path = f"{Named.__module__}.Named"
    sys.modules.setdefault(Named.__module__, sys.modules[__name__])
    model = SegmentationTask(backbone="test_resnet", num_classes=19, head={"class_path": path})
    content = {
        "task": "segmentation",
        "pytorch-lightning_version": "2.6.0",
        "hyper_parameters": dict(model.hparams),
        "state_dict": model.state_dict(),
    }
    torch.save(content, tmp_path / "a.ckpt")
    for options in ({"trust": [path]}, {"trust": path}, {"head": {"class_path": path}}):
        loaded = SegmentationTask.load_from_checkpoint(tmp_path / "a.ckpt", **options)
        assert isinstance(loaded.network.head, Named)
    config = tmp_path / "mine.yaml"
    config.write_text(f"model:\n  head:\n    class_path: {path}\n")
    root = f"--data.root={sample_data / 'cityscapes'}"
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--data.num_workers=0"]
    for named in ([f"--trust={path}"], ["--trust", f"other.Thing,{path}"], [f"--config={config}"]):
        assert main(["validate", f"--ckpt_path={tmp_path / 'a.ckpt'}", root, *named, *quiet]) == 0, capsys.readouterr()
    assert main(["validate", f"--ckpt_path={tmp_path / 'a.ckpt'}", root, "--trust=other.Thing", *quiet]) == 2


@pytest.mark.parametrize(
    ("path", "kind", "builders"),
    [
        ("subprocess.Popen", torch.nn.Module, False),
        ("subprocess.Popen", torch.optim.Optimizer, False),
        ("os.system", torch.nn.Module, True),
        ("subprocess.call", torch.nn.Module, True),
        ("torch.nn.functional.relu", torch.nn.Module, False),
        ("collections.OrderedDict", torch.optim.lr_scheduler.LRScheduler, False),
    ],
)
def test_a_class_is_of_its_kind_before_it_is_called(path, kind, builders):
    with pytest.raises(ValueError, match=f"class_path '{path}' is .*; expected a subclass of torch"):
        import_object(path, "head", kind, builders)


def test_known_names_are_those_of_the_registries():
    assert is_known("optimizer", "torch.optim.SGD") and is_known("lr_schedule", "torch.optim.lr_scheduler.StepLR")
    assert is_known("loss", "torch.nn.CrossEntropyLoss") and is_known("loss", "dyvision.tasks.losses.OHEMLoss")
    assert is_known("loss", "torch.nn.modules.loss.CrossEntropyLoss")
    for name, code in (
        ("optimizer", "torch.nn.Linear"),
        ("loss", "torch.hub.load"),
        ("loss", "torch.nn.functional.relu"),
        ("head", "dyvision.saving.write_text"),
        ("head", "dyvision.tasks.losses.torch"),
        ("layer", "torch.nn.Linear"),
        ("loss", "torch.nn"),
        ("loss", ""),
    ):
        assert not is_known(name, code), (name, code)


def test_unknown_hyperparameters_are_named(plain_checkpoints, tmp_path):
    content = plain_checkpoints["classification"]
    torch.save({**content, "hyper_parameters": {**content["hyper_parameters"], "nonsense": 1}}, tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match="does not have are ignored: nonsense"):
        ClassificationTask.load_from_checkpoint(tmp_path / "a.ckpt")


def test_lightnings_own_entries_choose_nothing(plain_checkpoints, tmp_path, stranger):
    content = plain_checkpoints["classification"]
    extra = {"_instantiator": f"{MODULE}.Head", "_class_path": f"{MODULE}.Head"}
    torch.save({**content, "hyper_parameters": {**content["hyper_parameters"], **extra}}, tmp_path / "a.ckpt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(ClassificationTask.load_from_checkpoint(tmp_path / "a.ckpt")) is ClassificationTask
    assert not stranger.exists()


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"lr": 10**400}, "a: hyper_parameters.lr: an integer of 1329 bits, expected one of at most 64"),
        ({"layer_kwargs": {"ratio": -(10**5000)}}, "hyper_parameters.layer_kwargs.ratio: an integer of"),
        ({"root": "k\udce4se"}, r"hyper_parameters.root: 'k\\udce4se' has half a character, expected text"),
        ({"layer_kwargs": {"\ud800": 1}}, r"hyper_parameters.layer_kwargs: the name '\\ud800' has half a character"),
    ],
)
def test_values_that_no_option_takes_are_named(stored, message):
    with pytest.raises(ValueError, match=message):
        hyperparameters_of(stored, "a")
    assert hyperparameters_of(stored, "a", given=stored) == {}


def test_names_are_shown_not_obeyed():
    name = "\x1b[31mHACK\x1b[2J"
    with pytest.warns(UserWarning, match=r"ignored: \\x1b\[31mHACK\\x1b\[2J$"):
        name_unknown({name: 1}, (), "a")
    with pytest.raises(ValueError, match=r"a: \\x1b\[31mHACK\\x1b\[2J names 'os\.system'"):
        hyperparameters_of({name: {"class_path": "os.system"}}, "a")
    with pytest.raises(ValueError, match=r"a: \\x1b\[31mHACK\\x1b\[2J of 1 hold NaN"):
        check_finite({name: torch.tensor(float("nan"))}, "a")


@pytest.mark.parametrize(
    ("name", "code", "known"),
    [
        ("loss", "torch.nn.CrossEntropyLoss", True),
        ("loss", "torch.nn.modules.loss.CrossEntropyLoss", True),
        ("loss", "torch.nn.Transformer", False),
        ("loss", "torch.nn.modules.loss._Loss", False),
        ("head", "torch.nn.Linear", False),
        ("aux_head", "torch.nn.Sequential", False),
        ("optimizer", "torch.optim.AdamW", True),
        ("optimizer", "torch.nn.AdamW", False),
        ("lr_schedule", "torch.optim.lr_scheduler.StepLR", True),
    ],
)
def test_only_classes_of_the_argument_are_known(name, code, known):
    assert is_known(name, code) is known
