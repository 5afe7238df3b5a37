"""A pyramid's training, a whole training step, and the start of a command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

import scaleeq.segmentor  # noqa: F401  (registers the model)
from scaleeq.decoders import PyramidOptions, build_pyramid
from scaleeq.engine import load_config
from scaleeq.tasks.losses.segmentation import SegmentationLoss
from scaleeq.training.recipe import Recipe
from scaleeq.training.solver import build_optimizer
from scaleeq.training.step import TrainingStep

from . import peers
from .heads import DETECTRON2, OURS, Goals, Setting
from .rounds import Contender, waits

ROOT = Path(__file__).parents[2]
RESNET50 = {"res2": 256, "res3": 512, "res4": 1024, "res5": 2048}
BEFORE = "as formulas are written"
# What Detectron2's tools/train_net.py imports before it reads its arguments.
DETECTRON2_HELP = """
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer, default_argument_parser, launch
from detectron2.evaluation import COCOEvaluator, SemSegEvaluator
from detectron2.modeling import GeneralizedRCNNWithTTA
default_argument_parser().parse_args(["--help"])
"""


def pyramids(setting: Setting, *, image: int, batch: int, goals: Goals) -> list[Contender]:
    """Forward and backward of a FaPN of 256 channels and of an FPN, which is another function."""
    widths = {name: channels // setting.shrink for name, channels in RESNET50.items()}
    image = max(64, image // setting.shrink)
    features = {
        name: torch.randn(batch, channels, image // (4 << i), image // (4 << i), device=setting.device).requires_grad_()
        for i, (name, channels) in enumerate(widths.items())
    }
    contenders = []
    for title, name in (("FPN", "fpn"), ("FaPN", "fapn")):
        options = PyramidOptions(name=name, channels=256 // setting.shrink)
        pyramid = build_pyramid(widths, options, norm=None).to(setting.device)

        def turn(pyramid: torch.nn.Module = pyramid) -> None:
            pyramid.zero_grad()
            for x in features.values():
                x.grad = None
            torch.stack([level.square().mean() for level in pyramid(features).values()]).sum().backward()

        contenders.append(Contender(title, turn, goal=goals.get(title, (None, None))))
    return contenders


def training_step(setting: Setting, *, crop: int, batch: int, goals: Goals) -> list[Contender]:
    """The whole step of ade20k/uper_r50 as its defaults have it, and as formulas are written.

    The latter: resized maps that are concatenated, losses of upsampled logits, an optimizer operation by operation.
    """
    crop, contenders = max(64, crop // setting.shrink), []
    for name in (BEFORE, OURS):
        step = _training_step(setting, plain=name == BEFORE)
        samples = _samples(crop, batch)

        def turn(step: TrainingStep = step, samples: list = samples) -> torch.Tensor:
            losses, _ = step.backward(samples, 0)
            step.update(finite=True)
            return torch.stack(list(losses.values()))

        def first_losses(step: TrainingStep = step, samples: list = samples) -> torch.Tensor:
            torch.manual_seed(0)  # of dropout
            losses, _ = step.backward(samples, 0)
            return torch.stack(list(losses.values()))

        contenders.append(Contender(name, turn, output=first_losses, goal=goals.get(name, (None, None))))
    return contenders


def waits_of_a_step(setting: Setting, *, crop: int, batch: int) -> dict[str, float]:
    """Of a step on a CUDA device: how often the host waits for it, and how long."""
    step, samples = _training_step(setting, plain=False), _samples(crop, batch)
    for _ in range(2):  # what is made once
        step.backward(samples, 0)
        step.update(finite=True)
    pinned = [{key: value.pin_memory() for key, value in sample.items()} for sample in samples]

    def turn() -> None:
        step.backward(pinned, 0)
        step.update(finite=True)

    return waits(turn)


def _training_step(setting: Setting, *, plain: bool) -> TrainingStep:
    options = ["MODEL.DEVICE", setting.device, "MODEL.TIMM.PRETRAINED", "False", "SOLVER.BASE_LR", "1e-4"]
    options += ["MODEL.SEM_SEG_HEAD.CONVS_DIM", str(512 // setting.shrink), "SOLVER.IMS_PER_BATCH", "2"]
    options += ["MODEL.FUSION.EVALUATE", "plain" if plain else "", "SOLVER.FUSED", str(not plain)]
    cfg = load_config("ade20k/uper_r50", options)
    torch.manual_seed(0)
    model = Recipe.build_model(cfg).train()
    for module in model.modules():
        if isinstance(module, SegmentationLoss):
            module.in_strips = not plain
    return TrainingStep(model, build_optimizer(cfg, model), micro_batch=2, device_type=setting.device.split(":")[0])


def _samples(crop: int, batch: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": torch.randint(256, (3, crop, crop), dtype=torch.uint8, generator=generator),
            "sem_seg": torch.randint(150, (crop, crop), generator=generator),
        }
        for _ in range(batch)
    ]


def start_up(setting: Setting, *, goals: Goals) -> list[Contender]:
    """The training command that is asked for its options."""
    commands = {OURS: [str(ROOT / "tools" / "train_net.py"), "--help"]}
    if peers.module_of("detectron2") is not None:
        commands = {DETECTRON2: ["-c", DETECTRON2_HELP], **commands}

    def turn(command: list[str]) -> None:
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    return [
        Contender(
            name,
            lambda command=command: turn(command),  # type: ignore[misc]
            goal=goals.get(name, (None, None)),
            memory=False,
        )
        for name, command in commands.items()
    ]
