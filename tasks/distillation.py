"""Learning from a teacher as well: a trained, perhaps dynamic network whose logits the task's network shall have.

The loss grows by ``teacher_weight * T**2 * KL(teacher || student)`` of the softmax of logits over the temperature T
(Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531), of segmentation the mean
over labelled pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dyvision.arguments import check_number
from dyvision.tasks.base import BaseTask
from dyvision.tasks.teacher import Teacher, load_teacher
from dyvision.text import printable


class DistilledTask(BaseTask):
    """A task with logits per class, which can be learnt from a teacher.

    The teacher is no part of the module: neither its state dict nor its parameters have it. Checkpoints do not name its
    file for whoever loads them; a run that goes on is given it again.

    Args:
        teacher: Checkpoint of the same task that knows the same classes, whose logits training images are learnt from,
            too. It sees them normalised as in its own training; its classes are found by their names.
        teacher_weight: Weight of that loss beside the task's own.
        teacher_temperature: Divides the logits of both; above 1 the classes that are not the most probable count more.
    """

    _teacher: tuple[Teacher, ...] = ()

    def __init__(
        self,
        *args: Any,
        teacher: str | None = None,
        teacher_weight: float = 1.0,
        teacher_temperature: float = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)

    def initialize(self) -> None:
        """Check the teacher's arguments as well; its file is read when training begins."""
        super().initialize()
        check_number("teacher_weight", self.hparams.get("teacher_weight", 0.0), minimum=0, maximum=1000)
        check_number("teacher_temperature", self.hparams.get("teacher_temperature", 1.0), above=0, maximum=1000)

    @property
    def teacher_path(self) -> str | None:
        """File of the teacher; None if there is nothing to learn from one."""
        return self.hparams.get("teacher") if self.hparams.get("teacher_weight") else None

    def setup(self, stage: str) -> None:
        """Load the teacher for training.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no checkpoint of this task, or does not know its classes or channels.
        """
        super().setup(stage)
        if stage == "fit" and self.teacher_path is not None and not self._teacher:
            self._teacher = (load_teacher(self.teacher_path, self, getattr(self.trainer, "datamodule", None)),)

    def with_teacher(self, loss: Tensor, images: Tensor, logits: Tensor, counts: Tensor | None = None) -> Tensor:
        """Add what the teacher says about training images; without one the loss stays as it is.

        Args:
            loss: The task's own.
            images: ``[B, C, H, W]``.
            logits: The network's, ``[B, num_classes]`` or ``[B, num_classes, H, W]``.
            counts: Which pixels count, bool ``[B, H, W]``; all by default.
        """
        if not self._teacher:
            return loss
        (teacher,) = self._teacher
        taught = teacher(images)
        if taught.ndim == 4 and taught.shape != logits.shape:  # labels may be finer than images
            taught = F.interpolate(taught, logits.shape[-2:], mode="bilinear", align_corners=False)
        divergence = distillation_loss(logits, taught, self.hparams.teacher_temperature, counts)
        if self._trainer is not None:
            self.log("train/teacher_loss", divergence.detach(), batch_size=len(images))
        return loss + self.hparams.teacher_weight * divergence

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the teacher for a run that goes on, not among the hyperparameters."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["hyper_parameters"].pop("teacher", None)
        if self.teacher_path is not None:
            checkpoint["teacher"] = self.teacher_path

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on without the teacher of the run.

        Raises:
            ValueError: If there is none, with what to give.
        """
        super().on_load_checkpoint(checkpoint)
        trainer, before = getattr(self, "_trainer", None), checkpoint.get("teacher")
        going_on = trainer is not None and trainer.state.fn == "fit"
        if going_on and before and self.hparams.get("teacher") is None and self.hparams.get("teacher_weight"):
            raise ValueError(
                f"{self._loaded_from}: its run learns from the teacher {printable(str(before))}, which a checkpoint "
                "does not choose: give it again by --model.teacher FILE, or --model.teacher_weight 0 to go on without"
            )


def distillation_loss(logits: Tensor, taught: Tensor, temperature: float, counts: Tensor | None = None) -> Tensor:
    """Kullback-Leibler divergence of the student's softmax from the teacher's, times the square of the temperature.

    Args:
        logits: The student's, ``[B, num_classes, ...]``.
        taught: The teacher's, of the same shape, without gradient.
        temperature: Divides both.
        counts: Which positions count, bool ``[B, ...]``; all by default.

    Returns:
        The mean over what counts, 0 if nothing does.
    """
    student = F.log_softmax(logits.float() / temperature, 1)
    teacher = F.log_softmax(taught.float() / temperature, 1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
    weights = torch.ones_like(divergence) if counts is None else counts.to(divergence)
    mean: Tensor = (divergence * weights).sum() / weights.sum().clamp(min=1)
    return mean * temperature**2
