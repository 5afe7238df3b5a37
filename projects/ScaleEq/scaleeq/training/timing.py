"""How long a forward and a training step of several configs take, interleaved in one run, as ratios to the first.

Interleaved, because a machine is slower in some minutes than in others: a ratio of two medians of one run holds longer
than either. Random weights, and random targets of every task; the training step is forward and backward, with auxiliary
heads, without the optimizer. On a CPU the processor's time is told too, as the ratios of each round: others who use the
machine at the same time change it least.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median, quantiles

import torch
from torch import nn

from scaleeq.engine import CfgNode
from scaleeq.records import Json
from scaleeq.segmentor import without_pretrained
from scaleeq.tasks import Task, build_tasks

from .recipe import Recipe
from .step import autocast_dtype

WARMUP = 2  # unmeasured calls of each, before
KINDS = ("forward", "training")


class TimedModel:
    """A config's model and a batch of random images, with what a forward and a training step are.

    cfg: SOLVER.AMP counts. size: height and width, pixels. batch: images.
    """

    def __init__(self, cfg: CfgNode, *, size: Sequence[int], batch: int):
        cfg = without_pretrained(cfg)
        self.device = torch.device(cfg.MODEL.DEVICE)
        self.dtype = autocast_dtype(cfg)
        self.model: nn.Module = Recipe.build_model(cfg)
        height, width = size
        tasks = build_tasks(cfg)
        self.batch = [
            {
                "image": torch.rand(3, height, width, device=self.device) * 255,
                **{task.target_key: random_target(task, (height, width)).to(self.device) for task in tasks.values()},
            }
            for _ in range(batch)
        ]
        self.seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.cpu_seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}

    def forward(self) -> None:
        """Inference up to logits of the images' size."""
        self.model.eval()
        with torch.no_grad(), self._autocast():
            self.model(self.batch)

    def training(self) -> None:
        """Forward and backward of all losses."""
        self.model.train()
        with self._autocast():
            losses = self.model(self.batch)
        torch.stack(list(losses.values())).sum().backward()
        self.model.zero_grad()

    def measure(self, kind: str) -> None:
        """Add the seconds of one "forward" or "training", of the clock and of the processor."""
        call: Callable[[], None] = getattr(self, kind)
        self._synchronize()
        started, cpu = time.perf_counter(), time.process_time()
        call()
        self._synchronize()
        self.seconds[kind].append(time.perf_counter() - started)
        self.cpu_seconds[kind].append(time.process_time() - cpu)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def random_target(task: Task, size: tuple[int, int]) -> torch.Tensor:
    """A target of a sample, with an element for each pixel: classes, 0 or 1, or values in [0, 1).

    size: height and width -> (H, W), or (C, H, W) of a task of several values.
    """
    if task.geometry.labels and task.dtype == torch.int64:
        return torch.randint(task.channels, size)
    if not task.dtype.is_floating_point:
        return torch.randint(2, size).to(task.dtype)
    return torch.rand(*([task.channels] if task.channels > 1 else []), *size)


def quartiles(values: Sequence[float]) -> list[float]:
    """The lower one, the median and the upper one."""
    return list(values) * 3 if len(values) == 1 else quantiles(values, n=4, method="inclusive")


def time_configs(
    configs: Sequence[CfgNode], *, sizes: Sequence[Sequence[int]], batch: int = 1, iterations: int = 10
) -> list[Json]:
    """Measure the configs in turn, `iterations` times; one record for each.

    sizes: of the images of each config, height and width.

    Returns forward_s and training_s (medians), images_per_s (of inference), forward_ratio and training_ratio (to the
    first config), training_cpu_ratio (lower quartile, median and upper quartile over rounds of the ratio of the
    processor's time; None on another device than a CPU), peak_mib (of weights and one training step; None where it
    cannot be told).
    ValueError: no config, or fewer than one iteration or image.
    """
    if not configs:
        raise ValueError("there is no config to measure")
    if iterations < 1 or batch < 1:
        raise ValueError(f"iterations is {iterations} and batch {batch}; both are at least 1")
    # What the first model of a process makes its libraries allocate, once, is no model's.
    TimedModel(configs[0], size=sizes[0], batch=batch).training()
    # Build, warm up, and see what one step takes.
    models, peaks = [], []
    for cfg, size in zip(configs, sizes, strict=True):
        torch.manual_seed(0)
        used = reset_peak(cfg.MODEL.DEVICE)
        model = TimedModel(cfg, size=size, batch=batch)
        for _ in range(WARMUP):
            model.training()
            model.forward()
        peak = peak_mib(cfg.MODEL.DEVICE)
        peaks.append(None if peak is None or used is None else round(peak - used, 1))
        models.append(model)
    # Measure in turn.
    for _ in range(iterations):
        for kind in KINDS:
            for model in models:
                model.measure(kind)
    # Ratios to the first.
    medians = [{kind: median(model.seconds[kind]) for kind in KINDS} for model in models]
    of_first = models[0].cpu_seconds["training"]
    rounds = [[own / first for own, first in zip(m.cpu_seconds["training"], of_first, strict=True)] for m in models]
    return [
        {
            **{f"{kind}_s": times[kind] for kind in KINDS},
            **{f"{kind}_ratio": times[kind] / medians[0][kind] for kind in KINDS},
            "training_cpu_ratio": quartiles(ratios) if cfg.MODEL.DEVICE == "cpu" else None,
            "images_per_s": batch / times["forward"],
            "peak_mib": peak,
        }
        for cfg, times, ratios, peak in zip(configs, medians, rounds, peaks, strict=True)
    ]


def reset_peak(device: str) -> float | None:
    """Start measuring again, and return the MiB in use; None where the system does not say."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what was freed, and would hide what is allocated next
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak of the resident set starts again
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return None
    return _status_mib("VmRSS")


def peak_mib(device: str) -> float | None:
    """The most that was in use since reset_peak: allocated on a CUDA device, resident in the process on a CPU."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    return _status_mib("VmHWM")


def _status_mib(field: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), None)
