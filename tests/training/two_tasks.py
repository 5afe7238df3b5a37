"""What a run of two tasks computes, in float64, as every rank sees it: python -m tests.training.two_tasks FOLDER [four]

FOLDER gets rank<k>.pt. The batch is of four samples in any job; truths are void, or missing, in unlike shares: the last
two samples, which are the second process's, have no mean colour, and the third no label. With "four", four tasks that
take each other's first predictions train on toy 3-D scenes: no depth there, nor the third's label.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn, save

import tests.tasks.mean_colour  # noqa: F401  (registers the second task)
from scaleeq.data.sets import toy3d
from scaleeq.data.sets.catalog import register_dataset
from scaleeq.engine import CfgNode, DatasetCatalog, comm, default_argument_parser, run_job
from scaleeq.training import Trainer
from tests.training import two_processes
from tests.training.tiny import tiny_config

OPTIONS: dict[str, Any] = {
    **two_processes.OPTIONS,
    "MODEL__TASKS__NAMES": ["sem_seg", "mean_colour"],
    "MODEL__TASKS__WEIGHTING": "uncertainty",
    "MODEL__SEM_SEG_HEAD__NORM": "LN",
    "MODEL__SCALE_EQUALIZER__STATISTICS_PERIOD": 1,
    "DATASETS__TEST": ("tiny_sem_seg_val",),
    "SEED": 3,
}


FOUR: dict[str, Any] = {
    **OPTIONS,
    "MODEL__TASKS__NAMES": ["sem_seg", "depth", "normals", "edges"],
    "MODEL__TASKS__WEIGHTS": [1.0, 1.0, 10.0, 50.0],
    "MODEL__TASKS__WEIGHTING": "fixed",
    "MODEL__TASKS__INTERACTION": "pad_net",
    "MODEL__SEM_SEG_HEAD__NAME": "SemanticFPNHead",  # 8 Fusions in scope: more are calibrated together, batch by batch
    "MODEL__PYRAMID__CHANNELS": 8,
    "MODEL__AUX_HEAD__IN_FEATURES": [],
    "MODEL__AUX_HEAD__LOSS_WEIGHTS": [],
    "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 5,
    "MODEL__DEPTH__MEAN": 5.0,
    "DATASETS__TRAIN": ("toy3d_train",),
    "DATASETS__TEST": ("tiny3d_sem_seg_val",),
    "TEST__EDGES__MATCH": False,
}
LACKING = {"mean_colour": (2, 3), "depth": (2, 3), "sem_seg": (2,)}  # truth -> the slots that lack it


def first_3d_scenes() -> list[dict]:
    return DatasetCatalog.get("toy3d_val")[:5]


class Incomplete:
    """A loader of samples without some of their truths; `first` is the slot of its first sample."""

    def __init__(self, loader: Any, first: int) -> None:
        self.loader = two_processes.VoidedLabels(loader, first)
        self.first = first

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in self.loader:
            for slot, sample in enumerate(batch, start=self.first):
                for truth, slots in LACKING.items():
                    if slot in slots:
                        sample.pop(truth, None)
            yield batch


class Joint(two_processes.Measured):
    """In float64, with incomplete samples."""

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        return Trainer.build_model(cfg).double()

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, start_iteration: int = 0) -> Any:
        loader = Trainer.build_train_loader(cfg, start_iteration)
        return Incomplete(loader, comm.get_rank() * two_processes.BATCH // comm.get_world_size())

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> Any:
        return Trainer.build_evaluator(cfg, dataset_name)


def main(args: argparse.Namespace) -> None:
    folder, *words = map(Path, args.opts)
    register_dataset("tiny3d_sem_seg_val", first_3d_scenes, classes=toy3d.CLASSES, colors=toy3d.COLORS)
    config = partial(tiny_config, folder / "run", **(FOUR if words else OPTIONS))
    found = two_processes.train(config(), make=Joint)
    comm.synchronize()
    found["scales"] = json.loads((folder / "run" / "scale_statistics.json").read_text())
    save(found, folder / f"rank{comm.get_rank()}.pt")


if __name__ == "__main__":
    run_job(main, default_argument_parser().parse_args())
