"""Which further metrics a data set is scored with: its family's official ones, and those near boundaries."""

from __future__ import annotations

from scaleeq.engine import MetadataCatalog

from .ade20k import ADE20KScore
from .boundary import boundary_parts
from .cityscapes import InstanceIoU
from .parts import Part


def dataset_parts(dataset_name: str, *, absent: str = "exclude", boundary: bool = False) -> list[Part]:
    """The parts of a registered data set's SemSegEvaluator.

    absent: the policy for absent classes. boundary: also trimap mIoU, boundary F-score and boundary IoU.
    """
    metadata = MetadataCatalog.get(dataset_name)
    classes, family = metadata.stuff_classes, metadata.get("family", "")
    parts: list[Part] = []
    if family == "ade20k":
        parts.append(ADE20KScore())
    elif family == "cityscapes":
        parts.append(InstanceIoU(classes))
    if boundary:
        parts.extend(boundary_parts(len(classes), metadata.get("ignore_label", 255), absent))
    return parts
