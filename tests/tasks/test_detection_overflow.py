"""If these fail, a detector whose numbers overflow finds nothing, and nobody is told."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dyvision.tasks import DetectionTask
from dyvision.tasks.heads.detection import list_detection_heads
from tests.tasks.test_detection import Scenes, make_batch, make_task, make_trainer

#: modules whose numbers decide, by what they are part of
PARTS = {
    "condinst": ("backbone.body", "backbone.fpn", "head.classification_head", "head.controller", "head.mask_branch"),
    "faster_rcnn": ("backbone.body", "backbone.fpn", "rpn.head", "roi_heads.box_head"),
    "fcos": ("backbone.body", "backbone.fpn", "head.classification_head", "head.regression_head"),
    "mask_rcnn": ("backbone.body", "rpn.head", "roi_heads.box_predictor", "roi_heads.mask_head"),
    "retinanet": ("backbone.body", "backbone.fpn", "head.classification_head", "head.regression_head"),
    "ssdlite": ("backbone.body", "backbone.extra", "head.classification_head", "head.regression_head"),
}


def overflow(module: nn.Module) -> None:
    """Weights and statistics that are finite themselves."""
    with torch.no_grad():
        for name, value in module.named_buffers():
            if name.endswith("running_var"):
                value.fill_(1e-30)
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.fill_(3e38)
            else:
                parameter.fill_(1.0)


def one_task(head: str) -> tuple[DetectionTask, Scenes]:
    data = Scenes([make_batch([(64, 64), (48, 64)])])
    task = make_task(head, num_classes=3, score_threshold=0.0)
    task._loaded_from = "runs/last.ckpt"
    return task, data


@pytest.mark.parametrize(("head", "part"), [(head, part) for head in PARTS for part in PARTS[head]])
def test_numbers_that_are_none_name_the_checkpoint(head, part, tmp_path) -> None:
    task, data = one_task(head)
    trainer = make_trainer(tmp_path)
    assert len(trainer.predict(task, data)[0]["path"]) == 2
    overflow(task._detector.model.get_submodule(part))
    line = r"runs/last\.ckpt: the network's outputs are not finite for images/1\.jpg, images/2\.jpg; weights or"
    with pytest.raises(ValueError, match=line):
        trainer.predict(task, data)
    for run in (trainer.validate, trainer.test):
        with pytest.raises(ValueError, match=line):
            run(task, data, verbose=False)
    assert not any(module._forward_hooks for module in task.modules())


def test_every_head_is_covered() -> None:
    assert sorted(PARTS) == list_detection_heads()


def test_a_training_may_get_over_it(tmp_path) -> None:
    class Starts(DetectionTask):
        def on_validation_start(self) -> None:
            overflow(self._detector.model.backbone)

        def training_step(self, batch, batch_idx):  # the loss would end it by itself
            return None

    task = make_task("fcos", num_classes=3)
    task.__class__ = Starts
    trainer = make_trainer(tmp_path, max_epochs=1, num_sanity_val_steps=0)
    trainer.fit(task, Scenes([make_batch([(64, 64)])]))
    assert float(trainer.callback_metrics["val/box_AP"]) == 0
