"""ScaleEq inside Detectron2: what add_scaleeq_config registers and when, and Detectron2's own DefaultTrainer."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

import scaleeq
from scaleeq import engine
from scaleeq.config import add_scaleeq_config
from scaleeq.data.sets.catalog import register_dataset
from scaleeq.data.sets.toy import CLASSES, COLORS
from scaleeq.engine import DatasetCatalog, get_cfg
from scaleeq.training.solver import SCHEDULES, build_lr_scheduler

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "plain_train_net.py"
needs_detectron2 = pytest.mark.skipif(engine.NAME != "detectron2", reason="the DefaultTrainer of the real Detectron2")

BEFORE_AND_AFTER = """
import sys, scaleeq, scaleeq.config
heavy = [name for name in sys.modules if name.split(".")[0] in ("torch", "detectron2", "fvcore")]
heavy += [name for name in sys.modules if name.startswith("scaleeq.") and "config" not in name]
print("before", sorted(set(heavy) - {"scaleeq.choices", "scaleeq.task_names"}))
from scaleeq.engine import BACKBONE_REGISTRY, DatasetCatalog, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, get_cfg

def registered():
    registries = META_ARCH_REGISTRY, BACKBONE_REGISTRY, SEM_SEG_HEADS_REGISTRY
    ours = [name for registry in registries for name, what in registry if what.__module__.startswith("scaleeq.")]
    return ours + [name for name in DatasetCatalog.list() if name.startswith(("toy", "camvid"))]

cfg = get_cfg()
scaleeq.config.add_scaleeq_config(cfg)
print("keys alone", registered())
cfg = get_cfg()
scaleeq.add_scaleeq_config(cfg)
scaleeq.add_scaleeq_config(cfg)
print("after", {"ScaleEqSegmentor", "build_timm_backbone", "UPerHead", "toy_sem_seg_val"} <= set(registered()))
"""


def test_nothing_is_registered_before_it_is_asked_for():
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects" / "ScaleEq")}
    command = [sys.executable, "-c", BEFORE_AND_AFTER]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["before []", "keys alone []", "after True"]


def small_config(folder: Path, *options: str):
    """configs/toy/fpn, smaller, as Detectron2's own loader reads it."""
    words = [sys.executable, "-m", "scaleeq", "config", "toy/fpn+scale_equalizer", "--plain", *options]
    words += ["MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "8", "MODEL.PYRAMID.CHANNELS", "8"]
    words += ["MODEL.TIMM.PRETRAINED", "False", "MODEL.TIMM.NAME", "test_resnet", "SOLVER.WARMUP_ITERS", "0"]
    words += ["SOLVER.MAX_ITER", "3", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0", "SEED", "1"]
    words += ["MODEL.SCALE_EQUALIZER.NUM_IMAGES", "4", "OUTPUT_DIR", str(folder / "run"), "TEST.EXPECTED_RESULTS", "[]"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects" / "ScaleEq")}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    (folder / "plain.yaml").write_text(done.stdout)
    return folder / "plain.yaml"


@needs_detectron2
def test_its_default_trainer_trains_and_evaluates(tmp_path):
    spec = importlib.util.spec_from_file_location("plain_train_net", TOOL)
    assert spec is not None and spec.loader is not None
    plain_train_net = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain_train_net)
    register_dataset("few_scenes_val", partial(_few_scenes, 2), classes=CLASSES, colors=COLORS)

    file = small_config(tmp_path, "DATASETS.TEST", "('few_scenes_val',)", "TEST.EVAL_PERIOD", "2")
    words = ["--config-file", str(file)]
    plain_train_net.main(plain_train_net.default_argument_parser().parse_args(words))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    miou = lines[-1]["sem_seg/mIoU"]
    assert all(math.isfinite(line.get("total_loss", 0.0)) for line in lines) and "total_loss" in lines[0]
    assert 0 <= miou <= 100 and "sem_seg/IoU-sky" in lines[-1]

    weights_file = tmp_path / "run" / "model_final.pth"
    weights = torch.load(weights_file, weights_only=False)["model"]
    calibrated = [value for name, value in weights.items() if name.endswith(".std")]
    assert calibrated and all((value != 1).all() for value in calibrated)
    words += ["--eval-only", "MODEL.WEIGHTS", str(weights_file)]
    again = plain_train_net.main(plain_train_net.default_argument_parser().parse_args(words))
    assert again["sem_seg"]["mIoU"] == miou


def _few_scenes(number: int) -> list[dict]:
    return DatasetCatalog.get("toy_sem_seg_val")[:number]


@pytest.mark.slow
@needs_detectron2
def test_the_program_from_the_command_line(tmp_path):
    file = small_config(tmp_path, "DATASETS.TEST", "()")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects" / "ScaleEq")}
    command = [sys.executable, str(TOOL), "--config-file", str(file), "SOLVER.MAX_ITER", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "model_final.pth").is_file()


# ---------------------------------------------------------------------------------------------------- schedules


def scheduler_of(name: str):
    cfg = get_cfg()
    add_scaleeq_config(cfg)
    cfg.merge_from_list(
        ["SOLVER.LR_SCHEDULER_NAME", name, "SOLVER.MAX_ITER", 10, "SOLVER.STEPS", (4,), "SOLVER.WARMUP_ITERS", 2]
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    return build_lr_scheduler(cfg, optimizer)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_of_every_engine(name):
    assert type(scheduler_of(name)).__module__.startswith("torch.")


@needs_detectron2
def test_other_names_are_passed_on():
    scheduler = scheduler_of("WarmupStepWithFixedGammaLR")
    assert type(scheduler).__module__.startswith("detectron2.")
    with pytest.raises(ValueError, match="Unknown LR scheduler: Nobody"):
        scheduler_of("Nobody")


@pytest.mark.skipif(engine.NAME == "detectron2", reason="Detectron2 has schedules of its own")
def test_without_detectron2_the_choices_are_told():
    with pytest.raises(ValueError, match=r"'WarmupStepWithFixedGammaLR'; choose one of WarmupPolyLR"):
        scheduler_of("WarmupStepWithFixedGammaLR")


def test_the_public_function_adds_the_keys():
    cfg = get_cfg()
    scaleeq.add_scaleeq_config(cfg)
    assert cfg.MODEL.TIMM.NAME == "resnet50"
