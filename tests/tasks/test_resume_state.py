"""If these failed, a run would go on from a broken or made-up state without a word, or end in a traceback."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import timm
import torch
from torch.utils.data import DataLoader

from dyvision.tasks import ClassificationTask
from dyvision.tasks.training_length import schedule_length


def loader() -> DataLoader[Any]:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return DataLoader([{"image": image, "label": index % 2} for index, image in enumerate(images)], batch_size=2)


def trainer(folder: Path, steps: int) -> L.Trainer:
    return L.Trainer(
        default_root_dir=folder, max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip


def task(**arguments: Any) -> ClassificationTask:
    return ClassificationTask("test_resnet", num_classes=2, **arguments)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Any]:
    """A checkpoint after two steps, with averaged weights."""
    folder = tmp_path_factory.mktemp("run")
    first = trainer(folder, 2)
    first.fit(task(ema_decay=0.9), loader())
    first.save_checkpoint(folder / "a.ckpt")
    return torch.load(folder / "a.ckpt", weights_only=True)


def resume(content: dict[str, Any], folder: Path, steps: int = 3) -> L.Trainer:
    torch.save(content, folder / "b.ckpt")
    again = trainer(folder, steps)
    again.fit(task(ema_decay=0.9), loader(), ckpt_path=folder / "b.ckpt", weights_only=True)
    return again


def checkpoint_callback(content: dict[str, Any]) -> dict[str, Any]:
    return next(state for name, state in content["callbacks"].items() if name.startswith("ModelCheckpoint"))


def test_a_whole_checkpoint_goes_on(saved, tmp_path):
    assert resume(saved, tmp_path).global_step == 3


def first_group(content: dict[str, Any]) -> dict[str, Any]:
    return content["optimizer_states"][0]["param_groups"][0]


def schedule_of(content: dict[str, Any]) -> dict[str, Any]:
    return content["lr_schedulers"][0]


def state_of(content: dict[str, Any]) -> dict[str, Any]:
    return content["optimizer_states"][0]["state"][0]


NAN = float("nan")
#: what is done to a checkpoint, and what is said
BROKEN = [
    (lambda c: c["ema"]["raw_state_dict"]["network.fc.bias"].fill_(NAN), r"ema\.raw_state_dict\.network.* NaN"),
    (lambda c: c["optimizer_states"][0]["state"][0]["exp_avg"].fill_(NAN), r"optimizer_states\.0\.state\.0\.exp_avg"),
    (lambda c: c["optimizer_states"][0]["param_groups"][0].update(lr=NAN), r"param_groups\[0\]\.lr is nan"),
    (lambda c: c["optimizer_states"][0].update(param_groups=[]), "no param_groups"),
    (lambda c: c.update(optimizer_states=[]), "0 optimizer_states for 1"),
    (lambda c: c.update(lr_schedulers=[]), "0 lr_schedulers for 1"),
    (lambda c: c["lr_schedulers"][0].update(step="x"), r"lr_schedulers\[0\]\.step is not a value"),
    (lambda c: c.update(ema="x"), "ema is 'x', expected a mapping"),
    (lambda c: c["ema"].update(raw_state_dict={}), r"ema\.raw_state_dict does not have the names"),
    (lambda c: c["ema"]["raw_state_dict"].update({"network.fc.bias": torch.zeros(3)}), r"fc\.bias'\] has shape \[3\]"),
    (lambda c: state_of(c).update(exp_avg=torch.zeros(1, 2)), r"b\.ckpt: .*exp_avg of network\.\S+ .* shape \[1, 2\]"),
    (lambda c: state_of(c).update(exp_avg_sq=torch.zeros(7)), r"exp_avg_sq of .* shape \[7\], the parameter \["),
    (lambda c: state_of(c).update(step=torch.zeros(2)), r"step of .* shape \[2\], the parameter \[\]"),
    (lambda c: first_group(c)["params"].pop(), r"b\.ckpt: .*param_groups\[0\] has \d+ parameters, the task has \d+"),
    (lambda c: c["optimizer_states"][0]["param_groups"].pop(), r"b\.ckpt: .* has \d groups of parameters"),
    (lambda c: state_of(c).pop("exp_avg"), r"exp_avg of network\.\S+ .* is missing"),
    (lambda c: state_of(c).update(exp_avg="x"), r"exp_avg of .* is 'x', expected a tensor"),
    (lambda c: state_of(c).update(exp_avg=state_of(c)["exp_avg"].int()), r"exp_avg of .* holds torch\.int32, exp"),
    (lambda c: state_of(c)["exp_avg_sq"].fill_(-1), r"exp_avg_sq of .* is -1, expected at least 0"),
    (lambda c: state_of(c)["step"].fill_(-1), r"step of .* is -1, expected at least 0"),
    (lambda c: state_of(c)["step"].fill_(1e30), r"step of .* is 1e\+30, expected the number of a step"),
    (lambda c: first_group(c).update(params=[0] * len(first_group(c)["params"])), r"params is .* number once"),
    (lambda c: first_group(c).update(weight_decay=-1e6), r"\.weight_decay.* is -1000000\.0, expected at least 0"),
    (lambda c: first_group(c).update(lr=10**400), r"\.lr is 1000.*, expected a finite number"),
    (lambda c: first_group(c).update(lr=1e30), r"\.lr is 1e\+30, expected at most 1000"),
    (lambda c: first_group(c).update(lr="x"), r"\.lr is 'x', expected a finite number"),
    (lambda c: first_group(c).pop("lr"), r"param_groups\[0\] has no lr"),
    (lambda c: first_group(c).update(betas=[2, 5]), r"betas=\[2, 5\]: expected 2 numbers in \[0, 1\)"),
    (lambda c: first_group(c).update(betas=[0.9]), r"betas is \[0\.9\], expected 2 values"),
    (lambda c: first_group(c).update(eps=float("inf")), r"eps is inf, expected a finite number"),
    (lambda c: first_group(c).update(foreach="x"), r"foreach is 'x', expected true, false or null"),
    (lambda c: first_group(c).update(maximize=True), r"maximize is True, expected False"),
    (lambda c: first_group(c).update(name="head"), r"name is 'head', expected 'backbone'"),
    (lambda c: schedule_of(c).update(last_epoch="x"), r"\]\.last_epoch is 'x', expected a whole number"),
    (lambda c: schedule_of(c).update(last_epoch=10**400), r"\]\.last_epoch is 1000.*, expected a whole number"),
    (lambda c: schedule_of(c).update(last_epoch=NAN), r"\]\.last_epoch is nan, expected a whole number"),
    (lambda c: schedule_of(c).update(last_epoch=-5), r"\]\.last_epoch is -5, expected a whole number of at least 0"),
    (lambda c: schedule_of(c).pop("last_epoch"), r"lr_schedulers\[0\] has no last_epoch"),
    (lambda c: schedule_of(c).update(optimizer="x"), r"\]\.optimizer is not a value of a schedule"),
    (lambda c: schedule_of(c)["base_lrs"].append(0.1), r"\]\.base_lrs is .*, expected \d values"),
    (lambda c: schedule_of(c)["base_lrs"].pop(), r"\]\.base_lrs is .*, expected \d values"),
    (lambda c: schedule_of(c)["base_lrs"].__setitem__(0, NAN), r"base_lrs\[0\] is nan, expected a finite number"),
    (lambda c: schedule_of(c)["base_lrs"].__setitem__(0, -0.1), r"base_lrs\[0\] is -0\.1, expected at least 0"),
    (lambda c: schedule_of(c).update(lr_lambdas="x"), r"\]\.lr_lambdas is 'x', expected \d values"),
    (lambda c: c.update(random_state=None), "random_state is None, expected a mapping"),
    (lambda c: c.update(random_state={}), "random_state is not one of random generators, expected 'processes'"),
    (lambda c: c["random_state"]["processes"][0].pop("torch"), r"processes\[0\]\.torch is not one of"),
    (lambda c: c["random_state"]["processes"][0]["numpy"]["state"].update(pos=10**6), r"\.numpy .*pos=1000000"),
    (lambda c: c["ema"]["raw_state_dict"].update({"network.fc.bias": torch.zeros(2).bool()}), r"fc\.bias holds truth"),
    (lambda c: c.update(loops=None), "loops is None"),
    (lambda c: c["loops"]["fit_loop"].update(epoch_progress=7), "epoch_progress is 7, expected a mapping"),
    (lambda c: c["loops"]["fit_loop"]["epoch_progress"]["current"].update(ready=-1), "ready is -1"),
    (lambda c: c.update(global_step=10**30), "global_step is 1000"),
    (lambda c: c.update(random_state={"processes": [{"python": [1, [], None]}]}), r"\]\.python is not one of "),
    (lambda c: checkpoint_callback(c).update(best_k_models=3), "no list of checkpoints"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), BROKEN)
def test_what_cannot_be_restored_is_named(saved, tmp_path, damage, message):
    content = copy.deepcopy(saved)
    damage(content)
    with pytest.raises(ValueError, match=message) as error:
        resume(content, tmp_path)
    # what to do instead
    assert "b.ckpt" in str(error.value)
    assert "earlier checkpoint" in str(error.value).lower()


def test_an_early_checkpoint_goes_on_with_a_word(saved, tmp_path):
    content = {key: value for key, value in saved.items() if key != "random_state"}
    with pytest.warns(UserWarning, match=r"b\.ckpt: has no random_state"):
        assert resume(content, tmp_path).global_step == 3


def test_a_version_of_torch_may_have_fewer_switches(saved, tmp_path):
    content = copy.deepcopy(saved)
    for group in content["optimizer_states"][0]["param_groups"]:
        del group["foreach"], group["capturable"]
    schedule_of(content).pop("_is_initial", None)
    schedule_of(content)["verbose"] = False
    assert resume(content, tmp_path).global_step == 3


#: optimisers and schedules of torch.optim that a configuration may name
OPTIMIZERS = (
    "adadelta",
    "adafactor",
    "adagrad",
    "adamax",
    "adamw",
    "asgd",
    "nadam",
    "radam",
    "rmsprop",
    "rprop",
    "sgd",
)
SCHEDULES = (
    {"class_path": "torch.optim.lr_scheduler.MultiStepLR", "init_args": {"milestones": [2, 5]}},
    {"class_path": "torch.optim.lr_scheduler.OneCycleLR", "init_args": {"max_lr": 0.1, "total_steps": 9}},
    {"class_path": "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts", "init_args": {"T_0": 2}},
    {"class_path": "torch.optim.lr_scheduler.CyclicLR", "init_args": {"base_lr": 0.1, "max_lr": 0.2}},
)


@pytest.mark.parametrize(
    "arguments",
    [
        *({"optimizer": name} for name in OPTIMIZERS),
        *({"optimizer": "sgd", "lr_schedule": s, "warmup_steps": 0} for s in SCHEDULES),
    ],
)
def test_every_kind_goes_on(tmp_path, arguments):
    first = trainer(tmp_path, 2)
    first.fit(task(**arguments), loader())
    first.save_checkpoint(tmp_path / "a.ckpt")
    again = trainer(tmp_path, 4)
    again.fit(task(**arguments), loader(), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert again.global_step == 4


def test_a_checkpoint_has_no_file_outside_its_folder_removed(saved, tmp_path):
    mine = tmp_path / "mine.ckpt"
    mine.write_text("mine")
    content = copy.deepcopy(saved)
    folder = tmp_path / "checkpoints"
    stray = str(folder / ".." / "mine.ckpt")
    checkpoint_callback(content).update(
        dirpath=str(folder), best_k_models={stray: torch.tensor(-1.0)}, kth_best_model_path=stray, best_model_path=stray
    )
    with pytest.raises(ValueError, match=r"names .*mine\.ckpt, which is outside"):
        resume(content, tmp_path)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("layer", ["condconv", "dcd"])
def test_a_dynamic_classifier_that_started_from_weights_is_rebuilt(tmp_path, layer):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "w.pth")
    kwargs = {"layer": layer, "backbone_kwargs": {"dynamic_classifier": True}}
    first, trained = trainer(tmp_path, 1), task(pretrained=str(tmp_path / "w.pth"), **kwargs)
    first.fit(trained, loader())
    first.save_checkpoint(tmp_path / "a.ckpt")
    loaded = ClassificationTask.load_from_checkpoint(tmp_path / "a.ckpt")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.eval()(images), trained.eval()(images))
    # a run that goes on keeps what the first one started from
    again = trainer(tmp_path, 2)
    again.fit(loaded, loader(), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    again.save_checkpoint(tmp_path / "b.ckpt")
    loaded = ClassificationTask.load_from_checkpoint(tmp_path / "b.ckpt")
    assert loaded.network.state_dict().keys() == trained.network.state_dict().keys()


def test_a_newer_checkpoint_is_loaded_with_a_word(saved, tmp_path):
    torch.save({**saved, "dyvision_version": "99.1"}, tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match=r"made by dyvision 99\.1, which is newer"):
        ClassificationTask.load_from_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"callbacks": "x"}, "'callbacks' is a str"),
        ({"pytorch-lightning_version": "abc"}, r"a\.ckpt: 'pytorch-lightning_version' is 'abc', expected one such as"),
        ({"pytorch-lightning_version": 2.5}, "'pytorch-lightning_version' is 2.5, expected one such as"),
        ({"hyper_parameters": {1: 2}}, "has the name 1, expected text"),
        ({"state_dict": {"a": torch.zeros(2, 2).to_sparse()}}, "of a kind that no network has"),
    ],
)
def test_other_kinds_of_content_are_named(saved, tmp_path, changes, message):
    torch.save({**saved, **changes}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=message):
        ClassificationTask.load_from_checkpoint(tmp_path / "a.ckpt")


def test_networks_refuse_arguments_of_checkpoints_in_a_sentence():
    with pytest.raises(ValueError, match=r"test_resnet does not support act_layer='no\.such'"):
        task(backbone_kwargs={"model_kwargs": {"act_layer": "no.such"}})


@pytest.mark.parametrize(
    ("taken", "completed", "processed", "begun", "steps", "expected"),
    [
        (12, 3, 4, False, 4, 16),  # three epochs of 4 steps, a fourth one alike
        (9, 2, 1, True, 4, 16),  # stopped inside the third
        (12, 3, 4, False, 2, 14),  # the fourth with a batch size twice as large
        (12, 3, 4, False, 8, 20),  # and half as large
        (14, 4, 2, False, 2, 14),  # that run once more
    ],
)
def test_a_schedule_has_the_steps_taken_and_those_left(taken, completed, processed, begun, steps, expected):
    trainer = SimpleNamespace(
        estimated_stepping_batches=4 * steps, max_epochs=4, max_steps=-1, num_training_batches=steps,
        accumulate_grad_batches=1,
    )  # fmt: skip
    epoch = {"completed": completed, "ready": completed + begun}
    loops = {"epoch_progress": {"current": epoch}, "epoch_loop.batch_progress": {"current": {"processed": processed}}}
    checkpoint = {"global_step": taken, "loops": {"fit_loop": loops}}
    assert schedule_length(trainer, checkpoint) == expected
    assert schedule_length(trainer, None) == 4 * steps
