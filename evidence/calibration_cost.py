"""What a calibration and an equalized convolution cost, each against the plain thing in the same run."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from torch import nn

from scaleeq.equalization import ConvFusion, EqualizerSpec, equalize_fusions
from scaleeq.equalization.calibration import calibrate
from scaleeq.equalization.foreign_conv import cannot_center


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


def equalized_conv_cost(conv: nn.Conv2d, x: torch.Tensor, widths: list[int], *, rounds: int = 9) -> dict[str, Any]:
    """Time a convolution, plain and as `equalize` makes it, alternately in one run.

    Args:
        conv: reads a concatenation.
        x: (N, C_in, H, W), that concatenation.
        widths: of its branches.
        rounds: measurements of each; medians are returned.

    Returns:
        "plain": seconds of processor time of a forward and of a forward with its backward; for each implementation
        (".. centred" where the convolution can hold a mean) the ratios to them, round by round.
    """
    named = {f"branch{index}": width for index, width in enumerate(widths, 1)}
    variants: dict[str, nn.Module] = {"plain": conv}
    for implementation in ("reparametrize", "module"):
        for center in (False,) if cannot_center(conv) else (False, True):
            spec = EqualizerSpec(implementation=implementation, center=center)
            equalized = ConvFusion(conv, named)
            equalize_fusions(equalized, spec)
            variants[implementation + " centred" * center] = equalized
    x = x.requires_grad_()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for _ in range(rounds + 1):
        for name, module in variants.items():
            with torch.no_grad():
                started = _now(x)
                module(x)
                forward = _now(x) - started
            started = _now(x)
            module(x).sum().backward()
            times[name].append((forward, _now(x) - started))
            conv.weight.grad = x.grad = None
    columns = {name: list(zip(*rows[1:], strict=True)) for name, rows in times.items()}  # the first round warms up
    keys = ("forward", "forward_and_backward")
    plain = dict(zip(keys, columns.pop("plain"), strict=True))
    result: dict[str, Any] = {"plain": {f"{key}_s": median(seconds) for key, seconds in plain.items()}}
    for name, column in columns.items():
        result[name] = {
            key: median(own / other for own, other in zip(seconds, plain[key], strict=True))
            for key, seconds in zip(keys, column, strict=True)
        }
    return result


def _now(x: torch.Tensor) -> float:
    """Seconds of this process's processor time; on a GPU, of the clock, once it has finished."""
    if x.is_cuda:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()
