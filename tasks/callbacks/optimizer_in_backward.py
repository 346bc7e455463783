"""Gradients that are applied and freed within the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import lightning as L
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from dyvision.tasks.fused import check_steps_by_parameter


class OptimizerInBackward(Callback):
    """Updates each parameter as soon as its gradient is complete, and frees the gradient.

    At no time is there more than one gradient, so training needs the memory of all parameters less (Lv et al. 2023,
    arXiv 2306.09782, section 3.1; torchtune's ``optimizer_in_bwd``). Updates, state and schedule are those of the
    optimiser that the task built, to the last bit; a checkpoint is the same with and without, so a run may go on
    either way.

    Limits: what looks at the gradients of all parameters or at several batches' gradients cannot be used and is refused
    (gradient clipping and accumulation, gradient scaling, several processes, optimisers that compute over all
    parameters). Callbacks that read gradients after the backward pass find none. An error in the middle of a backward
    pass leaves a part of the parameters updated.

    Raises:
        ValueError: When training begins, for an option that it does not go with.
    """

    def __init__(self) -> None:
        super().__init__()
        self._handles: list[RemovableHandle] = []
        self._done: set[int] = set()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse what it does not go with."""
        if stage == "fit":
            for found, instead in _obstacles(trainer, pl_module):
                raise ValueError(f"model.optimizer_in_backward=true does not go with {found}: {instead}")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Attach to the parameters of the optimisers."""
        self._detach()
        for optimizer in trainer.optimizers:
            check_steps_by_parameter(optimizer)
            for index, group in enumerate(optimizer.param_groups):
                apply = self._applying(optimizer, index)
                for parameter in group["params"]:
                    if parameter.requires_grad:
                        self._handles.append(parameter.register_post_accumulate_grad_hook(apply))

    def on_before_zero_grad(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """A new step begins."""
        self._done.clear()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Detach."""
        self._detach()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Detach."""
        self._detach()

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._done.clear()

    def _applying(self, optimizer: Optimizer, index: int) -> Callable[[Tensor], None]:
        def apply(parameter: Tensor) -> None:
            if id(parameter) in self._done:
                raise ValueError(
                    "model.optimizer_in_backward=true: a parameter got a second gradient in one step (two backward "
                    "passes, or checkpointing with use_reentrant=True); give false"
                )
            self._done.add(id(parameter))
            groups = optimizer.param_groups
            # one optimiser, not one for each parameter: its schedule, its state and its checkpoints stay as they are
            optimizer.param_groups = [{**groups[index], "params": [parameter]}]
            try:
                optimizer.step()
            finally:
                optimizer.param_groups = groups
            parameter.grad = None

        return apply


def _obstacles(trainer: L.Trainer, module: L.LightningModule) -> Iterator[tuple[str, str]]:
    """What there is that needs all gradients at once, or those of several batches, and what to do."""
    if trainer.world_size > 1 or not isinstance(trainer.strategy, SingleDeviceStrategy):
        name = type(trainer.strategy).__name__
        yield (
            f"several processes (trainer.devices, {name})",
            "gradients are averaged between them; give false or 1 device",
        )
    clip = trainer.gradient_clip_val
    if clip:
        yield f"trainer.gradient_clip_val={clip:g}", "the norm of all gradients is not known; leave one of both out"
    if type(module).configure_gradient_clipping is not L.LightningModule.configure_gradient_clipping:
        yield f"{type(module).__name__}.configure_gradient_clipping", "there are no gradients to clip; give false"
    accumulated = trainer.accumulate_grad_batches
    if accumulated != 1:
        yield (
            f"trainer.accumulate_grad_batches={accumulated}",
            "no gradient is kept; give 1 and a larger data.batch_size",
        )
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        yield "GradientAccumulationScheduler", "no gradient is kept; leave one of both out"
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        yield f"trainer.precision={trainer.precision}", "a step cannot be undone that overflows; give bf16-mixed"
    if not module.automatic_optimization:
        yield f"the manual optimisation of {type(module).__name__}", "it calls the optimiser itself; give false"
