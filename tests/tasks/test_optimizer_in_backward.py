"""If these failed, gradients that are applied at once would give other weights, or be lost without a word."""

from __future__ import annotations

import warnings
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.utils.data import DataLoader

from dyvision.tasks import ClassificationTask

#: with Adam's eps, and schedules and decay of which each step's number matters
OPTIONS = {"lr": 0.01, "weight_decay": 0.01, "lr_schedule": "cosine", "warmup_steps": 2, "optimizer": "adamw"}


def loader() -> DataLoader[Any]:
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return DataLoader([{"image": image, "label": index % 2} for index, image in enumerate(images)], batch_size=2)


def task(in_backward: bool = True, **options: Any) -> ClassificationTask:
    torch.manual_seed(0)
    given = OPTIONS | {"optimizer_in_backward": in_backward} | options
    return ClassificationTask("test_resnet", num_classes=2, **given)


def fit(task: ClassificationTask, resume: Any = None, **options: Any) -> L.Trainer:
    trainer = L.Trainer(**{
        "max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "enable_checkpointing": False, **options,
    })  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(task, loader(), ckpt_path=resume, **({"weights_only": True} if resume else {}))
    return trainer


def assert_same(found: ClassificationTask, expected: ClassificationTask) -> None:
    states: list[dict[str, Tensor]] = [one.network.state_dict() for one in (found, expected)]
    for name, value in states[1].items():
        assert torch.equal(states[0][name], value), name


@pytest.mark.parametrize(
    "optimizer",
    ["sgd", "adam", "adamw", "adagrad", "adadelta", "adamax", "nadam", "radam", "rmsprop", "rprop", "asgd", "adafactor",
     {"name": "adamw", "fused": False}, {"name": "adamw", "foreach": True}, {"name": "adam", "amsgrad": True}],
    ids=str,
)  # fmt: skip
def test_the_same_weights_to_the_last_bit(optimizer):
    found, expected = task(optimizer=optimizer), task(False, optimizer=optimizer)
    assert fit(found).global_step == fit(expected).global_step == 8
    assert_same(found, expected)


@pytest.mark.parametrize(
    ("layer", "backbone"), [("dyconv", "test_resnet"), ("kernelwarehouse", "test_resnet"), ("dynet", "mobilenetv2_035")]
)
def test_layers_that_mix_and_share(layer, backbone):
    """Kernels of several layers get one gradient each, a branch for several layers too."""
    networks = []
    for in_backward in (True, False):
        torch.manual_seed(0)
        options = OPTIONS | {"optimizer_in_backward": in_backward}
        networks.append(ClassificationTask(backbone, layer, num_classes=2, **options))
        fit(networks[-1], max_epochs=1)
    assert_same(*networks)


class Gradients(Callback):
    """How many gradients there are at once, at most."""

    most = 0

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.parameters = list(module.parameters())
        for parameter in self.parameters:
            parameter.register_post_accumulate_grad_hook(self._count)

    def _count(self, _: Tensor) -> None:
        self.most = max(self.most, sum(parameter.grad is not None for parameter in self.parameters))


def test_one_gradient_at_a_time():
    counts = {}
    for in_backward in (True, False):
        counter = Gradients()
        fit(task(in_backward), callbacks=[counter], max_steps=2)
        counts[in_backward] = counter.most
    assert counts[True] == 1
    assert counts[False] == len(list(task().network.parameters()))


def test_frozen_parameters_stay_and_others_are_trained():
    found, expected, untouched = task(freeze="stem"), task(False, freeze="stem"), task(freeze="stem")
    fit(found), fit(expected)
    assert_same(found, expected)
    trained, before = dict(found.network.named_parameters()), dict(untouched.network.named_parameters())
    frozen = [name for name, parameter in trained.items() if not parameter.requires_grad]
    assert frozen and all(torch.equal(trained[name], before[name]) for name in frozen)


def test_averages_schedule_and_rates(tmp_path):
    rows = []
    for in_backward in (True, False):
        options = {"logger": CSVLogger(tmp_path / str(in_backward)), "log_every_n_steps": 1}
        one = task(in_backward, ema_decay=0.9)
        trainer = fit(one, callbacks=[LearningRateMonitor("step")], **options)
        with open(f"{trainer.logger.log_dir}/metrics.csv") as file:
            rows.append(file.read())
    assert rows[0] == rows[1]
    assert "lr-AdamW/head" in rows[0]


@pytest.mark.parametrize("first", [True, False])
def test_a_run_goes_on_either_way(first, tmp_path):
    begun = task(first, ema_decay=0.9, lr_schedule={"name": "cosine", "total_steps": 12})
    fit(begun, max_epochs=1).save_checkpoint(tmp_path / "a.ckpt")
    ended = []
    for second in (True, False):
        ended.append(task(second, ema_decay=0.9, lr_schedule={"name": "cosine", "total_steps": 12}))
        fit(ended[-1], tmp_path / "a.ckpt", max_epochs=3)
    assert_same(*ended)


def test_nothing_is_left_on_the_network():
    """Who trains the network further, trains it alone; also after an error."""

    class Stop(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            raise RuntimeError("enough")

    for callbacks in ([], [Stop()]):
        one = task()
        try:
            fit(one, callbacks=callbacks, max_steps=1)
        except RuntimeError as error:
            assert "enough" in str(error)
        one.train()
        one.network(torch.randn(2, 3, 32, 32)).sum().backward()
        assert all(parameter.grad is not None for parameter in one.network.parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gradient_clip_val": 1.0}, r"trainer\.gradient_clip_val=1"),
        ({"accumulate_grad_batches": 2}, r"trainer\.accumulate_grad_batches=2"),
        ({"callbacks": [GradientAccumulationScheduler({1: 2})]}, "GradientAccumulationScheduler"),
        ({"plugins": [MixedPrecision("16-mixed", "cpu")]}, "trainer.precision=16-mixed.*bf16-mixed"),
        ({"strategy": "ddp", "devices": 1}, "several processes"),
    ],
)
def test_what_needs_all_gradients_is_refused(options, words):
    with pytest.raises(ValueError, match=f"optimizer_in_backward=true does not go with {words}"):
        fit(task(), **options)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions(precision):
    found, expected = task(), task(False)
    fit(found, precision=precision), fit(expected, precision=precision)
    assert_same(found, expected)


@pytest.mark.parametrize("optimizer", ["lbfgs", {"class_path": "tests.tasks.test_optimizer_in_backward.Own"}])
def test_optimizers_over_all_parameters_are_refused(optimizer):
    with pytest.raises(ValueError, match=r"optimizer_in_backward=true: \w+ may compute over all parameters"):
        task(optimizer=optimizer)


class Own(torch.optim.SGD):
    """An optimiser of somebody's."""


def test_own_tasks_that_look_at_gradients_are_refused():
    class Clips(ClassificationTask):
        def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
            pass

    class Steps(ClassificationTask):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.automatic_optimization = False

    for kind, words in ((Clips, "Clips.configure_gradient_clipping"), (Steps, "manual optimisation of Steps")):
        with pytest.raises(ValueError, match=words):
            fit(kind("test_resnet", num_classes=2, optimizer_in_backward=True))


def test_a_second_gradient_in_one_step_is_refused():
    class Twice(ClassificationTask):
        def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
            loss.backward(retain_graph=True)
            loss.backward()

    with pytest.raises((ValueError, RuntimeError), match=r"second gradient|modified by an inplace"):
        fit(Twice("test_resnet", num_classes=2, optimizer_in_backward=True))


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_it_is_true_or_false(value):
    with pytest.raises(ValueError, match="optimizer_in_backward"):
        task(optimizer_in_backward=value)
