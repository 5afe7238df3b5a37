"""Trains the tiny run, or evaluates weights, under the engine of SCALEEQ_ENGINE; prints one line of JSON last."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from scaleeq import engine
from scaleeq.training import Trainer, evaluate_only
from tests.training.tiny import tiny_config


class Recording(Trainer):
    def build_hooks(self):
        self.losses = []
        return super().build_hooks()

    def run_step(self):
        super().run_step()
        self.losses.append({name: value for name, (value, _) in self.storage.latest().items() if "loss" in name})


def main(task: str, output_dir: Path, weights: str) -> dict:
    changes = {"MODEL__SCALE_EQUALIZER__ENABLED": True, "MODEL__WEIGHTS": weights}
    cfg = tiny_config(output_dir, **changes)
    if task == "evaluate":
        return {"engine": engine.NAME, "results": evaluate_only(cfg, Recording)}
    engine.seed_all_rng(0)
    trainer = Recording(cfg)
    results = trainer.train()
    names = {name: list(tensor.shape) for name, tensor in trainer.model.state_dict().items()}
    return {"engine": engine.NAME, "results": results, "losses": trainer.losses, "names": names}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])))
