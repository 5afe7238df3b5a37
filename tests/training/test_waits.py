"""Where a training step makes the host wait for the device. The device is torch's meta device, which computes nothing:
whatever wants to read from it, or copies to it without saying that nobody waits, shows in the operations dispatched."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scaleeq.segmentor import build_segmentor
from scaleeq.tasks.losses.options import LossOptions
from scaleeq.tasks.losses.segmentation import SegmentationLoss
from scaleeq.training.metrics import gather_metrics
from scaleeq.training.solver import build_gradient_clipper, build_optimizer
from scaleeq.training.step import TrainingStep

from .tiny import tiny_config

aten = torch.ops.aten
LOSSES = {
    "plain": {},
    "all": {"average_over": "all"},
    "class_weights": {"class_weights": [1.0, 2.0, 0.5, 3.0, 1.0, 0.1, 2.0, 1.5]},
    "label_smoothing": {"label_smoothing": 0.1},
    "focal": {"focal_gamma": 2.0},
    "top_k": {"ohem": "top_k", "ohem_anneal_iters": 10},
    "threshold": {"ohem": "threshold", "ohem_min_kept": 100},
    "dice": {"dice_weight": 1.0},
    "lovasz": {"lovasz_weight": 1.0},
    "both": {"dice_weight": 1.0, "lovasz_weight": 1.0},
}
BATCH = 4
UPDATED = "update"


class Waits(TorchDispatchMode):
    """Names of what would make the host wait: reading a number or a number of elements, copying out, copying in."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default and args[0].is_meta:
            self.found.append("item")
            return 1.0
        if func is aten.nonzero.default and args[0].is_meta:
            self.found.append("nonzero")
            return torch.empty(3, args[0].dim(), dtype=torch.int64, device="meta")
        if func in (aten._to_copy.default, aten.copy_.default):
            source = args[0] if func is aten._to_copy.default else args[1]
            target = torch.device(kwargs.get("device") or args[0].device)
            if source.is_meta and target.type == "cpu":
                self.found.append("read")
                return torch.ones(source.shape, dtype=source.dtype)
            waits = not kwargs.get("non_blocking", len(args) > 2 and args[2])
            if not source.is_meta and target.type == "meta" and waits:
                self.found.append("copy")
        return func(*args, **kwargs)


def make_batch():
    sizes = [(64, 64 - 8 * index) for index in range(BATCH)]
    return [
        {"image": torch.zeros(3, *size, dtype=torch.uint8), "sem_seg": torch.zeros(size, dtype=torch.uint8)}
        for size in sizes
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A segmentor on the meta device: a main head on a pyramid, and an auxiliary one."""
    cfg = tiny_config(tmp_path_factory.mktemp("none"), MODEL__TIMM__NAME="test_resnet")
    with torch.device("meta"):
        return build_segmentor(cfg).train()


def waits_of_a_step(cfg, model, *, passes=1):
    """What Trainer.run_step does, without an average; the names, in order, and "update" where the weights change."""
    step = TrainingStep(
        model,
        build_optimizer(cfg, model),
        micro_batch=BATCH // passes,
        clip_gradients=build_gradient_clipper(cfg),
    )
    with Waits() as waits:
        batch = make_batch()
        losses, norm = step.backward(batch, 3)
        metrics = gather_metrics(step, batch, losses, norm, iteration=3, data_time_s=0.5)
        waits.found.append(UPDATED)
        step.update(finite=math.isfinite(metrics["grad_norm"]))
    return waits.found


@pytest.mark.parametrize(
    ("name", "passes"), [*((name, 1) for name in LOSSES), *((name, 2) for name in ("plain", "all", "class_weights"))]
)
def test_the_host_waits_once_a_step_and_before_the_update(tmp_path, model, name, passes):
    """Dice and Lovasz wait for the classes of the labels too, once for both, per head and pass."""
    heads = [model.sem_seg_head, *model.aux_heads.values()]
    for head in heads:
        with torch.device("meta"):
            head.task.loss = SegmentationLoss(options=LossOptions(**LOSSES[name]))
    regions = ["nonzero"] * (len(heads) * passes) if name in ("dice", "lovasz", "both") else []
    assert len(heads) == 2
    assert waits_of_a_step(tiny_config(tmp_path), model, passes=passes) == [*regions, "read", UPDATED]


@pytest.mark.parametrize(
    ("clip", "optimizer"), [("value", "SGD"), ("norm", "ADAMW"), ("full_model", "SGD"), ("full_model", "ADAMW")]
)
def test_clipping_and_stepping_do_not_wait(tmp_path, model, clip, optimizer):
    cfg = tiny_config(
        tmp_path,
        SOLVER__OPTIMIZER=optimizer,
        SOLVER__CLIP_GRADIENTS__ENABLED=True,
        SOLVER__CLIP_GRADIENTS__CLIP_TYPE=clip,
    )
    assert waits_of_a_step(cfg, model)[-2:] == ["read", UPDATED]


def test_the_watch_sees_what_waits():
    device = torch.device("meta")
    with Waits() as waits:
        x = torch.zeros(3).to(device)
        torch.empty(3, device=device).copy_(torch.zeros(3))
        torch.zeros(3).to(device, non_blocking=True)
        float(x.sum()), x.tolist(), x.nonzero(), bool(x[0] > 0), x.cpu()
    assert waits.found == ["copy", "copy", "item", "read", "nonzero", "item", "read"]
