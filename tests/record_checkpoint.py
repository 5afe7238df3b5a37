"""A small checkpoint that the trainer wrote, and its logits: python -m tests.record_checkpoint FOLDER writes both.

Recorded from a model whose constructors made its equalizers: UPerHead with an equalizer in every Fusion, calibrated,
implementation "reparametrize", two iterations of training. tests/test_model_records.py loads it and compares.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch

from scaleeq.engine import CfgNode
from scaleeq.training import Trainer

from .training.tiny import tiny_config

GOLDENS = Path(__file__).parent / "goldens"
CHECKPOINT, LOGITS = GOLDENS / "uper_equalized.pth", GOLDENS / "uper_equalized_logits.pt"
# MKL chooses its kernels by the processor: the logits of the same checkpoint and code, recorded on another one.
LOGITS_ELSEWHERE = GOLDENS / "uper_equalized_logits_2.pt"
OPTIONS = {
    "MODEL.TIMM.NAME": "tf_efficientnet_b0",
    "MODEL.TIMM.WIDTH_MULTIPLIER": 0.05,
    "MODEL.TIMM.DEPTH_MULTIPLIER": 0.1,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 4,
    "MODEL.SEM_SEG_HEAD.POOL_SCALES": [1, 2],
    "MODEL.AUX_HEAD.IN_FEATURES": [],
    "MODEL.AUX_HEAD.LOSS_WEIGHTS": [],
    "MODEL.FUSION.EVALUATE": "plain",  # logits to the bit; the other way is in tests/fusion/test_evaluate.py
    "MODEL.SCALE_EQUALIZER.ENABLED": True,
    "MODEL.SCALE_EQUALIZER.SCOPE": "all",
    "MODEL.SCALE_EQUALIZER.IMPLEMENTATION": "reparametrize",
    "SOLVER.MAX_ITER": 2,
    "SOLVER.OPTIMIZER": "SGD",  # a smaller file than of AdamW
    "TEST.EVAL_PERIOD": 0,
}


def config(folder: Path) -> CfgNode:
    return tiny_config(folder, **{key.replace(".", "__"): value for key, value in OPTIONS.items()})


@torch.no_grad()
def logits_of(model: torch.nn.Module) -> torch.Tensor:
    """(1, 8, h, w): of a fixed image."""
    image = torch.linspace(-2, 2, 3 * 64 * 96).reshape(1, 3, 64, 96).sin()
    return model.eval().logits(image)


def main() -> None:
    folder = Path(sys.argv[1])
    trainer = Trainer(config(folder))
    trainer.train()
    GOLDENS.mkdir(exist_ok=True)
    shutil.copy(folder / "model_final.pth", CHECKPOINT)
    torch.save(logits_of(trainer.model), LOGITS)


if __name__ == "__main__":
    main()
