"""If these failed, some layer could not be trained in some task: every layer x {classification, segmentation}.

(Detection's part is in ``test_detection.py``.)
"""

from __future__ import annotations

import pytest
import torch

from dyvision.layers import list_layers
from dyvision.tasks import ClassificationTask, SegmentationTask

BACKBONE = "mobilenetv2_035"


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("kind", ["classification", "segmentation"])
@pytest.mark.parametrize("layer", list_layers())
def test_training_step_is_finite_and_reaches_every_parameter(layer, kind, precision, make_data, make_trainer):
    task_class = {"classification": ClassificationTask, "segmentation": SegmentationTask}[kind]
    extra = {"head": "fcn"} if kind == "segmentation" else {}
    torch.manual_seed(0)
    task = task_class(backbone=BACKBONE, layer=layer, lr=1e-3, **extra)
    data = make_data(kind, count=4, batch_size=3, size=(64, 49))
    trainer = make_trainer(max_steps=2, precision=precision)
    seen: dict[str, bool] = {}
    task.on_after_backward = lambda: seen.update({
        name: bool(torch.isfinite(parameter.grad).all()) if parameter.grad is not None else False
        for name, parameter in task.named_parameters()
    })  # fmt: skip
    trainer.fit(task, datamodule=data)
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    assert torch.isfinite(trainer.callback_metrics["val/loss"])
    assert seen
    assert [name for name, finite in seen.items() if not finite] == []
