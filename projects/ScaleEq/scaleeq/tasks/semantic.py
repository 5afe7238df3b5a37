"""Semantic segmentation as a task: logits of classes, the losses of MODEL.LOSS, mean IoU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from scaleeq.geometry import Geometry
from scaleeq.ops import Argmax, resize, resized_argmax
from scaleeq.records import Record, RecordView

from .base import Losses, Task
from .losses.options import LossOptions
from .losses.segmentation import SegmentationLoss
from .metric import Metric
from .registry import register

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from scaleeq.engine import DatasetEvaluator

_SHARE = Metric(unit="%", highest=100.0)
GATE_LOSS_WEIGHT = 0.4  # of a supervised gate's own prediction, as an auxiliary head's


@register
class SemanticTask(Task):
    """A class for each pixel.

    Args:
        num_classes: of the logits.
        loss: default plain cross entropy; its ignore value is the label of pixels that have none.
        absent: the policy for classes that are in no truth, as in TEST.ABSENT_CLASSES.
        boundary: whether also metrics near boundaries are computed.
        validation_loss: whether also the cross entropy is, as a group of results of its own.
    """

    name = target_key = "sem_seg"
    dtype = torch.int64
    averages = "logits"
    metrics = dict.fromkeys(("mIoU", "fwIoU", "mACC", "pACC"), _SHARE)
    headline = "mIoU"
    requires_all = True

    def __init__(
        self,
        *,
        num_classes: int,
        loss: SegmentationLoss | None = None,
        absent: str = "exclude",
        boundary: bool = False,
        validation_loss: bool = False,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"NUM_CLASSES is {num_classes}; a head needs at least one class")
        self.channels = num_classes
        self.loss: nn.Module = SegmentationLoss() if loss is None else loss
        self.geometry = Geometry(padding=self.ignore_value, labels=True)
        self.gate_loss = gate_loss(self.loss)  # type: ignore[arg-type]
        self.absent = absent
        self.boundary = boundary
        self.validation_loss = validation_loss

    @classmethod
    def from_config(cls, cfg: CfgNode) -> SemanticTask:
        """The task of MODEL.SEM_SEG_HEAD, with MODEL.LOSS, scored as TEST says.

        ValueError: a value of these keys that cannot be meant.
        """
        from scaleeq.choices import one_of
        from scaleeq.evaluation import ABSENT_POLICIES

        head, test = cfg.MODEL.SEM_SEG_HEAD, cfg.TEST
        one_of(test.ABSENT_CLASSES, ABSENT_POLICIES, key="TEST.ABSENT_CLASSES")
        options = LossOptions.from_config(cfg)
        return cls(
            num_classes=head.NUM_CLASSES,
            loss=SegmentationLoss(
                ignore_value=head.IGNORE_VALUE,
                weight=head.LOSS_WEIGHT,
                options=options,
                in_strips=cfg.MODEL.FUSION.EVALUATE != "plain",
            ),
            absent=test.ABSENT_CLASSES,
            boundary=test.BOUNDARY,
            validation_loss=test.VALIDATION_LOSS,
        )

    @property
    def ignore_value(self) -> int:
        """The label of pixels without one."""
        return self.loss.ignore_value  # type: ignore[return-value]

    def read(self, record: Record, image: np.ndarray) -> np.ndarray | None:
        """(H, W) uint8; None without labels. ValueError, naming the file, for labels outside the classes."""
        from scaleeq.data.targets import Labels

        return Labels(num_classes=self.channels, ignore_label=self.ignore_value).read(record)

    def targets(
        self,
        batched_inputs: Sequence[RecordView],
        size: Sequence[int],
        device: torch.device,
        *,
        partial: bool = False,
    ) -> torch.Tensor:
        """(N, H, W) labels of the size, of int64; partial: void where a sample has none."""
        found = super().targets(batched_inputs, size, device, partial=partial)
        if found is None:
            shape = (len(batched_inputs), *size)
            found = torch.full(shape, self.ignore_value, dtype=self.dtype, device=device)
        return found

    def losses(self, prediction: torch.Tensor, targets: torch.Tensor, mean_count: torch.Tensor | None = None) -> Losses:
        """prediction: (N, K, h, w); targets: (N, H, W) labels -> {"loss_sem_seg": ()}."""
        return {"loss_sem_seg": self.loss(prediction, targets, mean_count)}

    def gate_losses(self, gate_logits: Mapping[str, torch.Tensor], targets: torch.Tensor) -> Losses:
        """name -> (N, K, h, w); targets: (N, H, W) -> "loss_gate_<name>" -> ()."""
        return {f"loss_gate_{name}": self.gate_loss(logits, targets) for name, logits in gate_logits.items()}

    def finish_labels(
        self,
        prediction: torch.Tensor,
        padded_size: Sequence[int],
        image_sizes: Sequence[Sequence[int]],
        sizes: Sequence[Sequence[int]],
    ) -> list[Argmax]:
        """Bit for bit the labels of `finish`, through both resizes a class at a time."""
        results = []
        for each, own, size in zip(prediction.float(), image_sizes, sizes, strict=True):

            def resized(
                maps: torch.Tensor, own: Sequence[int] = own, size: tuple[int, int] = (size[0], size[1])
            ) -> torch.Tensor:
                unpadded = resize(maps[None], (padded_size[0], padded_size[1]))[..., : own[0], : own[1]]
                return F.interpolate(unpadded, size=size, mode="bilinear", align_corners=False)[0]

            results.append(resized_argmax(each, resized))
        return results

    def count(self, target: torch.Tensor) -> torch.Tensor:
        """target: (..., H, W) labels -> (), float64."""
        return self.loss.pixel_count(target)  # type: ignore[operator]

    @property
    def counts_padding(self) -> bool:
        return self.loss.options.average_over == "all"  # type: ignore[union-attr]

    def evaluators(self, dataset_name: str, *, distributed: bool = True) -> list[DatasetEvaluator]:
        """Metrics from a confusion matrix and those of the data set's family; with validation_loss, that too."""
        from scaleeq.data.reading import has_labels, read_labels
        from scaleeq.engine import DatasetCatalog
        from scaleeq.evaluation import SemSegEvaluator, ValidationLossEvaluator, dataset_parts

        if not any(map(has_labels, DatasetCatalog.get(dataset_name))):
            return []
        parts = dataset_parts(dataset_name, absent=self.absent, boundary=self.boundary)
        found: list[DatasetEvaluator] = [
            # Samples of another loader, such as Detectron2's, have no truth with them.
            SemSegEvaluator(
                dataset_name, absent=self.absent, parts=parts, distributed=distributed, read_labels=read_labels
            )
        ]
        if self.validation_loss:
            found.append(ValidationLossEvaluator(dataset_name, distributed=distributed))
        return found


def gate_loss(loss: SegmentationLoss) -> SegmentationLoss:
    """What the predictions of supervised gates are trained with, beside that loss of the logits themselves."""
    return SegmentationLoss(
        ignore_value=loss.ignore_value,
        weight=GATE_LOSS_WEIGHT,
        options=loss.options.without_ohem(),
        in_strips=loss.in_strips,
    )
