"""One of two processes that evaluate objects and train a detector together; run by test_detector_runs.py."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from scaleeq.data import SegmentationMapper
from scaleeq.engine import InferenceSampler, comm, leave_job
from scaleeq.evaluation.coco_ap import CocoEvaluator
from scaleeq.evaluation.panoptic import PanopticEvaluator
from scaleeq.tasks import InstancesTask
from scaleeq.training import Trainer
from tests.detection.tiny import first_scenes, tiny_config

CLASSES = ["back wall", "ground", "side wall", "sphere", "card"]


def perturbed(sample: dict, index: int) -> dict:
    rng = np.random.default_rng(index)
    objects = sample["instances_truth"]
    num = len(objects)
    ids, segments = sample["panoptic_truth"]
    found = {
        "boxes": torch.from_numpy(objects.boxes + rng.normal(0, 2, (num, 4))).float(),
        "labels": torch.from_numpy(objects.labels),
        "scores": torch.from_numpy(rng.random(num).round(1)).float(),
        "masks": torch.from_numpy(np.roll(np.array(objects.masks, bool), 1, 2)),
    }
    moved = np.roll(ids, 2, 1)
    return {"instances": found, "panoptic_seg": (moved, [s for s in segments if (moved == s["id"]).any()])}


def known(metrics: dict) -> dict:
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def evaluated(*, distributed: bool) -> list:
    mapper, scenes = SegmentationMapper(targets=[InstancesTask()]), first_scenes(6)
    evaluators = [
        CocoEvaluator("toy3d", classes=CLASSES[3:], masks=True, distributed=distributed),
        PanopticEvaluator("toy3d", classes=CLASSES, things=(3, 4), distributed=distributed),
    ]
    for index in InferenceSampler(len(scenes)) if distributed else range(len(scenes)):
        sample = mapper(scenes[index])
        for evaluator in evaluators:
            evaluator.process([sample], [perturbed(sample, index)])
    results = [evaluator.evaluate() for evaluator in evaluators]
    return [each and {group: known(metrics) for group, metrics in each.items()} for each in results]


def main(rank: int, folder: Path) -> None:
    result = {"alone": evaluated(distributed=False)}
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    result["together"] = evaluated(distributed=True)
    cfg = tiny_config(folder / "run", SOLVER__MAX_ITER=2, DATASETS__TEST=[])
    trainer = Trainer(cfg)
    trainer.resume_or_load()
    trainer.train()
    digest = hashlib.sha256()
    for _, parameter in sorted(trainer.step.plain_model.named_parameters()):
        digest.update(parameter.detach().numpy().tobytes())
    result["weights"] = digest.hexdigest()
    (folder / f"rank{rank}.json").write_text(json.dumps(result))
    leave_job(comm)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
