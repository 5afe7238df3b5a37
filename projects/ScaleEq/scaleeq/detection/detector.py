"""TorchvisionDetector: torchvision's detectors on a backbone with a pyramid, and other tasks beside them.

Batches are Detectron2's: dicts with "image" (3, H, W); what is trained on is "instances", a plain dict with "boxes"
(N, 4), "labels" (N,) from 0 on and for masks "masks" (N, H, W), or Detectron2's Instances. What comes out is a dict
with "instances", and with other tasks of MODEL.TASKS theirs; a map of labels and masks make "panoptic_seg".

The detector's heads compute in float32 also under autocast: of bfloat16, corners near 1000 px would be rounded to 4 px.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from scaleeq.ops import send
from scaleeq.ops.padding import Images, normalized
from scaleeq.records import Json, Output, Record, RecordView
from scaleeq.tasks import Task
from scaleeq.tasks.base import Losses
from scaleeq.tasks.joint import TaskDecoders, joint_losses, joint_predictions
from scaleeq.tasks.weighting import weighted

from .panoptic import MergeOptions, merge

INSTANCES, LABELS = "instances", "sem_seg"
MASK_THRESHOLD = 0.5  # of a mask's probability


class TorchvisionDetector(nn.Module):
    """backbone (with its pyramid) -> detector, and -> decoder -> task for each other task.

    In a checkpoint: backbone.*, detector.* (torchvision's names), decoders.<task>.*, tasks.<task>.*.

    Args:
        backbone: images (N, 3, H, W) -> level -> map, all of one width.
        detector: of torchvision_heads.make_detector.
        levels: those that the detector reads, finest first.
        tasks: name -> task; "instances" is one.
        decoders: of the other tasks: features -> task -> map.
        task_weights: task -> factor on its losses; 1 for those that it does not name.
        thing_labels: the label of each class of objects in the map of labels; with it there are panoptic segments.
        merge_options: how they are made.
        pixel_mean, pixel_std: per channel, in units of the image (0..255).
    """

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    def __init__(
        self,
        *,
        backbone: Any,
        detector: Any,
        levels: Sequence[str],
        tasks: Mapping[str, Task],
        decoders: TaskDecoders | None = None,
        task_weights: Mapping[str, float] | None = None,
        thing_labels: Sequence[int] = (),
        merge_options: MergeOptions | None = None,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
    ):
        super().__init__()
        self.backbone = backbone
        self.detector = detector
        self.levels = list(levels)
        self.decoders = decoders
        self._modules["tasks"] = nn.ModuleDict(tasks)  # under the name of the property, which hands it out
        self.task_weights = dict(task_weights or {})
        self.thing_labels = tuple(thing_labels)
        self.merge_options = merge_options or MergeOptions()
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def tasks(self) -> Mapping[str, Task]:
        """Name -> task: what training, inference and evaluation ask."""
        return self._modules["tasks"]  # type: ignore[return-value]

    @property
    def dense_tasks(self) -> dict[str, Task]:
        """The tasks that are maps."""
        return {name: task for name, task in self.tasks.items() if name != INSTANCES}

    def forward(self, batched_inputs: list[Record]) -> Any:
        """One dict per image, see above; "height" and "width" of the result.

        Returns:
            In training, name -> loss, whose sum is the total; else, per image, {"instances": {"boxes" (N, 4) in pixels
            of the result, "labels", "scores" (N,), with masks "masks" (N, height, width) bool}}, and what else there
            is.
        """
        images = self.preprocess(batched_inputs)
        features = self.backbone(images.tensor)
        if self.training:
            return self.losses(features, images, batched_inputs)
        sizes = [
            (int(record.get("height", image_size[0])), int(record.get("width", image_size[1])))
            for record, image_size in zip(batched_inputs, images.image_sizes, strict=True)
        ]
        # Objects, then maps, then both as segments.
        results: list[Output] = [{INSTANCES: found} for found in self.detections(features, images, sizes)]
        if self.decoders is not None:
            predictions = joint_predictions(self.decoders, self.dense_tasks, features)
            for name, prediction in predictions.items():
                padded_to, task = images.tensor.shape[-2:], self.tasks[name]
                finished = task.finish(prediction, padded_to, images.image_sizes, sizes)
                for result, own, size, values in zip(results, images.image_sizes, sizes, finished, strict=True):
                    result[name] = values * task.geometry.factor(own, size) if task.geometry.zoom_power else values
        if self.thing_labels:
            for result in results:
                result["panoptic_seg"] = self._panoptic(result)
        return results

    def preprocess(self, batched_inputs: list[Record]) -> Images:
        """The images of a batch, normalised, and padded with zeros at the right and the bottom to one size."""
        images = [record["image"] for record in batched_inputs]
        return normalized(images, self.pixel_mean, self.pixel_std, self.backbone)

    def detections(
        self,
        features: Mapping[str, torch.Tensor],
        images: Images,
        sizes: Sequence[tuple[int, int]],
    ) -> list[dict[str, torch.Tensor]]:
        """What the detector finds in each image, at the sizes (height, width)."""
        found = []
        for each in self._detect(features, images, None, sizes):
            real = each["labels"] > 0  # RetinaNet and FCOS have an output for background too
            own = {"boxes": each["boxes"], "labels": each["labels"] - 1, "scores": each["scores"]}
            if "masks" in each:
                own["masks"] = each["masks"][:, 0] >= MASK_THRESHOLD
            found.append({name: values[real] for name, values in own.items()})
        return found

    def losses(self, features: Mapping[str, torch.Tensor], images: Images, batched_inputs: list[Record]) -> Losses:
        """Name -> loss: torchvision's own names, and those of other tasks."""
        targets = [training_target(record, self.device) for record in batched_inputs]
        losses = {INSTANCES: dict(self._detect(features, images, targets))}
        if self.decoders is None:
            return losses[INSTANCES]
        size, dense = images.tensor.shape[-2:], self.dense_tasks
        maps = {name: task.targets(batched_inputs, size, self.device, partial=True) for name, task in dense.items()}
        losses |= joint_losses(self.decoders, dense, features, maps)
        return weighted(losses, self.tasks, self.task_weights)

    def _detect(
        self,
        features: Mapping[str, torch.Tensor],
        images: Images,
        targets: list[dict[str, torch.Tensor]] | None,
        sizes: Sequence[tuple[int, int]] = (),
    ) -> Any:
        """torchvision's forward from the features on: losses, or detections."""
        own = [
            image[:, :height, :width] for image, (height, width) in zip(images.tensor, images.image_sizes, strict=True)
        ]
        handed = self.detector.backbone
        with torch.autocast(self.device.type, enabled=False):
            handed.hand(
                images.tensor, images.image_sizes, {name: features[name].float() for name in self.levels}, sizes
            )
            try:
                return self.detector(own, targets)
            finally:
                handed.forget()

    def _panoptic(self, result: Output) -> tuple[torch.Tensor, list[Json]]:
        labels = result[LABELS].argmax(0)
        return merge(result[INSTANCES], labels, things=self.thing_labels, options=self.merge_options)

    def counts(self, batched_inputs: list[Record]) -> dict[str, float]:
        """Task -> what the mean over elements of this batch's loss divides by; of the maps alone: a detector's losses
        are means over what it samples in a micro-batch."""
        found = {}
        for name, task in self.dense_tasks.items():
            maps = (record.get(task.target_key) for record in batched_inputs)
            found[name] = sum(float(task.count(target)) for target in maps if target is not None)
        return found

    def logits(self, images: torch.Tensor) -> Any:
        """What runs all Fusions, for a calibration.

        images: (N, 3, H, W), normalized -> level -> map, or task -> map.
        """
        features = self.backbone(images)
        return features if self.decoders is None else joint_predictions(self.decoders, self.dense_tasks, features)

    def calibration_inputs(self, batched_inputs: list[Record]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images (N, 3, H, W), and the share (N, 2) of height and width of each that is not padding (None: all)."""
        images = self.preprocess(batched_inputs)
        return images.tensor, images.shares


def training_target(record: RecordView, device: torch.device) -> dict[str, torch.Tensor]:
    """torchvision's target of a sample: "boxes", "labels" from 1 on, perhaps "masks"; without crowds.

    ValueError, naming the file: it has no objects, not even an empty list of them.
    """
    instances = record.get(INSTANCES)
    if instances is None:
        raise ValueError(f"{record.get('file_name', 'a sample')} has no 'instances' to train on")
    if not isinstance(instances, Mapping):
        instances = of_detectron2(instances)
    found = {name: send(instances[name], device) for name in ("boxes", "labels", "masks") if name in instances}
    return {**found, "boxes": found["boxes"].float(), "labels": found["labels"].long() + 1}


def of_detectron2(instances: Any) -> dict[str, torch.Tensor]:
    """The plain dict of Detectron2's Instances: gt_boxes, gt_classes, and gt_masks as bitmaps or polygons."""
    fields = instances.get_fields()
    found = {"boxes": fields["gt_boxes"].tensor, "labels": fields["gt_classes"]}
    if "gt_masks" in fields:
        masks = fields["gt_masks"]
        if hasattr(masks, "polygons"):
            from scaleeq.data.preparation.coco_masks import decode

            bitmaps = [decode([p.tolist() for p in each], *instances.image_size) for each in masks.polygons]
            found["masks"] = torch.zeros(len(bitmaps), *instances.image_size, dtype=torch.uint8)
            for index, bitmap in enumerate(bitmaps):
                found["masks"][index] = torch.from_numpy(bitmap)
        else:
            found["masks"] = masks.tensor.to(torch.uint8)
    return found
