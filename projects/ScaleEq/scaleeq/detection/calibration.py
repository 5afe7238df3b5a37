"""What of a detector its equalizers are measured on: the backbone with its pyramid, and a semantic head with Fusions.

Proposals, boxes and their losses need not run, so a batch needs no instances, and nothing is drawn at random. Padding
is left out of the statistics: Detectron2 pads the images of a batch with zeros to the largest of them, rounded up,
which changes a std by 11 to 14 % in batches of two sizes.

    calibrate(measured_part(detector), loader, num_images=200)
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from scaleeq.equalization.calibration import fusions_of
from scaleeq.ops.padding import normalized
from scaleeq.records import Record


class MeasuredPart(nn.Module):
    """The parts of a detector that have Fusions, under the names that they have there; it is Measurable.

    backbone: images -> level -> map. sem_seg_head: one of this project, alone or as PointRend's coarse head; None:
        there is none with Fusions.
    """

    def __init__(self, detector: Any):
        super().__init__()
        self.backbone = detector.backbone
        head = getattr(detector, "sem_seg_head", None)
        self.sem_seg_head = head if head is not None and fusions_of(head, equalized=False) else None
        self.__dict__["detector"] = detector  # not as a part: it is asked for its pixels alone

    def __deepcopy__(self, memo: dict[int, Any]) -> MeasuredPart:
        """A copy of the parts alone, with the detector's pixels."""
        twin = MeasuredPart.__new__(MeasuredPart)
        nn.Module.__init__(twin)
        twin.backbone, twin.sem_seg_head = (copy.deepcopy(part, memo) for part in (self.backbone, self.sem_seg_head))
        twin.__dict__["detector"] = self.__dict__["detector"]
        return twin

    def forward(self, images: torch.Tensor) -> object:
        """images: (N, 3, H, W), normalized -> the logits of the semantic head, or the levels."""
        return self.logits(images)

    def logits(self, images: torch.Tensor) -> object:
        """`forward`, by the name that a calibration calls."""
        levels = self.backbone(images)
        if self.sem_seg_head is None:
            return levels
        return getattr(self.sem_seg_head, "coarse_sem_seg_head", self.sem_seg_head).logits(
            levels
        )  # PointRend's has one

    def calibration_inputs(self, batch: list[Record]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """detection_calibration_inputs of the detector."""
        return detection_calibration_inputs(self.__dict__["detector"], batch)


def measured_part(detector: nn.Module) -> MeasuredPart:
    """What calibrate is given instead of a detector.

    ValueError: it has no backbone, or not the pixels' mean and std that Detectron2's models have.
    """
    lacking = [name for name in ("backbone", "pixel_mean", "pixel_std") if not hasattr(detector, name)]
    if lacking:
        raise ValueError(
            f"{type(detector).__name__} has no {', '.join(lacking)}; a detector with Detectron2's parts is needed, or "
            "call calibrate(detector.backbone, loader, inputs=...)"
        )
    return MeasuredPart(detector)


def detection_calibration_inputs(detector: Any, batch: list[Record]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """batch -> images (N, 3, H, W), normalized and padded as the detector does it, and the share (N, 2) of height and
    width of each that is not padding (None: all).
    """
    pixels = [record["image"] for record in batch]
    images = normalized(pixels, detector.pixel_mean, detector.pixel_std, detector.backbone)
    return images.tensor, images.shares


def refuse_endless(loader: Iterable[object], num_images: int) -> None:
    """ValueError: all images are asked for, MODEL.SCALE_EQUALIZER.NUM_IMAGES -1, of a loader that has no end."""
    if num_images >= 0:
        return
    try:
        len(loader)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError) as error:
        raise ValueError(
            "MODEL.SCALE_EQUALIZER.NUM_IMAGES is -1, the whole loader, but a detector's training loader has no end; "
            "give a number of images, or 0 (until each std is known to 1 %)"
        ) from error
