"""AP of boxes and masks: the evaluator's numbers are pycocotools' own, to the bit, on real objects of COCO."""

from __future__ import annotations

import contextlib
import copy
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from scaleeq.data.coco_file import object_records
from scaleeq.data.instances import Instances, from_masks, read_objects
from scaleeq.evaluation.coco_ap import STATS, CocoEvaluator

HERE = Path(__file__).resolve()
ROOTS = [Path(os.environ.get("DETECTRON2_DATASETS", "datasets")), HERE.parents[3] / "shared" / "datasets"]
SAMPLE = next((root / "coco_instances_sample" for root in ROOTS if (root / "coco_instances_sample").is_dir()), None)
needs_sample = pytest.mark.skipif(SAMPLE is None, reason="no coco_instances_sample under DETECTRON2_DATASETS")


def sample_of(record) -> dict:
    shape = (record["height"], record["width"])
    truth = read_objects(record, shape)
    about = {"file_name": record["file_name"], "image_id": record["image_id"]}
    return {**about, "height": shape[0], "width": shape[1], "instances_truth": truth}


def predicted(objects: Instances, rng=None, num_classes: int = 80) -> dict[str, torch.Tensor]:
    """The objects themselves, with scores; or perturbed, in two copies, with a wrong class here and there."""
    boxes, labels = torch.from_numpy(objects.boxes).float(), torch.from_numpy(objects.labels)
    masks = [coco_mask.decode(coco_mask.merge(m)) if isinstance(m, list) else m for m in as_rle(objects)]
    masks = torch.from_numpy(np.array(masks, np.uint8).reshape(-1, *objects.shape)).bool()
    if rng is None:
        return {"boxes": boxes, "labels": labels, "scores": torch.ones(len(labels)), "masks": masks}
    boxes = boxes.repeat(2, 1) + torch.from_numpy(rng.normal(0, 6, (2 * len(boxes), 4))).float()
    labels = labels.repeat(2)
    wrong = torch.from_numpy(rng.random(len(labels)) < 0.2)
    labels = torch.where(wrong, (labels + 1) % num_classes, labels)
    masks = masks.repeat(2, 1, 1).roll((3, -4), (1, 2))
    scores = torch.from_numpy(np.round(rng.random(len(labels)), 1)).float()  # with ties
    return {"boxes": boxes, "labels": labels, "scores": scores, "masks": masks}


def as_rle(objects: Instances) -> list:
    return [
        coco_mask.frPyObjects([polygon.tolist() for polygon in mask], *objects.shape)
        if isinstance(mask, list)
        else mask
        for mask in objects.masks
    ]


def original(path: Path, outputs: dict[int, dict], kind: str) -> np.ndarray:
    """pycocotools alone: the official file, and a list of results with the official ids."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        ids, results = sorted(truth.getCatIds()), []
        for image_id, found in outputs.items():
            boxes = found["boxes"].double().numpy().copy()
            boxes[:, 2:] -= boxes[:, :2]
            for box, score, label, mask in zip(boxes, found["scores"], found["labels"], found["masks"], strict=True):
                one = {"image_id": image_id, "category_id": ids[int(label)], "score": float(score)}
                rle = coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
                results.append({**one, **({"bbox": box.tolist()} if kind == "bbox" else {"segmentation": rle})})
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * evaluation.stats[:6]


@needs_sample
def test_numbers_are_pycocotools_own_to_the_bit_in_any_order():
    path = SAMPLE / "annotations" / "instances_val2017.json"
    rng = np.random.default_rng(2)
    samples = [sample_of(record) for record in object_records(str(path), str(SAMPLE / "val2017"))]
    outputs = {sample["image_id"]: predicted(sample["instances_truth"], rng) for sample in samples}
    evaluator = CocoEvaluator("sample", classes=[str(n) for n in range(80)], masks=True, distributed=False)
    for order in (samples, samples[::-1]):
        evaluator.reset()
        evaluator.process(order, [{"instances": outputs[sample["image_id"]]} for sample in order])
        results = evaluator.evaluate()
        for group in ("bbox", "segm"):
            assert [results[group][name] for name in STATS] == original(path, outputs, group).tolist()
            assert 0 < results[group]["AP"] < 100


@needs_sample
def test_perfect_is_100_although_a_crowd_is_not_found():
    path = SAMPLE / "annotations" / "instances_val2017.json"
    samples = [sample_of(record) for record in object_records(str(path), str(SAMPLE / "val2017"))]
    assert sum(int(sample["instances_truth"].crowd.sum()) for sample in samples) == 1
    evaluator = CocoEvaluator("sample", classes=[str(n) for n in range(80)], masks=True, distributed=False)
    for sample in samples:
        found = sample["instances_truth"].chosen(~sample["instances_truth"].crowd)
        evaluator.process([sample], [{"instances": predicted(found)}])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == results["segm"]["AP"] == pytest.approx(100)
    assert sum(value > 99.999 for name, value in results["bbox"].items() if name.startswith("AP-")) == 8


def square(top: int, left: int, side: int, shape=(40, 50), **more):
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return {"category_id": 0, "mask": mask, "bbox": (left, top, left + side, top + side), **more}


def scene(objects, image_id=1, shape=(40, 50)):
    truth = from_masks(objects, shape)
    return {"file_name": "a.png", "image_id": image_id, "height": 40, "width": 50, "instances_truth": truth}


NOTHING = {
    "boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0),
    "masks": torch.zeros(0, 40, 50, dtype=torch.bool),
}  # fmt: skip


def test_nothing_found_is_0_and_nothing_to_find_is_nan():
    evaluator = CocoEvaluator("toy", classes=["a", "b"], masks=True, distributed=False)
    evaluator.process([scene([square(3, 4, 10)])], [{"instances": NOTHING}])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == results["segm"]["AP50"] == results["bbox"]["AP-a"] == 0
    assert np.isnan(results["bbox"]["AP-b"])
    evaluator.reset()
    evaluator.process([scene([])], [{"instances": NOTHING}])
    assert np.isnan(evaluator.evaluate()["bbox"]["AP"])
    evaluator.reset()
    assert list(evaluator.evaluate()["segm"]) == [*STATS, "AP-a", "AP-b"]


def test_what_lies_in_a_crowd_is_neither_right_nor_wrong():
    truth = [square(2, 2, 12), square(18, 20, 20, iscrowd=1)]
    inside = from_masks([square(2, 2, 12), square(20, 22, 6), square(30, 30, 6)], (40, 50))
    evaluator = CocoEvaluator("toy", classes=["a"], masks=True, distributed=False)
    evaluator.process([scene(truth)], [{"instances": predicted(inside)}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


class Detectron2Instances:
    """As its fields are."""

    class Boxes:
        def __init__(self, tensor):
            self.tensor = tensor

    def __init__(self, found):
        self.found = found

    def get_fields(self):
        boxes, masks = self.Boxes(self.found["boxes"]), self.found["masks"]
        return {
            "pred_boxes": boxes,
            "scores": self.found["scores"],
            "pred_classes": self.found["labels"],
            "pred_masks": masks,
        }


def test_detectron2_instances_are_taken_and_repeated_ids_and_nan_refused():
    sample = scene([square(3, 4, 10)])
    found = predicted(sample["instances_truth"])
    evaluator = CocoEvaluator("toy", classes=["a"], masks=True, distributed=False)
    evaluator.process([sample], [{"instances": Detectron2Instances(found)}])
    assert evaluator.evaluate()["segm"]["AP"] == pytest.approx(100)
    with pytest.raises(ValueError, match="two images have the id 1"):
        evaluator.process([sample], [{"instances": found}])
    broken = copy.deepcopy(found)
    broken["boxes"][0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"a\.png are not finite"):
        evaluator.process([{**sample, "image_id": 2}], [{"instances": broken}])
