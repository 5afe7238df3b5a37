"""One of two processes that load and evaluate together; run by test_sem_seg.py with the rank and a directory."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import torch.distributed as dist

from scaleeq.config import add_scaleeq_config
from scaleeq.data import build_test_loader, build_train_loader
from scaleeq.engine import comm, get_cfg, leave_job
from tests.evaluation.test_sem_seg import CLASSES, NAME, evaluator_with_parts, guesses


def first_batch(cfg) -> list[list]:
    """Names and sums of the first batch's samples."""
    batch = next(itertools.islice(build_train_loader(cfg), 1))
    return [[sample["file_name"], int(sample["image"].sum())] for sample in batch]


def main(rank: int, folder: Path) -> None:
    cfg = get_cfg()
    add_scaleeq_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = CLASSES
    cfg.DATASETS.TRAIN = ("toy_sem_seg_train",)
    cfg.INPUT.MIN_SIZE_TEST, cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH, cfg.SEED = 0, 0, 4, 1
    result = {"alone": first_batch(cfg)}
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    result["trained"] = first_batch(cfg)
    evaluator = evaluator_with_parts()
    result["tested"] = []
    for batch in build_test_loader(cfg, NAME):
        index = int(batch[0]["image_id"][-4:])
        evaluator.process(batch, [guesses(index)[1]])
        result["tested"].append(batch[0]["image_id"])
    result["metrics"] = evaluator.evaluate()
    (folder / f"rank{rank}.json").write_text(json.dumps(result))
    leave_job(comm)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
