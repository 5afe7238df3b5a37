"""Config values that a user may type, drawn at random for every key: what becomes of each, and whether that can be.

    python -m tests.training.fuzz_config --values 500 --seed 0

A value is refused in words that name its key, or it is taken. A value that is taken is tried: the model is built, one
step is done on a real batch, an image is predicted. The oracle knows no range: it asks whether what then happens is
what training is. Losses are positive and finite; the classifier learns, all weights stay finite; learning rates
and decays are what a descent can have; variances are positive; an image of grey levels has about the size of a
normalized one; logits are finite. Exit code: 0, or 1 where a value is neither.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scaleeq import console
from scaleeq.choices import flatten
from scaleeq.data import build_test_loader, build_train_loader
from scaleeq.engine import CfgNode, load_config
from scaleeq.training import Trainer
from scaleeq.training.on_meta import build_on_meta
from scaleeq.training.rehearsal import rehearse
from scaleeq.training.step import TrainingStep, autocast_dtype
from tests.training.tiny import BASE, OPTIONS, tiny_config

CODE = "__import__('os').getcwd()"
STRANGE: list[Any] = [
    None, True, False, "", " ", "none", "nan", "inf", CODE, "\n", "a" * 3000, [], [[]], {}, [None], [CODE], ["x", 1],
    0, 1, -1, 10**30, 0.0, -0.0, -1.5, 0.5, 1e-320, 1e300, math.nan, math.inf, -math.inf, [math.nan], [-1], [1.5],
    [0, 0], (), 2, "1e3", "cuda:99", ["res2", "res2"],
]  # fmt: skip
# A step that is tried: parameters, pixels of a side, images.
LARGEST_MODEL, LARGEST_SIDE, LARGEST_BATCH = 20_000_000, 300, 8


@dataclass
class Outcome:
    key: str
    value: Any
    kind: str  # "refused", "taken", "not tried" (too large), or a fault: "traceback", "unnamed", "meaningless"
    told: str = ""

    @property
    def is_fault(self) -> bool:
        return self.kind in ("traceback", "unnamed", "meaningless")


def draw(rng: random.Random, default: Any) -> Any:
    """A value: something strange, or something near the default, of its own type."""
    if rng.random() < 0.5:
        return rng.choice(STRANGE)
    if isinstance(default, bool):
        return rng.choice([True, False, "true", 2])
    if isinstance(default, (int, float)):
        factor = rng.choice([-1, 0, 0.1, 0.5, 2, 3, 1e4, 1e12])
        value = default * factor if default else rng.choice([-1, 1, 2, 1e9, 1e-9])
        return int(value) if isinstance(default, int) and abs(value) < 1e15 else float(value)
    if isinstance(default, str):
        return rng.choice([default.upper(), f"{default}x", default[:-1], "sum", "fpn", "bilinear", "/nowhere.pth"])
    if isinstance(default, (list, tuple)) and default:
        entries = [draw(rng, entry) if rng.random() < 0.3 else entry for entry in default]
        return rng.choice([entries, entries[:-1], entries + entries, [*entries, entries[0]], entries[0]])
    return rng.choice([[1], [0.5], ["res4"], [-2], [1, 2, 3], ["labels"], 0.5])


def try_value(key: str, value: Any, folder: Path) -> Outcome:
    """What becomes of a value of a key, in the tiny config."""
    words = [word for pair in {**OPTIONS, **TINIER, "OUTPUT_DIR": str(folder)}.items() for word in pair]
    try:
        cfg = load_config(BASE, [*words, key, value])
        rehearse(cfg)
    except Exception as error:
        told = console.mistake(error)
        kind = "traceback" if not told else "refused" if key in told else "unnamed"
        return Outcome(key, value, kind, told or f"{type(error).__name__}: {error}")
    try:
        reason = meaningless(cfg)
    except TooLarge as large:
        return Outcome(key, value, "not tried", str(large))
    except Exception as error:
        return Outcome(key, value, "meaningless", f"{type(error).__name__}: {error}")
    return Outcome(key, value, "meaningless" if reason else "taken", reason)


TINIER = {"MODEL.TIMM.NAME": "test_resnet", "INPUT.MIN_SIZE_TRAIN": (64,), "SOLVER.MAX_ITER": 50}


class TooLarge(Exception):
    """What fits no machine on which this is tried."""


def meaningless(cfg: CfgNode) -> str:
    """Why what a config does is no training; empty where it is."""
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.TIMM.PRETRAINED = False  # no network
    num_parameters = sum(parameter.numel() for parameter in build_on_meta(cfg).parameters())
    if num_parameters > LARGEST_MODEL or cfg.SOLVER.IMS_PER_BATCH > LARGEST_BATCH:
        raise TooLarge(f"{num_parameters} parameters, {cfg.SOLVER.IMS_PER_BATCH} images a step")
    sides = [*cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST, *cfg.INPUT.CROP.SIZE]
    if max(sides) > LARGEST_SIDE:
        raise TooLarge(f"{max(sides)} pixels")
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    optimizer = Trainer.build_optimizer(cfg, model)
    if reason := bad_rates(cfg, optimizer):
        return reason
    batch = next(iter(build_train_loader(cfg)))
    pixels = model.preprocess(batch).tensor
    if not 0.01 < float(pixels.std()) < 100:
        return f"normalized images have the standard deviation {float(pixels.std())}"
    return bad_step(cfg, model, optimizer, batch) or bad_prediction(cfg, model)


def bad_rates(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> str:
    """Learning rates and decays over the run that no descent can have."""
    scheduler = Trainer.build_lr_scheduler(cfg, optimizer)
    iterations = sorted({0, 1, 2, cfg.SOLVER.MAX_ITER // 2, cfg.SOLVER.MAX_ITER - 1})
    factors = [scheduler.lr_lambdas[0](iteration) for iteration in iterations]
    if not all(0 <= factor <= 1.0001 for factor in factors):
        return f"the learning rate is multiplied by {factors}"
    for group in optimizer.param_groups:
        rate, decay = group["initial_lr"], group["weight_decay"]
        if not (0 <= rate < 1e6 and decay >= 0 and rate * decay < 1):
            return f"a group has the learning rate {rate} and the weight decay {decay}"
    if not any(group["initial_lr"] > 0 for group in optimizer.param_groups) or not any(factors):
        return "nothing is learned"
    return ""


def bad_step(cfg: CfgNode, model: Any, optimizer: Any, batch: list[dict]) -> str:
    micro = len(batch) // cfg.SOLVER.ACCUMULATE
    dtype = autocast_dtype(cfg)
    step = TrainingStep(model.train(), optimizer, micro_batch=micro, dtype=None if dtype == torch.float16 else dtype)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"]
    losses, _ = step.backward(batch, 0)
    values = {name: float(loss) for name, loss in losses.items()}
    weights = list(cfg.MODEL.AUX_HEAD.LOSS_WEIGHTS)
    for name, value in values.items():
        if not math.isfinite(value) or value < 0 or (value == 0 and not ("aux" in name and 0 in weights)):
            return f"losses are {values}"
    head = [p.grad for name, p in model.named_parameters() if name.startswith("sem_seg_head.classifier.w")]
    if not all(gradient is not None and bool(gradient.any()) for gradient in head):
        return "the classifier learns nothing"
    step.update()
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return f"{name} is not finite after a step"
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("running_var") and not bool((buffer > 0).all()):
            return f"{buffer_name} is not positive after a step"
    return ""


def bad_prediction(cfg: CfgNode, model: Any) -> str:
    sample = next(iter(build_test_loader(cfg, cfg.DATASETS.TEST[0]))) if cfg.DATASETS.TEST else []
    model.eval()
    with torch.no_grad():
        for result in model(sample) if sample else ():
            if not bool(torch.isfinite(result["sem_seg"]).all()):
                return "logits are not finite"
    return ""


def campaign(num_values: int, seed: int, folder: Path) -> list[Outcome]:
    """Draw values for all keys in turn, each key as often as the next."""
    tiny_config(folder)  # registers its data sets
    words = [word for pair in {**OPTIONS, **TINIER}.items() for word in pair]
    defaults = dict(flatten(load_config(BASE, words)))
    rng = random.Random(seed)
    keys: list[str] = []
    outcomes = []
    for _ in range(num_values):
        keys = keys or rng.sample(sorted(defaults), len(defaults))
        key = keys.pop()
        with contextlib.redirect_stdout(None):
            outcomes.append(try_value(key, draw(rng, defaults[key]), folder / "run"))
    assert not (folder / "run").exists(), "a refusal, or a check, has touched OUTPUT_DIR"
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--list", action="store_true", help="what was taken, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = campaign(arguments.values, arguments.seed, Path(folder))
    for outcome in outcomes:
        if outcome.is_fault or (arguments.list and outcome.kind != "refused"):
            print(f"{outcome.kind}: {outcome.key} {str(outcome.value)[:80]!r}: {outcome.told[:300]}")
    print(json.dumps(Counter(outcome.kind for outcome in outcomes)))
    return 1 if any(outcome.is_fault for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
