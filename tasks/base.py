"""What all tasks share: classes from the data, optimiser, checkpoints that rebuild themselves, one step, one log."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any, ClassVar, cast

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torchmetrics import Metric

from dyvision.backbones import Backbone, load_backbone_weights
from dyvision.backbones.registry import find_builder
from dyvision.layers import get_layer
from dyvision.layers.arguments import DoesNotFitError
from dyvision.tasks.arguments import TaskArguments, check_shared_arguments, plain_value
from dyvision.tasks.checkpoint import CheckpointMixin
from dyvision.tasks.classes import merge_classes
from dyvision.tasks.components import check_arguments
from dyvision.tasks.divergence import check_loss
from dyvision.tasks.freezing import freeze, freeze_norm, freeze_parameters
from dyvision.tasks.fused import check_steps_by_parameter, has_sparse_gradients, prepare
from dyvision.tasks.metrics.mean import WeightedMean
from dyvision.tasks.optim import build_optimizer, build_schedule, parameter_groups
from dyvision.tasks.training_length import schedule_length
from dyvision.tasks.transfer import tell_weights


class BaseTask(CheckpointMixin, TaskArguments, ABC):
    """Base of the tasks.

    A subclass declares the arguments of its own and those whose default it changes, and hands all others on::

        def __init__(self, *args: Any, width: int = 64, lr: float = 0.01, **kwargs: Any) -> None:
            super().__init__(*args, lr=lr, **kwargs)
            self.initialize()

    Its hyperparameters then are those of :class:`~dyvision.tasks.arguments.TaskArguments` and ``width``, on the command
    line, too. It implements ``build_network``, ``build_metric``, ``backbone_parameters``, ``_step`` and
    ``predict_step``. Everything is read from ``self.hparams``. A subclass may also name all arguments that it takes
    itself and hand none on.

    Raises:
        ValueError: For an unknown name or an argument out of range.
    """

    #: name of the task in configs and checkpoints
    task: ClassVar[str]
    #: the metric by which the best checkpoint is chosen; higher is better
    monitor: ClassVar[str]

    #: whether evaluation has a loss (``self.losses[stage]``), logged as ``val/loss`` and ``test/loss``
    has_evaluation_loss: ClassVar[bool] = False

    def initialize(self) -> None:
        """Check the hyperparameters and, when the number of classes is known, build the network."""
        given: dict[str, Any] = dict(self.hparams)
        # LightningCLI stores its own view of the arguments; checkpoints are to be independent of it
        given.pop("_instantiator", None)
        given = given["init_args"] if given.keys() == {"class_path", "init_args"} else given
        self.hparams.clear()
        self.hparams.update({name: plain_value(value, name) for name, value in given.items()})
        self.network: nn.Module | None = None
        check_shared_arguments(self.hparams)
        get_layer(self.hparams.layer)
        optimizer = build_optimizer(self.hparams, [{"params": [nn.Parameter(torch.zeros(1))]}])
        if self.hparams.get("optimizer_in_backward"):
            check_steps_by_parameter(optimizer)
        build_schedule(self.hparams, None, total_steps=100)
        self._wanted_callbacks()
        self.check_arguments()
        if self.hparams.num_classes is not None:
            self._build()

    @classmethod
    def check(cls, **arguments: Any) -> None:
        """Check arguments as the constructor does, and build nothing.

        Args:
            **arguments: Those of the constructor.

        Raises:
            ValueError: For an unknown name or an argument out of range.
        """
        hparams = type(cls.__name__, (cls,), {"_build": lambda task: None})(**arguments).hparams
        find_builder(hparams.backbone)
        if hparams.get("layer_kwargs"):  # a layer of no weight
            with suppress(DoesNotFitError):  # of these channels
                get_layer(hparams.layer)(64, 64, 3, padding=1, device="meta", **hparams.layer_kwargs)

    # What a task implements.

    def check_arguments(self) -> None:
        """Check the task's own arguments, before the number of classes is known; nothing by default."""

    @abstractmethod
    def build_network(self, num_classes: int) -> nn.Module:
        """The network with its head; assigned to ``self.network``."""

    @abstractmethod
    def build_metric(self, num_classes: int) -> Metric:
        """A metric whose ``compute()`` returns a dict; logged as ``val/<name>`` and ``test/<name>`` once per epoch."""

    @property
    @abstractmethod
    def backbone_network(self) -> nn.Module:
        """The module in which ``freeze`` finds stages, and ``freeze_backbone`` and ``freeze_norm`` BatchNorm."""

    @abstractmethod
    def backbone_parameters(self) -> Iterable[nn.Parameter]:
        """The parameters that ``backbone_lr_scale`` is meant for."""

    @abstractmethod
    def _step(self, batch: Mapping[str, Any], stage: str) -> Tensor | None:
        """One batch of ``"train"``, ``"val"`` or ``"test"``: the loss in training, metric updates in evaluation."""

    # Building.

    def backbone_arguments(self) -> dict[str, Any]:
        """Arguments for ``create_model`` and ``create_backbone`` that all tasks share."""
        names = ("layer", "layer_kwargs", "policy", "pretrained", "in_chans", "drop_path_rate")
        shared = {"name": self.hparams.backbone, **{name: self.hparams[name] for name in names}}
        return shared | (self.hparams.get("backbone_kwargs") or {})

    def load_backbone(self, backbone: Backbone) -> None:
        """Load ``backbone_weights`` into a new backbone, if given."""
        if self.hparams.backbone_weights is not None:
            report = load_backbone_weights(backbone, self.hparams.backbone_weights)
            tell_weights(self.hparams.backbone_weights, report.loaded, report.skipped)

    @property
    def built_network(self) -> nn.Module:
        """The network.

        Raises:
            RuntimeError: If it does not exist yet.
        """
        if self.network is None:
            raise RuntimeError("there is no network yet: give num_classes, or let a trainer take it from the data")
        return self.network

    def _build(self) -> None:
        num_classes = self.hparams.num_classes
        self.network = self.build_network(num_classes)
        if self.hparams.get("channels_last"):
            self.network.to(memory_format=torch.channels_last)  # convolutions pass it on from their weights
        if self.hparams.get("freeze_backbone"):
            freeze_parameters(self.backbone_network, self.backbone_parameters())
        if self.hparams.get("freeze"):
            freeze(self.backbone_network, self.hparams["freeze"])
        self.train(self.training)
        self._build_metrics(num_classes)

    def train(self, mode: bool = True) -> BaseTask:
        """Switch to training, except for what ``freeze_norm`` and ``freeze_backbone`` keep in evaluation."""
        super().train(mode)
        frozen = self.hparams.get("freeze_norm") or self.hparams.get("freeze_backbone")
        if mode and frozen and self.network is not None:
            freeze_norm(self.backbone_network)
        return self

    def _build_metrics(self, num_classes: int) -> None:
        self.metrics = nn.ModuleDict({stage: self.build_metric(num_classes) for stage in ("val", "test")})
        self.losses = nn.ModuleDict({stage: WeightedMean() for stage in ("val", "test")})

    def setup(self, stage: str) -> None:
        """Take the classes from the data, check them, and build the network if that had to wait for them.

        Raises:
            ValueError: If the data has another number of classes, or nobody knows the number.
        """
        self.compare_classes(stage)
        merged = merge_classes(self.hparams, getattr(self.trainer, "datamodule", None), compare=self._loaded is None)
        self.hparams.update(merged)
        if self.network is None:
            self._build()
        else:
            # a network built from num_classes may be older than the names of the classes
            self._build_metrics(merged["num_classes"])

    def configure_optimizers(self) -> Any:
        """The optimiser with its parameter groups, and a schedule that advances every step."""
        groups = parameter_groups(self, list(self.backbone_parameters()), self.hparams)
        optimizer = build_optimizer(self.hparams, groups, has_sparse_gradients(self))
        self.total_steps = schedule_length(self.trainer, self._progress)
        schedule = build_schedule(self.hparams, optimizer, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_fit_start(self) -> None:
        """Look at the optimisers, whoever built them, before the state of a checkpoint comes into them.

        Raises:
            ValueError: If one of them cannot be used with the trainer's precision, or is another than the checkpoint's.
        """
        super().on_fit_start()
        for optimizer in self.trainer.optimizers:
            prepare(optimizer, self.trainer)

    def configure_callbacks(self) -> list[Callback]:
        """Schedules of layers and EMA, unless the trainer has its own."""
        present = self.trainer.callbacks  # type: ignore[attr-defined]
        return [
            callback
            for callback in self._wanted_callbacks()
            if not any(isinstance(other, type(callback)) for other in present)
        ]

    def _wanted_callbacks(self) -> list[Callback]:
        from dyvision.tasks.callbacks import EMA, OptimizerInBackward, TemperatureAnnealing, TrainingProgress

        wanted: list[Callback] = [TrainingProgress()]
        annealing = self.hparams.anneal_temperature
        arguments = annealing if isinstance(annealing, Mapping) else {}
        check_arguments(TemperatureAnnealing, arguments, "anneal_temperature")
        callback = TemperatureAnnealing(**arguments)  # its arguments are checked whatever the layer
        if annealing is not False and hasattr(get_layer(self.hparams.layer), "set_temperature"):
            wanted.append(callback)
        if self.hparams.get("optimizer_in_backward"):
            wanted.append(OptimizerInBackward())
        if self.hparams.ema_decay is not None:
            wanted.append(EMA(self.hparams.ema_decay))
        return wanted

    # Running.

    def require(self, batch: Mapping[str, Any], keys: Collection[str]) -> None:
        """Check that a batch has what is needed.

        Raises:
            ValueError: If not, with what is missing and what there is.
        """
        missing = [key for key in keys if key not in batch] if isinstance(batch, Mapping) else list(keys)
        if missing:
            found = sorted(batch) if isinstance(batch, Mapping) else type(batch).__name__
            raise ValueError(f"a batch for {self.task} needs {missing} besides what it has: {found}")

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """The loss; a value that is not finite ends training.

        Raises:
            FloatingPointError: If the loss is not finite, with the step and the files of the batch.
        """
        loss = self._step(batch, "train")
        if loss is None:
            raise TypeError(f"{type(self).__name__}._step returned no loss for a training batch")
        check_loss(loss, batch, self.global_step, None if self._trainer is None else self.trainer.precision)
        self.log("train/loss", loss.detach(), prog_bar=True, on_step=True, batch_size=len(batch["image"]))
        if self._trainer is not None and self.trainer.optimizers:
            # in the row of the loss; that of the group with the highest
            rate = max(group["lr"] for optimizer in self.trainer.optimizers for group in optimizer.param_groups)
            self.log("train/lr", rate, on_step=True, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Update the validation metrics."""
        self._step(batch, "val")

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Update the test metrics."""
        self._step(batch, "test")

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the whole validation set."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the whole test set."""
        self._log_metrics("test")

    def metric_names(self) -> list[str]:
        """Names of what evaluation logs, without ``val/`` or ``test/``; the network has to be built."""
        metric = cast(Metric, self.metrics["val"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there is nothing to compute yet; only the names count
            names = list(metric.compute())
        metric.reset()
        return [*names, "loss"] if self.has_evaluation_loss else names

    def _log_metrics(self, stage: str) -> None:
        # compute() sums over processes: every process has to call it, whatever it has seen
        metric, loss = cast(Metric, self.metrics[stage]), cast(Metric, self.losses[stage])
        values = dict(metric.compute())
        if self.has_evaluation_loss:
            values["loss"] = loss.compute()
        for name, value in values.items():
            self.log(f"{stage}/{name}", value, prog_bar=f"{stage}/{name}" == self.monitor)
        metric.reset()
        loss.reset()
