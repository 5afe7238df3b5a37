"""What a tiny run computes, in float64, as every rank sees it: python -m tests.training.two_processes [options] FOLDER

FOLDER gets rank<k>.pt. With a third word, the weights in that file are evaluated instead of the run's own. The batch is
of four samples in any job, so two processes have two each; their labels are void in unlike shares.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scaleeq.data.sets.catalog import register_dataset
from scaleeq.data.sets.toy import CLASSES, COLORS
from scaleeq.engine import CfgNode, SafeCheckpointer, comm, default_argument_parser, run_job, seed_all_rng
from scaleeq.evaluation import SemSegEvaluator
from scaleeq.training import Trainer
from tests.training.tiny import first_scenes, tiny_config

BATCH, IGNORED = 4, 255
VOID_SHARES = (0.0, 0.25, 0.5, 1.0)  # of the rows of each sample's labels
ODD_TEST_SET, ODD = "odd_sem_seg_val", 5

OPTIONS: dict[str, Any] = {
    "MODEL__TIMM__NAME": "test_convnext",  # 0.2 million parameters, no batch norm
    "MODEL__SCALE_EQUALIZER__ENABLED": True,
    "MODEL__SCALE_EQUALIZER__NUM_IMAGES": 8,
    "SOLVER__IMS_PER_BATCH": BATCH,
    "SOLVER__OPTIMIZER": "SGD",
    "SOLVER__EMA_DECAY": 0.9,
    "SOLVER__CHECKPOINT_PERIOD": 2,
    "DATASETS__TEST": (ODD_TEST_SET,),
}
SYNCHRONIZED = {"MODEL__SEM_SEG_HEAD__NORM": "SyncBN", "MODEL__TIMM__NAME": "test_resnet"}  # batch norms everywhere
ACCUMULATED = {"MODEL__SEM_SEG_HEAD__NORM": "LN"}  # and, in two processes, SOLVER.ACCUMULATE 2


class VoidedLabels:
    """A loader whose samples have the first rows of their labels void; `first` is the slot of its first sample."""

    def __init__(self, loader: Any, first: int) -> None:
        self.loader = loader
        self.first = first

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in self.loader:
            yield [self._voided(sample, VOID_SHARES[self.first + i]) for i, sample in enumerate(batch)]

    def _voided(self, sample: dict, share: float) -> dict:
        labels = sample["sem_seg"].clone()
        labels[: round(share * len(labels))] = IGNORED
        return {**sample, "sem_seg": labels}


class Measured(Trainer):
    """Keeps the gradients of the first iteration and the losses of all."""

    def build_hooks(self) -> list:
        self.gradients: dict[str, Tensor] = {}
        self.losses: list[dict[str, float]] = []
        return super().build_hooks()

    def after_backward(self) -> None:
        super().after_backward()
        if self.iter == 0:
            named = self.step.plain_model.named_parameters()
            self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}

    def run_step(self) -> None:
        super().run_step()
        self.losses.append({name: value for name, (value, _) in self.storage.latest().items() if "loss" in name})

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        return super().build_model(cfg).double()

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, start_iteration: int = 0) -> Any:
        share = BATCH // comm.get_world_size()
        return VoidedLabels(super().build_train_loader(cfg, start_iteration), comm.get_rank() * share)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> SemSegEvaluator:
        return SemSegEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR)


def train(cfg: CfgNode, *, resume: bool = False, make: type[Measured] = Measured) -> dict[str, Any]:
    seed_all_rng(comm.get_rank())  # ranks start apart; the job makes their weights rank 0's
    trainer = make(cfg)
    trainer.resume_or_load(resume=resume)
    results = trainer.train()
    model = trainer.step.plain_model
    return {
        "gradients": trainer.gradients,
        "losses": trainer.losses,
        "model": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "ema": trainer.average.state_dict() if trainer.average else {},
        "results": results,
    }


def resumed(cfg: CfgNode, unbroken: Path) -> dict[str, Any]:
    """From the checkpoint of the second iteration to the end, in another folder."""
    folder = Path(cfg.OUTPUT_DIR)
    if comm.is_main_process():
        folder.mkdir(parents=True)
        shutil.copy(unbroken / "model_0000001.pth", folder)
        (folder / "last_checkpoint").write_text("model_0000001.pth")
    comm.synchronize()
    return train(cfg, resume=True)


def evaluate(cfg: CfgNode, weights: str) -> Any:
    model = Measured.build_model(cfg)
    SafeCheckpointer(model).load(weights, checkpointables=[])
    return Measured.test(cfg, model)


def main(args: argparse.Namespace) -> None:
    folder, *weights = map(Path, args.opts)
    register_dataset(ODD_TEST_SET, partial(first_scenes, ODD), classes=CLASSES, colors=COLORS)
    accumulated = {**ACCUMULATED, "SOLVER__ACCUMULATE": comm.get_world_size()}
    config = partial(tiny_config, **OPTIONS)
    unbroken = config(folder / "synchronized", **SYNCHRONIZED)
    found = {
        "synchronized": train(unbroken),
        "accumulated": train(config(folder / "accumulated", **accumulated)),
        "resumed": resumed(config(folder / "resumed", **SYNCHRONIZED), folder / "synchronized"),
    }
    final = folder / "synchronized" / "model_final.pth"
    found["evaluated"] = evaluate(config(folder / "evaluated", **SYNCHRONIZED), str((weights or [final])[0]))
    torch.save(found, folder / f"rank{comm.get_rank()}.pt")


if __name__ == "__main__":
    run_job(main, default_argument_parser().parse_args())
