"""Image classification.

A batch has ``image`` float ``[B, C, H, W]`` (normalised) and ``label`` int64 ``[B]``; ``path`` and ``valid`` as in
``docs/architecture.md``. Logged: ``train/loss``, ``val/loss`` (lower is better), ``val/top1`` and ``val/top5`` (higher
is better), over the whole set; the same with ``test/``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from dyvision.arguments import check_number
from dyvision.backbones import create_model
from dyvision.tasks.classes import check_class_weights
from dyvision.tasks.distillation import DistilledTask
from dyvision.tasks.divergence import check_outputs
from dyvision.tasks.metrics.accuracy import TopKAccuracy
from dyvision.tasks.metrics.mean import WeightedMean
from dyvision.tasks.transfer import load_classifier_weights


class ClassificationTask(DistilledTask):
    """Trains and evaluates a classifier.

    Args:
        label_smoothing: In [0, 1), in training only.
        class_weights: Weight of each class in the loss, in training and evaluation; the accuracies do not know them.
        mixup_alpha: Strength of mixup (arXiv 1710.09412); 0 is off, 0.2 is usual.
        cutmix_alpha: Strength of CutMix (arXiv 1905.04899); 0 is off, 1.0 is usual. With both, each batch gets one.
        mix_probability: Share of training batches that are mixed.
        drop_rate: Dropout before the classifier, in [0, 1).

    Raises:
        ValueError: For an unknown name or an argument out of range.
    """

    task: ClassVar[str] = "classification"
    monitor: ClassVar[str] = "val/top1"
    has_evaluation_loss: ClassVar[bool] = True
    class_weights: Tensor | None

    def __init__(
        self,
        *args: Any,
        label_smoothing: float = 0.0,
        class_weights: list[float] | None = None,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        mix_probability: float = 1.0,
        drop_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.initialize()

    def check_arguments(self) -> None:
        """Check the ranges of regularisation arguments before the data is read."""
        for name in ("label_smoothing", "drop_rate"):
            check_number(name, self.hparams[name], minimum=0, below=1)
        check_number("mix_probability", self.hparams.mix_probability, minimum=0, maximum=1)
        for name in ("mixup_alpha", "cutmix_alpha"):
            check_number(name, self.hparams[name], minimum=0, maximum=1000)
        check_class_weights(self.hparams.class_weights, self.hparams.num_classes)

    def build_network(self, num_classes: int) -> nn.Module:
        """The classifier."""
        arguments = {"drop_rate": self.hparams.drop_rate, **self.backbone_arguments()}
        network = create_model(num_classes=num_classes, **arguments)
        weights = self.hparams.class_weights
        check_class_weights(weights, num_classes)
        # not persistent: the weights are a hyperparameter already
        tensor = None if weights is None else torch.tensor(weights, dtype=torch.float32)
        self.register_buffer("class_weights", tensor, persistent=False)
        if self.hparams.backbone_weights is not None:
            load_classifier_weights(network, self.hparams.backbone_weights)
        alphas = {v2.MixUp: self.hparams.mixup_alpha, v2.CutMix: self.hparams.cutmix_alpha}
        self._mixers = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in alphas.items() if alpha > 0]
        return network

    def build_metric(self, num_classes: int) -> TopKAccuracy:
        """Top-1 and top-5 accuracy, and which classes were taken for which."""
        return TopKAccuracy(num_classes, class_names=self.hparams.class_names)

    @property
    def backbone_network(self) -> nn.Module:
        """The network; its classifier, the last linear layer, has no statistics that ``freeze_norm`` could keep."""
        return self.built_network

    def backbone_parameters(self) -> Iterable[nn.Parameter]:
        """Everything but the classifier."""
        network: Any = self.built_network
        classifier = network.get_classifier()
        heads = classifier if isinstance(classifier, (tuple, list)) else [classifier]
        last = {id(parameter) for head in heads for parameter in head.parameters()}
        return (parameter for parameter in network.parameters() if id(parameter) not in last)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes]`` for images ``[B, C, H, W]``."""
        return self.built_network(images)

    def _step(self, batch: Mapping[str, Any], stage: str) -> Tensor | None:
        self.require(batch, ("image", "label"))
        images, label = batch["image"], batch["label"]
        if stage == "train":
            images, target = self._mix(images, label)
            smoothing = self.hparams.label_smoothing
            logits = self(images).float()
            return self.with_teacher(self._loss(logits, target, smoothing), images, logits)
        valid = batch.get("valid", torch.ones_like(label, dtype=torch.bool)).to(label.device)
        logits, label = self(images).float()[valid], label[valid]
        check_outputs(self, logits, batch.get("path", ()))
        if len(label):
            weight = len(label) if self.class_weights is None else self.class_weights[label].sum()
            loss = self._loss(logits, label)
            cast(WeightedMean, self.losses[stage]).update(loss, weight)
            cast(TopKAccuracy, self.metrics[stage]).update(logits, label)
        return None

    def _loss(self, logits: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
        weights = self.class_weights
        # a GPU is waited for only where a class does not count at all
        if weights is not None and 0 in self.hparams.class_weights and target.ndim == 1 and not weights[target].any():
            return logits.sum() * 0.0  # the mean over no sample that counts would be NaN
        return F.cross_entropy(logits, target, weights, label_smoothing=smoothing)

    def _mix(self, images: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        # torch's generator throughout, whose state checkpoints keep
        if not self._mixers or torch.rand(()) >= self.hparams.mix_probability:
            return images, label
        mixer = self._mixers[int(torch.randint(len(self._mixers), ()))]
        return mixer(images, label)

    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
        """Class probabilities.

        Returns:
            ``path`` (list of str), ``probabilities`` float32 ``[N, num_classes]`` and ``label`` int64 ``[N]``, the most
            probable class, of the valid samples.
        """
        self.require(batch, ("image", "path"))
        valid = batch.get("valid", torch.ones(len(batch["image"]), dtype=torch.bool)).tolist()
        kept = [index for index, flag in enumerate(valid) if flag]
        probabilities = self(batch["image"]).float().softmax(1)[kept]
        check_outputs(self, probabilities, batch["path"])
        paths = [batch["path"][index] for index in kept]
        return {"path": paths, "probabilities": probabilities, "label": probabilities.argmax(1)}
