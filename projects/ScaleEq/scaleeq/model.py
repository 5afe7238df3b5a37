"""Models: normalized images -> backbone -> decoder -> task -> a map for each pixel, without engine and config.

`Segmentation` is the bare model; `ScaleEqSegmentor` takes batches in Detectron2's format, and trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from scaleeq.geometry import OF_VIEW
from scaleeq.ops import resize
from scaleeq.ops.padding import Images, normalized, padded_size
from scaleeq.records import Record
from scaleeq.tasks import Task
from scaleeq.tasks.base import Losses
from scaleeq.tasks.head import SegmentationHead
from scaleeq.tasks.joint import TaskDecoders, joint_losses, joint_predictions
from scaleeq.tasks.weighting import weighted


class DenseModel(nn.Module):
    """A backbone, and a head of one task or decoders of several. Base of the two classes below.

    Args:
        backbone: images (N, 3, H, W) -> level -> (N, C, H / stride, W / stride).
        sem_seg_head: a decoder with its task; the name is that of checkpoints.
        decoders, tasks: instead of a head, where there are several tasks: features -> task -> map, and the tasks with
            their predictors.

    ValueError: neither a head nor decoders with tasks, or both.
    """

    def __init__(
        self,
        *,
        backbone: Any,
        sem_seg_head: SegmentationHead | None = None,
        decoders: TaskDecoders | None = None,
        tasks: Mapping[str, Task] | None = None,
    ):
        super().__init__()
        if (sem_seg_head is None) == (decoders is None or not tasks):
            raise ValueError("give either sem_seg_head, for one task, or decoders and tasks, for several")
        self.backbone = backbone
        if sem_seg_head is not None:
            self.sem_seg_head = sem_seg_head
        else:
            self.decoders = decoders
            self._modules["tasks"] = nn.ModuleDict(tasks)  # under the name of the property, which hands it out

    @property
    def is_joint(self) -> bool:
        """Whether it has several tasks."""
        return "tasks" in self._modules

    @property
    def parts(self) -> dict[str, Any]:
        """What it was built of: the arguments of this class."""
        names = ("backbone", "decoders", "tasks") if self.is_joint else ("backbone", "sem_seg_head")
        return {name: getattr(self, name) for name in names}

    @property
    def tasks(self) -> Mapping[str, Task]:
        """Name -> task: what training, inference and evaluation ask."""
        if self.is_joint:
            return self._modules["tasks"]  # type: ignore[return-value]
        task = self.sem_seg_head.task
        return {task.name: task}

    def logits(self, images: torch.Tensor) -> Any:
        """images: (N, 3, H, W), normalized -> (N, K, h, w) at the decoder's stride; of several tasks, task -> map."""
        features = self.backbone(images)
        if self.is_joint:
            return joint_predictions(self.decoders, self.tasks, features)  # type: ignore[arg-type]
        return self.sem_seg_head.logits(features)


class Segmentation(DenseModel):
    """Normalized images -> logits at their size, or the map of another dense task; of several tasks, a map for each."""

    @classmethod
    def of(cls, model: DenseModel) -> Segmentation:
        """What another model of the same parts predicts with; the parts are shared, not copied."""
        return cls(**model.parts)

    def forward(self, images: torch.Tensor) -> Any:
        """images: (N, 3, H, W), normalized -> (N, K, H, W); of several tasks, task -> (N, K, H, W)."""
        found, size = self.logits(images), (images.shape[-2], images.shape[-1])
        return {n: resize(x, size) for n, x in found.items()} if isinstance(found, dict) else resize(found, size)


LABELS_SUFFICE = "labels_suffice"  # in every sample of a batch: whoever reads the results reads labels alone


class ScaleEqSegmentor(DenseModel):
    """Semantic segmentation, or other dense tasks: normalises and pads the images, runs backbone and decoders, trains
    the auxiliary heads.

    Args:
        backbone, sem_seg_head, decoders, tasks: as DenseModel has them. In training the backbone may add "aux_logits",
            name -> (N, num_classes, h, w), which become losses "loss_aux_<name>"; heads do not see them.
        task_weights: task -> factor on its losses; 1 for those that it does not name.
        aux_heads: level -> head, in training only.
        aux_losses: name -> loss of these logits of the backbone.
        pixel_mean, pixel_std: per channel, in INPUT.FORMAT order, in units of the image (0..255).
    """

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    def __init__(
        self,
        *,
        backbone: Any,
        sem_seg_head: SegmentationHead | None = None,
        decoders: TaskDecoders | None = None,
        tasks: Mapping[str, Task] | None = None,
        task_weights: Mapping[str, float] | None = None,
        aux_heads: Mapping[str, nn.Module] | None = None,
        aux_losses: Mapping[str, nn.Module] | None = None,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
    ):
        super().__init__(backbone=backbone, sem_seg_head=sem_seg_head, decoders=decoders, tasks=tasks)
        self.task_weights = dict(task_weights or {})
        self.aux_heads = nn.ModuleDict(aux_heads or {})
        self.aux_losses = nn.ModuleDict(aux_losses or {})
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[Record]) -> Any:
        """One dict per image: "image" (3, H, W); in training the tasks' targets, as "sem_seg" (H, W); "height" and
        "width" of the result. Of several tasks, a sample may be without any target.

        Returns:
            In training, name -> loss, whose sum is the total; else, per image, {"sem_seg": logits (num_classes, height,
            width)}, or of other tasks their predictions. Where every sample has LABELS_SUFFICE, the logits' Argmax.
        """
        images = self.preprocess(batched_inputs)
        size = images.tensor.shape[-2:]
        # Training: losses of the padded batch.
        if self.training:
            targets = {
                name: task.targets(batched_inputs, size, self.device, partial=self.is_joint)
                for name, task in self.tasks.items()
            }
            return self.losses(self.backbone(images.tensor), targets)
        # Inference: maps at the sizes that are asked for.
        sizes = [
            (record.get("height", image_size[0]), record.get("width", image_size[1]))
            for record, image_size in zip(batched_inputs, images.image_sizes, strict=True)
        ]
        labels_suffice = all(record.get(LABELS_SUFFICE) for record in batched_inputs)
        finished: dict[str, Sequence[Any]] = {}
        for name, prediction in self._inference_predictions(images.tensor).items():
            task, labels = self.tasks[name], None
            if labels_suffice:
                labels = task.finish_labels(prediction, size, images.image_sizes, sizes)
            finished[name] = labels or task.finish(prediction, size, images.image_sizes, sizes)
            if task.geometry.zoom_power and not any(record.get(OF_VIEW) for record in batched_inputs):
                places = zip(finished[name], images.image_sizes, sizes, strict=True)
                finished[name] = [values * task.geometry.factor(own, shown) for values, own, shown in places]
        return [dict(zip(finished, each, strict=True)) for each in zip(*finished.values(), strict=True)]

    def preprocess(self, batched_inputs: list[Record]) -> Images:
        """The images of a batch, normalised, and padded with zeros at the right and the bottom to one size."""
        images = [record["image"] for record in batched_inputs]
        return normalized(images, self.pixel_mean, self.pixel_std, self.backbone)

    def _inference_predictions(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Task -> its map, by the head's compiled path, where it has one."""
        if self.is_joint:
            return self.logits(images)
        head = self.sem_seg_head
        return {head.task.name: getattr(head, "inference_logits", head.logits)(self.backbone(images))}

    def losses(self, features: Mapping[str, Any], targets: Mapping[str, torch.Tensor | None]) -> Losses:
        """features: the backbone's; targets: task -> as it makes them -> name -> loss, the auxiliary ones named after
        their level.
        """
        features = dict(features)
        aux_logits = features.pop("aux_logits", {})
        if self.is_joint:
            losses = joint_losses(self.decoders, self.tasks, features, targets)  # type: ignore[arg-type]
            of_classes = "sem_seg"
        else:
            (of_classes,) = self.tasks
            losses = {of_classes: self.sem_seg_head(features, targets[of_classes])[1]}
        # The auxiliary ones are of the classes.
        for name, loss in self.aux_losses.items():
            losses[of_classes][f"loss_aux_{name}"] = loss(aux_logits[name], targets[of_classes])
        for level, head in self.aux_heads.items():
            _, auxiliary = head(features, targets[of_classes])
            losses[of_classes] |= {f"{name}_aux_{level}": loss for name, loss in auxiliary.items()}
        return weighted(losses, self.tasks, self.task_weights) if self.is_joint else losses[of_classes]

    def counts(self, batched_inputs: list[Record]) -> dict[str, float]:
        """Task -> what the mean over elements of this batch's loss divides by; counted where the targets are, without
        padding.
        """
        return {name: self._count(task, batched_inputs) for name, task in self.tasks.items()}

    def _count(self, task: Task, batched_inputs: list[Record]) -> float:
        if not task.counts_padding:  # then void pixels have no part in it, and the padding is void
            maps = (record.get(task.target_key) for record in batched_inputs)
            return sum(float(task.count(target)) for target in maps if target is not None)
        sizes = [record["image"].shape[-2:] for record in batched_inputs]
        height, width = padded_size(sizes, self.backbone.size_divisibility, self.backbone.padding_constraints)
        return float(len(batched_inputs) * height * width)

    def calibration_inputs(self, batched_inputs: list[Record]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images (N, 3, H, W), and the share (N, 2) of height and width of each that is not padding (None: all)."""
        images = self.preprocess(batched_inputs)
        return images.tensor, images.shares
