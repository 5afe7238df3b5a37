"""Average precision of boxes and masks, by pycocotools itself: what it evaluates is gathered here, nothing is computed.

Every process encodes the masks of its images as run lengths; the main one gives all to COCOeval, in the order of the
images' ids, so that neither the number of processes nor the order of the images changes a digit. Deviation from
Detectron2's evaluator: without any prediction the AP is 0 (there NaN); without any object in the truth it is NaN.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scaleeq.engine import DatasetEvaluator, comm
from scaleeq.extras import require
from scaleeq.records import Json

from .parts import ModelOutput, Sample

if TYPE_CHECKING:
    from pycocotools.coco import COCO

logger = logging.getLogger(__name__)

STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # the first six of COCOeval's twelve, in percent
GROUPS = {"bbox": "bbox", "segm": "segm"}  # group of results -> pycocotools' word
Detection = Json


class CocoEvaluator(DatasetEvaluator):
    """AP over the images of all processes; images without a truth are left out."""

    def __init__(
        self, dataset_name: str, *, classes: Sequence[str], masks: bool = False, distributed: bool = True
    ) -> None:
        """
        dataset_name: for messages. classes: their names. masks: also the AP of masks.
        distributed: merge what all processes have seen.
        """
        require("pycocotools", why="AP is computed by pycocotools. ")
        self.dataset_name = dataset_name
        self.classes = list(classes)
        self.groups = ["bbox", "segm"] if masks else ["bbox"]
        self.distributed = distributed
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._images: dict[object, Json] = {}

    def process(self, inputs: Sequence[Sample], outputs: Sequence[ModelOutput]) -> None:
        """Keep a batch.

        inputs: samples with "image_id", "height", "width" and "instances_truth": objects with COCO's annotations.
        outputs: "instances": "boxes" (N, 4), left, top, right, bottom in pixels of the result, "scores" and "labels"
        (N,), "masks" (N, H, W) bool; or Detectron2's Instances.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            truth = sample.get("instances_truth")
            if truth is None:
                continue
            if sample["image_id"] in self._images:
                raise ValueError(f"{self.dataset_name}: two images have the id {sample['image_id']}; give each its own")
            size = (int(sample["height"]), int(sample["width"]))
            self._images[sample["image_id"]] = {
                "size": size,
                "truth": [_encoded_truth(annotation, size) for annotation in truth.annotations],
                "found": self._detections(plain_instances(output["instances"]), str(sample["file_name"])),
            }

    def _detections(self, found: dict[str, torch.Tensor], source: str) -> list[Detection]:
        boxes = found["boxes"].double().numpy()
        if not (np.isfinite(boxes).all() and torch.isfinite(found["scores"]).all()):
            raise FloatingPointError(
                f"the boxes or scores of {source} are not finite. Look at the image and the weights"
            )
        boxes[:, 2:] -= boxes[:, :2]
        columns = [boxes.tolist(), found["scores"].tolist(), found["labels"].tolist()]
        detections = [
            {"bbox": box, "score": score, "category_id": label} for box, score, label in zip(*columns, strict=True)
        ]
        if "segm" in self.groups:
            for detection, mask in zip(detections, encode_masks(found["masks"].numpy()), strict=True):
                detection["segmentation"] = mask
        return detections

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """{"bbox": metrics in percent, "segm": ...} of all processes' images; None on all processes but the first."""
        parts = comm.gather(self._images) if self.distributed else [self._images]
        if not parts:
            return None
        images = {key: image for part in parts for key, image in part.items()}
        ordered = [images[key] for key in sorted(images, key=lambda key: (isinstance(key, str), key))]
        truth = coco_truth(ordered, self.classes)
        results: OrderedDict[str, dict[str, float]] = OrderedDict()
        for group in self.groups:
            results[group] = average_precision(truth, ordered, group, self.classes)
        logger.info("%s, %d images\n%s", self.dataset_name, len(ordered), table(results))
        return results


def plain_instances(instances: Any) -> dict[str, torch.Tensor]:
    """ "boxes", "scores", "labels" and perhaps "masks" on the CPU: of such a dict, or of Detectron2's Instances."""
    if not isinstance(instances, dict):
        fields = instances.get_fields()
        names = {"pred_boxes": "boxes", "scores": "scores", "pred_classes": "labels", "pred_masks": "masks"}
        instances = {new: getattr(fields[old], "tensor", fields[old]) for old, new in names.items() if old in fields}
    return {name: value.detach().cpu() for name, value in instances.items()}


def encode_masks(masks: np.ndarray) -> list[Json]:
    """masks: (N, H, W) bool -> COCO's run lengths of each."""
    from pycocotools import mask as coco_mask

    if not len(masks):
        return []
    return coco_mask.encode(np.asfortranarray(np.moveaxis(masks.astype(np.uint8), 0, 2)))


def _encoded_truth(annotation: Detection, size: tuple[int, int]) -> Detection:
    """The annotation with its bitmap as run lengths, and with an area, that of its mask where it says none."""
    from pycocotools import mask as coco_mask

    found = dict(annotation)
    if isinstance(found.get("segmentation"), np.ndarray):
        found["segmentation"] = encode_masks(found["segmentation"][None])[0]
    if "area" not in found:
        mask = found["segmentation"]
        if isinstance(mask, list) or isinstance(mask["counts"], list):
            mask = coco_mask.frPyObjects(mask, *size)
        found["area"] = float(coco_mask.area(coco_mask.merge(mask) if isinstance(mask, list) else mask))
    return found


def coco_truth(images: Sequence[Json], classes: Sequence[str]) -> COCO:
    """pycocotools' COCO of the truth; images have the ids 0, 1, ... of their order, objects from 1 on."""
    annotations: list[Detection] = []  # an id of 0 would mean "no match"
    for number, image in enumerate(images):
        for annotation in image["truth"]:
            annotations.append({**annotation, "image_id": number, "id": len(annotations) + 1})
    categories = [{"id": label, "name": name} for label, name in enumerate(classes)]
    sizes = [{"id": number, "height": h, "width": w} for number, (h, w) in enumerate(image["size"] for image in images)]
    return _coco({"images": sizes, "annotations": annotations, "categories": categories})


def _coco(dataset: Json) -> COCO:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def average_precision(truth: COCO, images: Sequence[Json], group: str, classes: Sequence[str]) -> dict[str, float]:
    """STATS and "AP-<class>" in percent, NaN where the truth has no such object.

    truth: of coco_truth. images: with "found". group: of GROUPS.
    """
    from pycocotools.cocoeval import COCOeval

    found = [{**each, "image_id": number} for number, image in enumerate(images) for each in image["found"]]
    if group == "segm":  # with a box, pycocotools would take the box's area for the object's
        found = [{key: value for key, value in each.items() if key != "bbox"} for each in found]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _coco(copy.deepcopy(truth.dataset))  # COCOeval changes the masks in it
        predicted = truth.loadRes(found) if found else _coco({**truth.dataset, "annotations": []})
        evaluation = COCOeval(truth, predicted, GROUPS[group])
        if not images:
            return dict.fromkeys([*STATS, *(f"AP-{name}" for name in classes)], float("nan"))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    results = {name: _percent(value) for name, value in zip(STATS, evaluation.stats, strict=False)}
    precisions = evaluation.eval["precision"]  # (IoUs, recalls, classes, areas, numbers of detections)
    for label, name in enumerate(classes):
        known = precisions[:, :, label, 0, -1]
        known = known[known > -1]
        results[f"AP-{name}"] = _percent(np.mean(known) if known.size else -1)
    return results


def _percent(value: float) -> float:
    """pycocotools says -1 where there is nothing to measure."""
    return 100 * float(value) if value > -1 else float("nan")


def table(results: dict[str, dict[str, float]]) -> str:
    """A row each of bbox and segm, then each class's AP."""
    lines = [f"{'':6}" + "".join(f"{name:>8}" for name in STATS)]
    lines += [f"{group:6}" + "".join(f"{own[name]:8.3f}" for name in STATS) for group, own in results.items()]
    classes = [name for name in next(iter(results.values())) if name.startswith("AP-")]
    width = max((len(name) for name in classes), default=0)
    for name in classes:
        lines.append(f"{name:{width}}" + "".join(f"{own[name]:9.3f}" for own in results.values()))
    return "\n".join(lines)
