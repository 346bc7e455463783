"""The arguments of tasks: said once, shown everywhere, saved as before."""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

import pytest
import torch

import dyvision.data
import dyvision.tasks
from dyvision.cli import main
from dyvision.data.arguments import DataArguments
from dyvision.signatures import constructor_signature, documented_arguments
from dyvision.tasks import BaseTask, ClassificationTask, DetectionTask, SegmentationTask
from dyvision.tasks.arguments import TaskArguments

BACKBONE = "mobilenetv2_035"
TASKS = {"classification": ClassificationTask, "segmentation": SegmentationTask, "detection": DetectionTask}
DATA = {
    "classification": dyvision.data.ImageFolderDataModule,
    "segmentation": dyvision.data.CityscapesDataModule,
    "detection": dyvision.data.COCODataModule,
}


def said_again(subclass: type, base: type) -> list[str]:
    """Arguments of the base that a subclass has too, with the same default, or documents once more."""
    general = inspect.signature(base).parameters
    own = inspect.signature(vars(subclass)["__init__"]).parameters
    again = [name for name in own if name in general and own[name].default == general[name].default]
    tree = ast.parse(inspect.getsource(subclass))
    written = ast.get_docstring(tree.body[0]) or ""  # as in the file: at runtime it has those of the base
    changed = {name for name in own if name in general and own[name].default != general[name].default}
    documented = re.findall(r"^    (\w+):", written, re.MULTILINE)
    return list(dict.fromkeys(again + [name for name in documented if name in general and name not in changed]))


@pytest.mark.parametrize("task", TASKS.values())
def test_no_task_says_an_argument_of_the_base_again(task):
    assert said_again(task, TaskArguments) == []


@pytest.mark.parametrize("module", DATA.values())
def test_no_data_module_says_an_argument_of_the_base_again(module):
    assert said_again(module, DataArguments) == []


def test_an_argument_said_again_is_found():
    assert said_again(Repeats, TaskArguments) == ["lr", "weight_decay"]


class Repeats(ClassificationTask):
    """A task that says two arguments again, and changes one.

    Args:
        lr: Learning rate.
        ema_decay: Of the average.
        weight_decay: Once more, here only.
    """

    def __init__(self, *args: Any, lr: float = 1e-3, ema_decay: float | None = 0.9, **kwargs: Any) -> None:
        super().__init__(*args, lr=lr, ema_decay=ema_decay, **kwargs)


@pytest.mark.parametrize("task", TASKS)
def test_help_has_every_argument_with_text_and_default(task, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as end:
        main(["fit", "--task", task, "--help"])
    assert end.value.code == 0
    options = help_of(capsys.readouterr().out)
    for section, cls in (("model", TASKS[task]), ("data", DATA[task])):
        parameters = constructor_signature(cls).parameters
        assert {name for name in options if name.startswith(f"{section}.")} == {f"{section}.{n}" for n in parameters}
        for name, parameter in parameters.items():
            text = options[f"{section}.{name}"]
            described, ending = re.split(r" \((?=required|type:)", text, maxsplit=1)
            assert len(described.split()) >= 2 and described.endswith("."), (name, text)
            if parameter.default is inspect.Parameter.empty:
                assert "required" in ending
            else:
                assert "default: " in ending, (name, text)
                shown = ending.partition("default: ")[2].rstrip(")")
                scalar = parameter.default is None or isinstance(parameter.default, str | bool | int | float)
                assert not scalar or shown == ("null" if parameter.default is None else str(parameter.default)), name


def help_of(text: str) -> dict[str, str]:
    """Options in a parser's help: name -> its text, without the name and its placeholder."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    plain = plain[plain.index("\noptions:") :]
    options = {}
    for item in re.finditer(r"^  --(?P<name>[\w.]+)(?P<rest>.*(?:\n {3,}.*|\n(?= {3,}))*)", plain, re.MULTILINE):
        words = item["rest"].split()
        while words and (words[0][0] in "-{[" or words[0].isupper()):
            words.pop(0)
        options[item["name"]] = " ".join(words)
    return options


@pytest.mark.parametrize("cls", [*TASKS.values(), *DATA.values()])
def test_signature_and_docstring_have_all_arguments(cls):
    parameters = inspect.signature(cls).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    assert not kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    assert parameters.keys() <= documented_arguments(cls).keys()
    assert "in_chans" in parameters and not {"args", "kwargs"} & parameters.keys()


def test_defaults_that_differ_are_those_of_the_task():
    defaults = {name: inspect.signature(task).parameters for name, task in TASKS.items()}
    chosen = {
        name: (p["lr"].default, p["weight_decay"].default, p["lr_schedule"].default) for name, p in defaults.items()
    }
    assert chosen == {
        "classification": (1e-3, 0.05, "cosine"),
        "segmentation": (1e-3, 0.01, "poly"),
        "detection": (2e-4, 0.05, "cosine"),
    }
    task = DetectionTask(BACKBONE, "dcd", head="fcos", fpn_channels=16, num_classes=2, weight_decay=0.1)
    given = {"backbone": BACKBONE, "layer": "dcd", "head": "fcos", "fpn_channels": 16, "num_classes": 2}
    expected = {name: parameter.default for name, parameter in defaults["detection"].items()} | given
    assert dict(task.hparams) == expected | {"weight_decay": 0.1}


def test_positional_arguments_are_backbone_and_layer():
    with pytest.raises(TypeError, match="positional"):
        ClassificationTask(BACKBONE, "static", 3)
    with pytest.raises(TypeError, match="positional"):
        dyvision.data.ImageFolderDataModule("root", 32)
    with pytest.raises(TypeError, match="unexpected keyword argument 'lrr'"):
        ClassificationTask(BACKBONE, lrr=0.1)


@pytest.mark.parametrize("task", TASKS)
def test_checkpoint_of_an_earlier_version_loads(task, tmp_path):
    """Its hyperparameters are a plain dictionary in another order, with one that is gone and without a newer one."""
    small = {"segmentation": {"head": "fcn"}, "detection": {"head": "fcos", "fpn_channels": 16}}.get(task, {})
    made = TASKS[task](backbone=BACKBONE, num_classes=2, lr=0.5, ema_decay=0.9, **small)
    hparams = dict(sorted(made.hparams.items())) | {"long_gone": 3}
    del hparams["channels_last"]
    content = {
        "state_dict": made.state_dict(),
        "hyper_parameters": hparams,
        "task": task,
        "pytorch-lightning_version": "2.6.0",
    }
    torch.save(content, tmp_path / "old.ckpt")
    with pytest.warns(UserWarning, match="long_gone"):
        loaded = TASKS[task].load_from_checkpoint(tmp_path / "old.ckpt")
    assert dict(loaded.hparams) == dict(made.hparams)
    for name, value in made.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0, msg=name)


class Own(ClassificationTask):
    """A task that hands on what it does not have itself.

    Args:
        width: Of something.
    """

    def __init__(self, *args: Any, width: int = 4, lr: float = 0.25, **kwargs: Any) -> None:
        super().__init__(*args, lr=lr, **kwargs)


class Listing(BaseTask):
    """A task that names all its arguments, as they had to in earlier versions."""

    task = "listing"
    monitor = "val/top1"

    def __init__(
        self,
        backbone: str = BACKBONE,
        layer: str = "static",
        layer_kwargs: dict[str, Any] | None = None,
        policy: str | None = None,
        pretrained: bool = False,
        backbone_weights: str | None = None,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        num_classes: int | None = None,
        class_names: list[str] | None = None,
        class_colors: list[list[int]] | None = None,
        class_ids: list[int] | None = None,
        optimizer: str = "sgd",
        lr: float = 0.125,
        weight_decay: float = 0.0,
        backbone_lr_scale: float = 1.0,
        head_lr_scale: float = 1.0,
        lr_schedule: str = "constant",
        warmup_steps: int = 0,
        ema_decay: float | None = None,
        anneal_temperature: bool = True,
        extra: int = 7,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.initialize()

    build_metric = ClassificationTask.__dict__["build_metric"]
    backbone_network = ClassificationTask.__dict__["backbone_network"]
    backbone_parameters = ClassificationTask.__dict__["backbone_parameters"]
    forward = ClassificationTask.__dict__["forward"]

    def build_network(self, num_classes: int) -> torch.nn.Module:
        return dyvision.create_model(num_classes=num_classes, **self.backbone_arguments())

    def _step(self, batch: Any, stage: str) -> torch.Tensor | None:
        self.require(batch, ("image", "label"))
        logits = self(batch["image"])
        return torch.nn.functional.cross_entropy(logits, batch["label"]) if stage == "train" else None

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self(batch["image"])


def test_an_own_task_hands_arguments_on(tmp_path):
    task = Own(BACKBONE, width=8, num_classes=2, optimizer="sgd")
    assert (task.hparams.width, task.hparams.lr, task.hparams.optimizer) == (8, 0.25, "sgd")
    assert task.hparams.keys() == inspect.signature(Own).parameters.keys()
    assert inspect.signature(Own).parameters["lr"].default == 0.25
    assert "stochastic depth" in (Own.__doc__ or "").lower()


def test_an_own_task_that_names_all_its_arguments_goes_on_to_work(make_data, make_trainer, tmp_path, recwarn):
    trainer = make_trainer(max_steps=1)
    task = Listing(lr=0.5)
    # those that it does not take are none of its hyperparameters, or its checkpoint could not be loaded
    assert task.hparams.keys() == inspect.signature(Listing).parameters.keys()
    assert (task.hparams.lr, task.hparams.extra, task.hparams.lr_schedule) == (0.5, 7, "constant")
    trainer.fit(task, datamodule=make_data())
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.5
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    recwarn.clear()
    loaded = Listing.load_from_checkpoint(tmp_path / "a.ckpt")
    assert loaded.hparams.lr == 0.5 and not [str(w.message) for w in recwarn if "hyperparameters" in str(w.message)]


def test_misspelt_arguments_beside_a_checkpoint_are_named(tmp_path):
    task = ClassificationTask(BACKBONE, num_classes=2)
    content = {"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams), "task": "classification"}
    torch.save({**content, "pytorch-lightning_version": "2.6.0"}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt: ClassificationTask has no argument 'drop_rates'; did you mean"):
        ClassificationTask.load_from_checkpoint(tmp_path / "last.ckpt", drop_rates=0.1)


def test_an_option_that_is_too_large_for_some_channels_only_is_no_error() -> None:
    ClassificationTask.check(layer="dyconv", layer_kwargs={"bank": "tucker", "rank": 128}, num_classes=3)
    with pytest.raises(ValueError, match="rank must be"):
        ClassificationTask.check(layer="dyconv", layer_kwargs={"bank": "tucker", "rank": 0}, num_classes=3)
