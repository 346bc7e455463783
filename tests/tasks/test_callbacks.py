"""If these failed, DyConv would train without its temperature, or an average would be evaluated that nobody saved."""

from __future__ import annotations

import io

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from torch import nn

from dyvision.tasks import ClassificationTask, SegmentationTask
from dyvision.tasks.callbacks import EMA, ResultsTable, TemperatureAnnealing, TrainingProgress

BACKBONE = "mobilenetv2_035"


class Warm(nn.Module):
    """A layer with a temperature, as the contract describes it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.tensor(1.0))

    def set_temperature(self, value: float) -> None:
        self.temperature.fill_(value)


class Thermometer(Callback):
    def __init__(self) -> None:
        self.readings: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.readings.append(pl_module.warm.temperature.item())


def readings(make_trainer, make_data, annealing: TemperatureAnnealing, epochs: int) -> list[float]:
    task = ClassificationTask(backbone=BACKBONE)
    task.warm = Warm()
    thermometer = Thermometer()
    trainer = make_trainer(max_epochs=epochs, callbacks=[annealing, thermometer], limit_val_batches=0)
    trainer.fit(task, datamodule=make_data())  # two steps an epoch
    return thermometer.readings


@pytest.mark.parametrize(
    ("annealing", "expected"),
    [
        (TemperatureAnnealing(epochs=2), [30, 22.75, 15.5, 8.25, 1, 1]),
        (TemperatureAnnealing(fraction=0.5), [30, 30 - 29 / 3, 30 - 58 / 3, 1, 1, 1]),
        (TemperatureAnnealing(start=7, end=4, fraction=1), [7, 6.5, 6, 5.5, 5, 4.5]),
        # the paper's ten epochs are more than this training has
        (TemperatureAnnealing(), [30, 30 - 29 / 3, 30 - 58 / 3, 1, 1, 1]),
    ],
)
def test_temperature_of_every_step(annealing, expected, make_trainer, make_data):
    assert readings(make_trainer, make_data, annealing, 3) == pytest.approx(expected, rel=1e-5)


def test_default_length_is_ten_epochs():
    annealing = TemperatureAnnealing()

    class Trainer:
        current_epoch, num_training_batches, global_step, estimated_stepping_batches = 5, 100, 500, 30_000

    assert annealing._progress(Trainer, 0) == 0.5


@pytest.mark.parametrize(
    "arguments", [{"start": 0}, {"end": float("inf")}, {"epochs": 1, "fraction": 0.5}, {"fraction": 2}, {"epochs": 0}]
)
def test_temperature_errors(arguments):
    with pytest.raises(ValueError, match="temperature"):
        TemperatureAnnealing(**arguments)


def layers_with_temperature() -> list[str]:
    from dyvision.layers import get_layer, list_layers

    return [name for name in list_layers() if hasattr(get_layer(name), "set_temperature")]


def test_task_anneals_its_layers_by_itself(make_trainer, make_data):
    names = layers_with_temperature()
    assert "dyconv" in names
    task = ClassificationTask(backbone=BACKBONE, layer="dyconv", anneal_temperature={"start": 9.0, "fraction": 0.5})
    trainer = make_trainer(max_steps=1)
    trainer.fit(task, datamodule=make_data())
    temperatures = {value.item() for name, value in task.state_dict().items() if name.endswith("temperature")}
    assert temperatures == {9.0}
    own = TemperatureAnnealing(start=3.0, epochs=1)
    trainer = make_trainer(max_steps=1, callbacks=[own])
    trainer.fit(task, datamodule=make_data())
    assert [type(callback) for callback in trainer.callbacks].count(TemperatureAnnealing) == 1
    assert own in trainer.callbacks
    for layer, switch in (("dyconv", False), ("static", True)):
        task = ClassificationTask(backbone=BACKBONE, layer=layer, anneal_temperature=switch)
        trainer = make_trainer(max_steps=1)
        trainer.fit(task, datamodule=make_data())
        assert not any(isinstance(callback, TemperatureAnnealing) for callback in trainer.callbacks)


def test_layers_are_told_how_far_training_is(make_trainer, make_data):
    """Two steps an epoch, four epochs: mixing ends at half of the training, the layer's progress at its end."""

    class Learner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.told: list[tuple[str, float]] = []

        def set_mixing(self, value: float) -> None:
            self.told.append(("mixing", value))

        def set_progress(self, value: float) -> None:
            self.told.append(("progress", value))

    task = ClassificationTask(backbone=BACKBONE)
    task.learner = Learner()
    make_trainer(max_epochs=4, limit_val_batches=0).fit(task, datamodule=make_data())
    told = {kind: [value for name, value in task.learner.told if name == kind] for kind in ("mixing", "progress")}
    assert told["mixing"] == pytest.approx([1, 0.75, 0.5, 0.25, 0, 0, 0, 0])
    assert told["progress"] == pytest.approx([step / 8 for step in range(8)])
    with pytest.raises(ValueError, match=r"mixing_epochs=.*expected a number above 0"):
        TrainingProgress(mixing_epochs=0)


class Recorder(Callback):
    """Weights after every step, and those in the model during validation."""

    def __init__(self, name: str) -> None:
        self.name, self.steps, self.validated = name, [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append(pl_module.state_dict()[self.name].clone())

    def on_validation_batch_end(self, trainer, pl_module, *args, **kwargs):
        self.validated.append(pl_module.state_dict()[self.name].clone())


def test_average_is_evaluated_saved_and_left_in_the_model(make_trainer, make_data, tmp_path):
    name = "network.classifier.weight"
    recorder = Recorder(name)
    task = ClassificationTask(backbone=BACKBONE, num_classes=3, ema_decay=0.15)
    average = task.state_dict()[name].clone()
    trainer = make_trainer(max_epochs=2, callbacks=[recorder], num_sanity_val_steps=0)
    trainer.fit(task, datamodule=make_data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    trainer.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    averages = []
    for step, weights in enumerate(recorder.steps, start=1):
        decay = min(0.15, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weights
        averages.append(average)
    torch.testing.assert_close(recorder.validated[0], averages[1])
    torch.testing.assert_close(recorder.validated[-1], averages[3])
    torch.testing.assert_close(task.state_dict()[name], averages[3])
    for file in ("a.ckpt", "weights.ckpt"):
        loaded = ClassificationTask.load_from_checkpoint(tmp_path / file)
        torch.testing.assert_close(loaded.state_dict()[name], averages[3])
    raw = torch.load(tmp_path / "a.ckpt", weights_only=True)["ema"]["raw_state_dict"][name]
    torch.testing.assert_close(raw, recorder.steps[-1])


def test_average_follows_optimizer_steps_not_batches(make_trainer, make_data):
    task = ClassificationTask(backbone=BACKBONE)
    ema = EMA(0.9)
    make_trainer(max_epochs=2, callbacks=[ema], accumulate_grad_batches=2).fit(task, datamodule=make_data())
    assert ema.updates == 2


@pytest.mark.parametrize("decay", [0, 1, -0.5])
def test_ema_errors(decay):
    with pytest.raises(ValueError, match="ema_decay"):
        EMA(decay)


def test_table_shows_each_class(make_trainer, make_data):
    text = io.StringIO()
    table = ResultsTable(Console(file=text, width=100))
    task = SegmentationTask(backbone=BACKBONE, head="fcn")
    trainer = make_trainer(callbacks=[table], limit_val_batches=1)
    values = trainer.validate(task, datamodule=make_data("segmentation"), verbose=False)[0]
    shown = text.getvalue()
    assert f"{values['val/mIoU']:.4f}" in shown
    for index in range(3):
        assert f"class_{index}" in shown
    text.truncate(0)
    trainer.fit(task, datamodule=make_data("segmentation"))
    # once, at the end, not after each epoch
    assert text.getvalue().count("segmentation, val") == 1
