"""What a calibration costs: its time an image and pass, against a plain forward of the same model and images."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from torch import nn

from .calibration import calibrate


@torch.no_grad()
def calibration_cost(model: nn.Module, images: list[torch.Tensor], *, rounds: int = 5) -> dict[str, Any]:
    """Time calibrations and plain forwards alternately, in one run.

    Args:
        model: with equalizers; a segmentor is measured through its `logits`.
        images: normalised batches (N, 3, H, W).
        rounds: measurements of each; medians are returned.

    Returns:
        seconds an image of a plain forward (batch norms on batch statistics, as in calibration), seconds an image and
        pass of a calibration, their ratio, and the passes (one per fusion).
    """
    forward = getattr(model, "logits", model)
    num_images = sum(map(len, images))
    modes = model.training
    model.train()
    passes = 0

    def plain() -> float:
        started = time.perf_counter()
        for batch in images:
            forward(batch)
        return (time.perf_counter() - started) / num_images

    def calibration() -> float:
        nonlocal passes
        started = time.perf_counter()
        report = calibrate(model, images, num_images=-1, inputs=lambda batch: (batch, None), progress=lambda line: None)
        passes = len(report.fusions)
        return (time.perf_counter() - started) / (num_images * passes)

    plain(), calibration()  # warm up
    times = [(plain(), calibration()) for _ in range(rounds)]
    model.train(modes)
    forwards, passes_s = (median(column) for column in zip(*times, strict=True))
    return {
        "plain_forward_s_per_image": forwards,
        "calibration_s_per_image_and_pass": passes_s,
        "ratio": median(pass_s / forward_s for forward_s, pass_s in times),
        "passes": passes,
        "images": num_images,
    }
