"""What is computed otherwise than its formula, on a CUDA device. Oracle: the plain form on the CPU, in float64.

Each test runs on the CPU too, so that a machine without a GPU keeps them in order.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

import scaleeq.segmentor  # noqa: F401  (registers the model)
from scaleeq import accelerate
from scaleeq.decoders import ASPP, PSP, UPer
from scaleeq.fusion import evaluate_fusions
from scaleeq.layers import Level
from scaleeq.ops import resized_argmax
from scaleeq.tasks.losses.segmentation import SegmentationLoss
from scaleeq.training import Recipe
from scaleeq.training.metrics import gather_metrics
from scaleeq.training.solver import build_optimizer
from scaleeq.training.step import TrainingStep
from tests.rewrites.nets import ALWAYS, close, image, made
from tests.training.tiny import tiny_config

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
on_devices = pytest.mark.parametrize("device", DEVICES)
LEVELS = {"res2": Level(4, 4), "res3": Level(6, 8), "res4": Level(8, 16), "res5": Level(10, 32)}
DECODERS = {
    "uper": lambda: UPer(LEVELS, 8),
    "psp": lambda: PSP({"res5": LEVELS["res5"]}, 8),
    "aspp": lambda: ASPP({"res5": LEVELS["res5"]}, 8),
}


def with_gradients(model, inputs):
    leaves = {name: x.requires_grad_() for name, x in inputs.items()}
    y = model(leaves)
    gradients = torch.autograd.grad(y.square().mean(), [*model.parameters(), *leaves.values()])
    return [y.detach().cpu(), *(gradient.cpu() for gradient in gradients)]


@on_devices
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_fusions_per_branch(device, decoder, last):
    torch.manual_seed(0)
    layout = torch.channels_last if last else torch.contiguous_format
    plain = DECODERS[decoder]().double()
    model = copy.deepcopy(plain).to(device, memory_format=layout)
    evaluate_fusions(plain, "plain")
    features = {
        name: torch.randn(2, level.channels, 96 // level.stride, 128 // level.stride, dtype=torch.float64)
        for name, level in LEVELS.items()
        if name in plain.in_features
    }
    moved = {name: x.to(device, memory_format=layout, copy=True) for name, x in features.items()}
    for ours, theirs in zip(with_gradients(model, moved), with_gradients(plain, features), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()) + 1e-12)


@on_devices
def test_the_loss_and_labels_in_strips(device):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 7, 9, 11, dtype=torch.float64, generator=generator)
    labels = torch.randint(7, (2, 36, 44), generator=generator)
    labels[0, :5] = 255
    results = []
    for where, in_strips in ((device, True), ("cpu", False)):
        x = logits.to(where, copy=True).requires_grad_()
        loss = SegmentationLoss(in_strips=in_strips).to(where)(x, labels.to(where))
        loss.backward()
        results.append((loss.detach().cpu(), x.grad.cpu()))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)

    def resized(maps):
        return F.interpolate(maps[None], size=(36, 44), mode="bilinear", align_corners=False)[0]

    found = resized_argmax(logits[0].to(device), resized)
    assert torch.equal(found.labels.cpu().long(), resized(logits[0].to(device)).max(0)[1].cpu())


@on_devices
def test_an_accelerated_model(device):
    plain = made()
    plain.decoder.drop.p = 0.0
    model = accelerate(copy.deepcopy(plain).to(device), limit=ALWAYS)
    x = image()
    for mode in (False, True):
        model.train(mode), plain.train(mode)
        model(x.to(device))  # is looked at
        plain(x)  # so that running statistics stay equal
        ours, theirs = model(x.to(device)), plain(x)
        close(ours.cpu(), theirs, 1e-10)
    ours.square().mean().backward(), theirs.square().mean().backward()
    largest = max(float(p.grad.abs().max()) for p in plain.parameters())  # that of a bias before a norm is rounding
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad.cpu(), b.grad, rtol=0, atol=1e-9 * largest)


@on_devices
@pytest.mark.parametrize("optimizer", ["SGD", "ADAMW"])
def test_a_training_step_waits_once(tmp_path, device, optimizer):
    """Between its forward pass and its update, for the losses and the norm; torch raises where the host waits else."""
    cfg = tiny_config(tmp_path, MODEL__TIMM__NAME="test_resnet", MODEL__DEVICE=device, SOLVER__OPTIMIZER=optimizer)
    torch.manual_seed(0)
    model = Recipe.build_model(cfg).train()
    step = TrainingStep(model, build_optimizer(cfg, model), micro_batch=2, device_type=device)
    sample = {"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "sem_seg": torch.zeros(64, 64, dtype=torch.uint8)}
    batch = [{key: x.pin_memory() if device == "cuda" else x for key, x in sample.items()} for _ in range(2)]
    for iteration in range(3):
        strict = device == "cuda" and iteration > 0  # the first one makes what is made once
        if strict:
            torch.cuda.set_sync_debug_mode("error")
        try:
            losses, norm = step.backward(batch, iteration)
            if strict:
                torch.cuda.set_sync_debug_mode("default")
            metrics = gather_metrics(step, batch, losses, norm, iteration=iteration, data_time_s=0.0)
            if strict:
                torch.cuda.set_sync_debug_mode("error")
            step.update(finite=True)
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        assert metrics["grad_norm"] > 0
