"""What is said when a loss or an output is no number: where, for which files, and what the likely cause is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

#: Lightning's names of computing in float16, whose largest number is 65,504 and whose smallest steps vanish
_HALF = {
    "16-true": "float16 overflows above 65,504, and Adam's eps is 0 in it",
    "16-mixed": "float16 overflows above 65,504",
}
#: files that a message lists
_FILES = 8


def check_loss(loss: Tensor, batch: Mapping[str, Any], step: int, precision: str | None) -> None:
    """End training by a loss that is not finite.

    Args:
        loss: Of one batch, a scalar.
        batch: The batch; its ``path`` are the files.
        step: The optimiser's step.
        precision: Lightning's name of it, if there is a trainer.

    Raises:
        FloatingPointError: If it is NaN or infinite.
    """
    if loss.isfinite():
        return
    files = _listed(batch.get("path", ())) or "unknown (the batch has no 'path')"
    cause = _HALF.get(str(precision))
    advice = "lower lr, warm up longer, clip gradients (trainer.gradient_clip_val), or look at the files"
    if cause is not None:
        advice = (
            f"the likely cause is --trainer.precision={precision} ({cause}): give bf16-mixed or 32-true; otherwise "
            "lower lr or clip gradients"
        )
    raise FloatingPointError(f"the loss is {loss.item()} at step {step}; {advice}; files of this batch: {files}")


def check_outputs(task: Any, outputs: Tensor, files: Sequence[Any]) -> None:
    """Refuse to evaluate or to predict with outputs that are not finite: any class would be as good as another.

    Not within a training, whose loss is looked at, and which may get over it.

    Args:
        task: Whose network gave them.
        outputs: Logits.
        files: Of the batch.

    Raises:
        ValueError: If one is NaN or infinite, with the file of the weights.
    """
    trainer = task._trainer
    if (trainer is not None and trainer.state.fn == "fit") or bool(outputs.isfinite().all()):
        return
    cause = _HALF.get(str(None if trainer is None else trainer.precision))
    advice = f"--trainer.precision=32-true may help ({cause}); otherwise " if cause else ""
    raise ValueError(
        f"{task._loaded_from}: the network's outputs are not finite for {_listed(files) or 'a batch of images'}; "
        f"weights or statistics of norms let it overflow: {advice}use an earlier checkpoint"
    )


def _listed(files: Sequence[Any]) -> str:
    more = f" and {len(files) - _FILES} more" if len(files) > _FILES else ""
    return ", ".join(map(str, files[:_FILES])) + more
