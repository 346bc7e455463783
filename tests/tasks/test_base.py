"""If these failed, a checkpoint would need its config, a resumed run would differ, or a wrong setting go unnoticed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from dyvision.backbones import create_model
from dyvision.layers import list_layers
from dyvision.tasks import ClassificationTask, SegmentationTask

BACKBONE = "mobilenetv2_035"


def test_classes_come_from_the_data_and_stay_in_the_checkpoint(make_data, make_trainer, tmp_path):
    task = ClassificationTask(backbone=BACKBONE)
    assert task.network is None
    trainer = make_trainer(max_steps=1)
    trainer.fit(task, datamodule=make_data(num_classes=3))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert content["task"] == "classification"
    assert content["dyvision_version"]
    loaded = ClassificationTask.load_from_checkpoint(tmp_path / "a.ckpt")
    assert loaded.hparams.num_classes == 3
    assert loaded.hparams.class_names == ["class_0", "class_1", "class_2"]
    assert loaded.hparams.class_ids == [7, 8, 9]
    image = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded.eval()(image), task.eval()(image))


def test_checkpoint_does_not_need_the_files_training_started_from(make_data, make_trainer, tmp_path):
    first, second = tmp_path / "first.ckpt", tmp_path / "second.ckpt"
    trainer = make_trainer(max_steps=1)
    trainer.fit(ClassificationTask(backbone=BACKBONE), datamodule=make_data())
    trainer.save_checkpoint(first)
    trainer = make_trainer(max_steps=1)
    task = SegmentationTask(backbone=BACKBONE, head="fcn", backbone_weights=str(first))
    trainer.fit(task, datamodule=make_data("segmentation"))
    trainer.save_checkpoint(second)
    first.unlink()
    SegmentationTask.load_from_checkpoint(second)
    content = torch.load(second, weights_only=True)
    assert content["initialized_from"]["backbone_weights"] == str(first)


def test_backbone_weights_are_taken_over(make_data, make_trainer, tmp_path, caplog):
    caplog.set_level("INFO", logger="dyvision.tasks")
    classifier = ClassificationTask(backbone=BACKBONE, num_classes=3)
    trainer = make_trainer(max_steps=1)
    trainer.fit(classifier, datamodule=make_data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    weights = str(tmp_path / "a.ckpt")
    segmenter = SegmentationTask(backbone=BACKBONE, head="fcn", num_classes=2, backbone_weights=weights)
    name = "blocks.2.0.conv_pw.weight"
    trained = classifier.network.state_dict()
    torch.testing.assert_close(segmenter.network.backbone.body.state_dict()[name], trained[name])
    other = ClassificationTask(backbone=BACKBONE, num_classes=5, backbone_weights=weights)
    # the convolution behind the feature maps, too; not the classifier
    torch.testing.assert_close(other.network.state_dict()["conv_head.weight"], trained["conv_head.weight"])
    assert other.network.classifier.weight.shape[0] == 5
    told = [record.getMessage() for record in caplog.records if "taken over" in record.getMessage()]
    assert len(told) == 2  # once per network: how much, and that the classifier was not
    assert all("a.ckpt: " in line and "not used" in line for line in told) and "classifier.weight" in told[1]


@pytest.mark.parametrize("layer", list_layers())
def test_converted_network_is_rebuilt_without_its_pretrained_file(layer, make_data, make_trainer, tmp_path):
    """A conversion may initialise in another way; what it leaves behind must be in the weights."""
    weights = tmp_path / "static.pth"
    torch.save(create_model(BACKBONE, num_classes=3).state_dict(), weights)
    task = ClassificationTask(backbone=BACKBONE, layer=layer, pretrained=str(weights))
    trainer = make_trainer(max_steps=1)
    trainer.fit(task, datamodule=make_data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    weights.unlink()
    loaded = ClassificationTask.load_from_checkpoint(tmp_path / "a.ckpt")
    image = torch.rand(2, 3, 48, 32)
    torch.testing.assert_close(loaded.eval()(image), task.eval()(image))


@pytest.mark.parametrize("own", [2, 4])
def test_num_classes_that_disagrees_names_both(own, make_data, make_trainer):
    task = ClassificationTask(backbone=BACKBONE, num_classes=own)
    with pytest.raises(ValueError, match=rf"num_classes={own} .* SyntheticData has 3 classes"):
        make_trainer().fit(task, datamodule=make_data(num_classes=3))


def test_unknown_number_of_classes(make_data, make_trainer):
    data = make_data()
    with pytest.raises(ValueError, match="num_classes is not known"):
        make_trainer().fit(ClassificationTask(backbone=BACKBONE), data.train_dataloader())


def test_same_classes_in_another_order_are_refused(make_data, make_trainer):
    task = ClassificationTask(backbone=BACKBONE, num_classes=3, class_names=["class_1", "class_0", "class_2"])
    with pytest.raises(ValueError, match="another order"):
        make_trainer().validate(task, datamodule=make_data(), verbose=False)


def test_own_class_names_are_kept_with_a_warning(make_data, make_trainer):
    task = ClassificationTask(backbone=BACKBONE, class_names=["a", "b", "c"])
    with pytest.warns(UserWarning, match="class_names differs"):
        make_trainer().validate(task, datamodule=make_data(), verbose=False)
    assert task.hparams.class_names == ["a", "b", "c"]


@pytest.mark.parametrize("task_class", [ClassificationTask, SegmentationTask])
@pytest.mark.parametrize("names", [["a", "b", "c"], ["class_0", "class_1", "new"]])
def test_data_of_other_classes_is_not_evaluated(task_class, names, make_data, make_trainer, tmp_path):
    """Neither disjoint nor partly other ones, from a checkpoint given to the trainer or to the task."""
    head = {"head": "fcn"} if task_class is SegmentationTask else {}
    trainer = make_trainer(max_steps=1)
    trainer.fit(task_class(backbone=BACKBONE, **head), datamodule=make_data(task_class.task))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    data = make_data(task_class.task)
    data.class_names = names
    task = task_class.load_from_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"trained on other classes .* --model.class_names null .*backbone_weights"):
        make_trainer().validate(task, datamodule=data, verbose=False)
    task = task_class(**task.hparams)
    with pytest.raises(ValueError, match=r"a.ckpt: it was trained on other classes"):
        make_trainer().test(task, datamodule=data, ckpt_path=tmp_path / "a.ckpt", weights_only=True, verbose=False)
    task = task_class.load_from_checkpoint(tmp_path / "a.ckpt", class_names=None)  # the user says so
    make_trainer().validate(task, datamodule=data, verbose=False)
    assert task.hparams.class_names == names
    data.class_names = ["class_1", "class_0", "class_2"]
    task = task_class.load_from_checkpoint(tmp_path / "a.ckpt", class_names=None)
    with pytest.raises(ValueError, match="another order"):
        make_trainer().validate(task, datamodule=data, verbose=False)


def test_own_class_names_stay_those_of_the_data_s_classes(make_data, make_trainer, tmp_path, recwarn):
    """Who calls the classes of his data otherwise can evaluate on that data, and on no other."""
    trainer = make_trainer(max_steps=1)
    trainer.fit(ClassificationTask(backbone=BACKBONE, class_names=["a", "b", "c"]), datamodule=make_data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    recwarn.clear()
    task = ClassificationTask.load_from_checkpoint(tmp_path / "a.ckpt")
    make_trainer().validate(task, datamodule=make_data(), verbose=False)
    assert task.hparams.class_names == ["a", "b", "c"]
    assert not [warning for warning in recwarn if "class_names" in str(warning.message)]
    data = make_data()
    data.class_names = ["x", "y", "z"]
    with pytest.raises(ValueError, match="trained on other classes"):
        make_trainer().validate(task, datamodule=data, verbose=False)


def test_a_checkpoint_of_another_task_names_the_class_that_reads_it(make_data, make_trainer, tmp_path):
    trainer = make_trainer(max_steps=1)
    trainer.fit(SegmentationTask(backbone=BACKBONE, head="fcn"), datamodule=make_data("segmentation"))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"a.ckpt: of task 'segmentation', .* use SegmentationTask.load_from_check"):
        ClassificationTask.load_from_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"this is 'classification'.* SegmentationTask.load_from_checkpoint"):
        task = ClassificationTask(backbone=BACKBONE)
        make_trainer().validate(task, datamodule=make_data(), ckpt_path=tmp_path / "a.ckpt", verbose=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": "sttic"}, "static"),
        ({"optimizer": "adamww"}, "adamw"),
        ({"optimizer": {"name": "sgd", "momentun": 0.9}}, "momentum"),
        ({"lr_schedule": "cosin"}, "cosine"),
        ({"lr": -1.0}, "lr=-1.0"),
        ({"label_smoothing": 1.5}, "label_smoothing=1.5"),
        ({"ema_decay": 1.5}, "ema_decay=1.5"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"policy": lambda name: True}, "policy"),
        ({"anneal_temperature": {"strat": 3}}, "start"),
    ],
)
def test_wrong_arguments_name_the_argument_or_the_nearest_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClassificationTask(**{"backbone": BACKBONE, "num_classes": 3, **arguments})


def test_checkpoint_of_another_architecture_names_the_difference(make_data, make_trainer, tmp_path):
    trainer = make_trainer(max_steps=1)
    trainer.fit(ClassificationTask(backbone=BACKBONE), datamodule=make_data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    other = ClassificationTask(backbone="mobilenetv2_050")
    with pytest.raises(ValueError, match="made with backbone='mobilenetv2_035' and not 'mobilenetv2_050'"):
        make_trainer().validate(other, datamodule=make_data(), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    segmenter = SegmentationTask(backbone=BACKBONE, head="fcn")
    with pytest.raises(ValueError, match="it is one of task 'classification', this is 'segmentation'"):
        make_trainer().validate(segmenter, datamodule=make_data("segmentation"), ckpt_path=tmp_path / "a.ckpt")


def test_loss_that_is_not_finite_stops_with_step_and_files(make_data, make_trainer):
    data = make_data()
    data.train_set.images[5] = math.nan
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 1; .*image_4.png, image_5.png"):
        make_trainer().fit(ClassificationTask(backbone=BACKBONE), datamodule=data)


@pytest.mark.parametrize("stage", ["train", "val"])
def test_missing_key_names_it(stage):
    task = ClassificationTask(backbone=BACKBONE, num_classes=3)
    with pytest.raises(ValueError, match=r"needs \['label'\].*\['image', 'path'\]"):
        task._step({"image": torch.rand(2, 3, 32, 32), "path": ["a", "b"]}, stage)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_resumed_run_equals_the_unbroken_one(ema_decay, make_data, make_trainer, tmp_path):
    """Dropout, drop-path and mixup draw the same numbers; optimiser, schedule and average go on where they were."""

    def task() -> ClassificationTask:
        torch.manual_seed(0)
        return ClassificationTask(
            backbone=BACKBONE, drop_rate=0.3, drop_path_rate=0.1, mixup_alpha=0.2, cutmix_alpha=1.0, ema_decay=ema_decay
        )

    def weights(path: Path) -> dict:
        return torch.load(path, weights_only=True)

    options = {"max_epochs": 3, "enable_checkpointing": False}
    unbroken = make_trainer(**options)
    unbroken.fit(task(), datamodule=make_data())
    unbroken.save_checkpoint(tmp_path / "unbroken.ckpt")

    first = make_trainer(**options, callbacks=[StopAndSave(tmp_path / "half.ckpt", step=4)])
    first.fit(task(), datamodule=make_data())
    torch.manual_seed(123)
    resumed = make_trainer(**options)
    second = task()
    torch.manual_seed(456)
    resumed.fit(second, datamodule=make_data(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    resumed.save_checkpoint(tmp_path / "resumed.ckpt")

    expected, got = weights(tmp_path / "unbroken.ckpt"), weights(tmp_path / "resumed.ckpt")
    assert got["global_step"] == expected["global_step"] == 6
    for name, value in expected["state_dict"].items():
        torch.testing.assert_close(got["state_dict"][name], value, rtol=0, atol=0, msg=name)


class StopAndSave(Callback):
    """Comes before the callbacks that a task adds."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def test_works_behind_a_plain_lightning_cli(make_data, tmp_path):
    """LightningCLI hands over its own view of the hyperparameters; the checkpoint must not depend on it."""
    from lightning.pytorch.cli import LightningCLI

    cli = LightningCLI(
        ClassificationTask,
        make_data,
        run=False,
        args=[f"--model.backbone={BACKBONE}", "--model.optimizer=sgd", "--trainer.accelerator=cpu",
              f"--trainer.default_root_dir={tmp_path}", "--trainer.max_steps=1", "--trainer.logger=false",
              "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"],
        save_config_callback=None,
    )  # fmt: skip
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    cli.trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = ClassificationTask.load_from_checkpoint(tmp_path / "a.ckpt")
    assert loaded.hparams.optimizer == "sgd"
    assert "_instantiator" not in loaded.hparams
