"""What is said when a loss or an output is no number: where, for which files, and what the likely cause is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

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
    if not _within_training(task) and not bool(outputs.isfinite().all()):
        raise _overflow(task, files)


@contextmanager
def checked_within(task: Any, modules: Iterable[nn.Module], files: Sequence[Any]) -> Iterator[None]:
    """Refuse, as :func:`check_outputs`, what modules compute while the block runs.

    For networks that decide by their numbers themselves: a detector drops boxes that are none, and finds nothing.

    Args:
        task: Whose network is called in the block.
        modules: Those of its modules by whose outputs it decides.
        files: Of the batch.

    Raises:
        ValueError: If a number that one of them returns is NaN or infinite, with the file of the weights.
    """
    if _within_training(task):
        yield
        return
    finite: list[Tensor] = []

    def look(module: nn.Module, args: Any, output: Any) -> None:
        finite.extend(one.isfinite().all() for one in _floats(output))

    handles = [module.register_forward_hook(look) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if finite and not bool(torch.stack(finite).all()):  # asked once: each answer waits for the device
        raise _overflow(task, files)


def _within_training(task: Any) -> bool:
    return task._trainer is not None and task._trainer.state.fn == "fit"


def _overflow(task: Any, files: Sequence[Any]) -> ValueError:
    cause = _HALF.get(str(None if task._trainer is None else task._trainer.precision))
    advice = f"--trainer.precision=32-true may help ({cause}); otherwise " if cause else ""
    return ValueError(
        f"{task._loaded_from}: the network's outputs are not finite for {_listed(files) or 'a batch of images'}; "
        f"weights or statistics of norms let it overflow: {advice}use an earlier checkpoint"
    )


def _floats(output: Any) -> Iterator[Tensor]:
    """Floating-point tensors in nested lists, tuples and dicts."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, (Mapping, list, tuple)):
        for one in output.values() if isinstance(output, Mapping) else output:
            yield from _floats(one)


def _listed(files: Sequence[Any]) -> str:
    more = f" and {len(files) - _FILES} more" if len(files) > _FILES else ""
    return ", ".join(map(str, files[:_FILES])) + more
