"""Semantic segmentation of Cityscapes-like data.

A batch has ``image`` float ``[B, C, H, W]`` (normalised) and ``mask`` int64 ``[B, H, W]`` with classes from 0, and
``ignore_index`` (255) where there is no label; ``mask_size`` (list of ``(H, W)``) where label maps are not of the
images' size; ``path`` and ``valid`` as described in ``docs/architecture.md``. Logged:
``train/loss``, ``val/loss`` (lower is better); ``val/mIoU``, ``val/pixel_accuracy`` and ``val/IoU/<class>`` (higher is
better), from one confusion matrix of the whole set; the same with ``test/``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from dyvision.arguments import check_number
from dyvision.backbones import create_backbone
from dyvision.tasks.classes import check_class_weights
from dyvision.tasks.components import check_arguments, choose, import_object, parse_component
from dyvision.tasks.distillation import DistilledTask
from dyvision.tasks.divergence import check_outputs
from dyvision.tasks.heads.segmentation import create_segmentation_head, default_output_stride, resolve_head
from dyvision.tasks.heads.segmentation.inference import Inference, resize_logits, segment
from dyvision.tasks.heads.segmentation.losses import OHEMLoss, SegmentationLoss
from dyvision.tasks.metrics.mean import WeightedMean
from dyvision.tasks.metrics.segmentation import SegmentationMetrics, check_labels

_LOSSES: dict[str, type[SegmentationLoss]] = {"cross_entropy": SegmentationLoss, "ohem": OHEMLoss}


class SegmentationNetwork(nn.Module):
    """A backbone, a head and, in training, an auxiliary head.

    Args:
        backbone: Network with timm's ``feature_info`` that returns a list of feature maps.
        head: Module from that list to logits.
        aux_head: A second one, used in training only.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, aux_head: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.aux_head = aux_head

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes, H, W]`` for images ``[B, C, H, W]`` of any size."""
        return resize_logits(self.head(self.backbone(images)), _size(images))

    def with_auxiliary(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of both heads at the size of the images."""
        features = self.backbone(images)
        size = _size(images)
        auxiliary = None if self.aux_head is None else resize_logits(self.aux_head(features), size)
        return resize_logits(self.head(features), size), auxiliary


class SegmentationTask(DistilledTask):
    """Trains and evaluates a segmentation network.

    Args:
        head: ``"deeplabv3"``, ``"fcn"``, ``"lraspp"``, the type of an mmseg decode head (``"UPerHead"``), or a dict
            with ``name``, ``type`` or ``class_path`` and arguments.
        aux_head: A second head used in training, on the last level but one; as ``head``, or None.
        aux_weight: Weight of its loss.
        output_stride: Reduction of the backbone's last level, 8, 16 or 32; None: 32 for heads that fuse all levels, 16
            for the others.
        ignore_index: Label of pixels that do not count.
        loss: ``"cross_entropy"``, ``"ohem"``, or a dict with arguments (``dyvision.tasks.heads.segmentation.losses``)
            or a ``class_path`` of a module called with logits ``[B, C, H, W]`` and the mask.
        class_weights: Weight of each class in the loss.
        inference: How images are evaluated: ``mode`` (``"whole"`` or ``"slide"``), ``crop_size`` and ``stride`` of the
            windows (height and width), ``flip`` (average with the mirror image); see
            ``dyvision.tasks.heads.segmentation.inference``.

    Raises:
        ValueError: For an unknown name or an argument out of range.
        ImportError: If the head is one of mmseg, which is not installed.
    """

    task: ClassVar[str] = "segmentation"
    monitor: ClassVar[str] = "val/mIoU"
    has_evaluation_loss: ClassVar[bool] = True

    def __init__(
        self,
        *args: Any,
        head: str | dict[str, Any] = "deeplabv3",
        aux_head: str | dict[str, Any] | None = None,
        aux_weight: float = 0.4,
        output_stride: int | None = None,
        ignore_index: int = 255,
        loss: str | dict[str, Any] = "cross_entropy",
        class_weights: list[float] | None = None,
        inference: dict[str, Any] | None = None,
        weight_decay: float = 0.01,
        lr_schedule: str | dict[str, Any] = "poly",
        warmup_steps: int | float = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, weight_decay=weight_decay, lr_schedule=lr_schedule, warmup_steps=warmup_steps, **kwargs)
        self.initialize()

    def check_arguments(self) -> None:
        """Check head, loss and inference before the data is read."""
        resolve_head(self.hparams.head)
        if self.hparams.aux_head is not None:
            resolve_head(self.hparams.aux_head, "aux_head")
        check_number("aux_weight", self.hparams.aux_weight, minimum=0, maximum=1000)
        if self.hparams.output_stride not in (None, 8, 16, 32):
            raise ValueError(f"output_stride={self.hparams.output_stride!r}: expected 8, 16, 32 or null")
        check_class_weights(self.hparams.class_weights, self.hparams.num_classes)
        self.inference = Inference.from_spec(self.hparams.inference)
        self.criterion = self._build_loss()

    def build_network(self, num_classes: int) -> SegmentationNetwork:
        """Backbone, head and auxiliary head."""
        options = self.hparams
        check_class_weights(options.class_weights, num_classes)
        if 0 <= options.ignore_index < num_classes:
            raise ValueError(f"ignore_index={options.ignore_index} is one of the {num_classes} classes")
        stride = options.output_stride or default_output_stride(options.head)
        backbone = create_backbone(output_stride=stride, **self.backbone_arguments())
        self.load_backbone(backbone)
        head = create_segmentation_head(options.head, backbone.feature_info, num_classes)
        aux_head = None
        if options.aux_head is not None:
            aux_head = create_segmentation_head(options.aux_head, backbone.feature_info, num_classes, auxiliary=True)
        return SegmentationNetwork(backbone, head, aux_head)

    def build_metric(self, num_classes: int) -> SegmentationMetrics:
        """One confusion matrix per evaluation."""
        return SegmentationMetrics(num_classes, self.hparams.class_names, self.hparams.ignore_index)

    @property
    def backbone_network(self) -> nn.Module:
        """The backbone, without heads."""
        return self._segmenter.backbone

    def backbone_parameters(self) -> Iterable[nn.Parameter]:
        """Parameters of the backbone."""
        return self.backbone_network.parameters()

    def _build_loss(self) -> nn.Module:
        component = parse_component(self.hparams.loss, "loss", types=False)
        if component.kind == "class_path":
            loss_class = import_object(component.name, "loss", nn.Module)
            check_arguments(loss_class, component.arguments, f"loss {component.name!r}")
            return loss_class(**component.arguments)
        loss_class = _LOSSES[choose(component.name, _LOSSES, "loss")]
        check_arguments(loss_class, component.arguments, f"loss {component.name!r}")
        shared = {"ignore_index": self.hparams.ignore_index, "class_weights": self.hparams.class_weights}
        return loss_class(**{**shared, **component.arguments})

    @property
    def _segmenter(self) -> SegmentationNetwork:
        return cast(SegmentationNetwork, self.built_network)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes, H, W]`` at the resolution of the images ``[B, C, H, W]``."""
        return self._segmenter(images)

    def _step(self, batch: Mapping[str, Any], stage: str) -> Tensor | None:
        self.require(batch, ("image", "mask"))
        if stage == "train":
            check_labels(batch["mask"], self.hparams.num_classes, self.hparams.ignore_index, batch.get("path", ()))
            return self._training_loss(batch["image"], batch["mask"])
        metric = cast(SegmentationMetrics, self.metrics[stage])
        mean = cast(WeightedMean, self.losses[stage])
        for index, logits in self._segment(batch):
            # labels may be finer than the image that the network saw; they are what counts
            own = "mask_size" if "mask_size" in batch else "size"
            height, width = _sizes(batch, own, index, batch["mask"][index].shape)
            mask = batch["mask"][index : index + 1, :height, :width]
            logits = resize_logits(logits, _size(mask))
            paths = batch["path"][index : index + 1] if "path" in batch else ()
            check_outputs(self, logits, paths)
            check_labels(mask, logits.shape[1], self.hparams.ignore_index, paths)
            loss, weight = self._evaluation_loss(logits, mask)
            mean.update(loss, weight)
            metric.update(logits.argmax(1), mask)
        return None

    def _training_loss(self, images: Tensor, mask: Tensor) -> Tensor:
        logits, auxiliary = self._segmenter.with_auxiliary(images)
        logits = resize_logits(logits, _size(mask))
        loss = self.with_teacher(self.criterion(logits, mask), images, logits, mask != self.hparams.ignore_index)
        if auxiliary is not None:
            loss = loss + self.hparams.aux_weight * self.criterion(resize_logits(auxiliary, _size(mask)), mask)
        return loss

    def _evaluation_loss(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and how much it counts, such that the mean over images is the mean over pixels."""
        if not isinstance(self.criterion, SegmentationLoss):
            return self.criterion(logits, mask), torch.ones((), device=logits.device)
        losses, weights = self.criterion.pixel_losses(logits, mask)
        total = weights.sum()
        return losses.sum() / total.clamp(min=torch.finfo(total.dtype).tiny), total

    def _segment(self, batch: Mapping[str, Any]) -> Iterable[tuple[int, Tensor]]:
        """Index and logits ``[1, num_classes, h, w]`` of every valid image, padding cut off."""
        images, count = batch["image"], len(batch["image"])
        valid = batch.get("valid", torch.ones(count, dtype=torch.bool))
        whole = tuple(images.shape[-2:])
        sizes = [_sizes(batch, "size", index, whole) for index in range(count)]
        if len(set(sizes)) == 1 and bool(valid.all()):
            cut = images[..., : sizes[0][0], : sizes[0][1]]
            logits = segment(self._segmenter, cut, self.inference)
            yield from ((index, logits[index : index + 1]) for index in range(count))
            return
        # padding of a batch with images of different sizes must not show in the result: one image at a time
        for index, (height, width) in enumerate(sizes):
            if valid[index]:
                yield index, segment(self._segmenter, images[index : index + 1, :, :height, :width], self.inference)

    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
        """Label maps in the size of the stored images.

        Returns:
            ``path`` (list of str) and ``label_maps`` (list of ``[H, W]``, classes from 0, uint8 for up to 256 classes,
            else int64) of the valid samples.
        """
        self.require(batch, ("image", "path"))
        result: dict[str, Any] = {"path": [], "label_maps": []}
        # a trainer keeps all predictions unless told otherwise: a byte per pixel is enough
        dtype = torch.uint8 if self.hparams.num_classes <= 256 else torch.int64
        for index, logits in self._segment(batch):
            size = _sizes(batch, "original_size", index, logits.shape[-2:])
            check_outputs(self, logits, batch["path"][index : index + 1])
            result["path"].append(batch["path"][index])
            result["label_maps"].append(resize_logits(logits, size)[0].argmax(0).to(dtype))
        return result


def _size(tensor: Tensor) -> tuple[int, int]:
    return tensor.shape[-2], tensor.shape[-1]


def _sizes(batch: Mapping[str, Any], key: str, index: int, default: Sequence[int]) -> tuple[int, int]:
    height, width = batch[key][index] if key in batch else default
    return int(height), int(width)
