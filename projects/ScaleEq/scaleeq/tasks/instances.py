"""Objects as a task: boxes, and masks where the detector has them, in results "bbox" and "segm".

What predicts them and their losses is a detector's (detection/detector.py), not a predictor on a map; the rest, how the
truth is read, follows its image and is scored, is as with every task.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleeq.geometry import ObjectGeometry
from scaleeq.pictures import draw_objects
from scaleeq.records import Record

from .base import Task
from .metric import Metric
from .registry import register

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from scaleeq.engine import DatasetEvaluator

SMALL_PX = 640  # of an image's longer side
_AP = Metric(unit="%", highest=100.0)
APS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
PANOPTIC = ("PQ", "SQ", "RQ", "PQ_th", "SQ_th", "RQ_th", "PQ_st", "SQ_st", "RQ_st")


@register
class InstancesTask(Task):
    """Objects of K classes.

    Args:
        masks: whether the detector has masks.
        panoptic: whether the model merges them with a map of labels.
        shown: the data set whose classes a picture names.
        score: below it, an object is not drawn.
    """

    name = target_key = "instances"
    channels = 0
    geometry = ObjectGeometry()
    metrics = dict.fromkeys(APS, _AP)
    headline = "AP"

    def __init__(self, *, masks: bool = False, panoptic: bool = False, shown: str = "", score: float = 0.5) -> None:
        super().__init__()
        self.has_masks = masks
        self.has_panoptic = panoptic
        self.shown = shown
        self.score = score

    @classmethod
    def from_config(cls, cfg: CfgNode) -> InstancesTask:
        keys = cfg.MODEL.DETECTOR
        return cls(
            masks=keys.NAME == "mask_rcnn",
            panoptic=bool(keys.THING_LABELS),
            shown=next(iter((*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)), ""),
        )

    @property
    def scored(self) -> dict[str, Metric]:
        groups = {"bbox": APS, "segm": APS * self.has_masks, "panoptic_seg": PANOPTIC * self.has_panoptic}
        return {f"{group}/{name}": _AP for group, names in groups.items() for name in names}

    @property
    def headline_name(self) -> str:
        return "bbox/AP"

    def read(self, record: Record, image: np.ndarray) -> Any:
        """The record's objects (scaleeq.data.instances.Instances); None: nothing is known of them."""
        from scaleeq.data.instances import read_objects

        return read_objects(record, image.shape)

    def evaluators(self, dataset_name: str, *, distributed: bool = True) -> list[DatasetEvaluator]:
        """AP by pycocotools, and panoptic quality where the model has it; [] where no record has objects."""
        from scaleeq.data.instances import has_instances
        from scaleeq.engine import DatasetCatalog, MetadataCatalog
        from scaleeq.evaluation.coco_ap import CocoEvaluator
        from scaleeq.evaluation.panoptic import PanopticEvaluator

        if not any(has_instances(record) for record in DatasetCatalog.get(dataset_name)):
            return []
        classes = MetadataCatalog.get(dataset_name).thing_classes
        found: list[DatasetEvaluator] = [
            CocoEvaluator(dataset_name, classes=classes, masks=self.has_masks, distributed=distributed)
        ]
        if self.has_panoptic and (panoptic := PanopticEvaluator.of_dataset(dataset_name, distributed=distributed)):
            found.append(panoptic)
        return found

    def picture_on(self, image: np.ndarray, values: Any) -> np.ndarray:
        """The objects over the image: (H, W, 3) uint8, of a small image several times as large, so that names fit.

        image: (H, W, 3) uint8 in RGB. values: a prediction, with "boxes", "labels" and "scores", or a truth.
        """
        from scaleeq.engine import MetadataCatalog

        found = drawn(values)
        if "scores" in found:
            certain = found["scores"] >= self.score
            found = {name: each[certain] for name, each in found.items()}
        factor = -(-SMALL_PX // max(image.shape[:2]))
        found["boxes"] = found["boxes"] * factor
        image = image.repeat(factor, 0).repeat(factor, 1)
        if "masks" in found:
            found["masks"] = found["masks"].repeat(factor, 1).repeat(factor, 2)
        names = MetadataCatalog.get(self.shown).get("thing_classes") or ()
        return draw_objects(image, names=names, **found)


def drawn(values: Any) -> dict[str, np.ndarray]:
    """What a picture needs of a prediction or a truth, as arrays."""
    values = values if isinstance(values, Mapping) else values.sample()
    wanted = ("boxes", "labels", "scores", "masks")
    return {name: values[name].detach().float().cpu().numpy() for name in wanted if name in values}
