"""What a run of two tasks computes, in float64, as every rank sees it: python -m tests.training.two_tasks FOLDER

FOLDER gets rank<k>.pt. The batch is of four samples in any job; truths are void, or missing, in unlike shares: the last
two samples, which are the second process's, have no mean colour, and the third no label.
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
from scaleeq.engine import CfgNode, comm, default_argument_parser, run_job
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


class Incomplete:
    """A loader of samples without some of their truths; `first` is the slot of its first sample."""

    def __init__(self, loader: Any, first: int) -> None:
        self.loader = two_processes.VoidedLabels(loader, first)
        self.first = first

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in self.loader:
            for slot, sample in enumerate(batch, start=self.first):
                if slot >= 2:
                    del sample["mean_colour"]
                if slot == 2:
                    del sample["sem_seg"]
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
    folder = Path(args.opts[0])
    config = partial(tiny_config, folder / "run", **OPTIONS)
    found = two_processes.train(config(), make=Joint)
    comm.synchronize()
    found["scales"] = json.loads((folder / "run" / "scale_statistics.json").read_text())
    save(found, folder / f"rank{comm.get_rank()}.pt")


if __name__ == "__main__":
    run_job(main, default_argument_parser().parse_args())
