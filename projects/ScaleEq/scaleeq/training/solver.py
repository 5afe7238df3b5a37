"""Optimizer, learning-rate schedule and gradient clipping from the SOLVER keys.

Sources: the meaning of the keys in Detectron2 0.6 (`detectron2.solver`), its DeepLab project (WarmupPolyLR) and
MaskFormer (OPTIMIZER, CLIP_TYPE "full_model"). Every schedule is a pure function iteration -> multiplier of the base
learning rate, so that a resumed run needs nothing but its iteration.

Deviations: clipping is a function that the trainer calls, not a patched optimizer class; unknown names list the
choices; the optimizer's step is one kernel where torch has it (SOLVER.FUSED), equal but for rounding.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable

import torch
from torch import nn

from scaleeq.choices import one_of
from scaleeq.engine import CfgNode, engine_lr_scheduler
from scaleeq.equalization.optimizer_steps import scale_optimizer_steps

from .parameter_groups import groups_from_config

Multiplier = Callable[[int], float]
Clipper = Callable[[list[nn.Parameter]], object]

OPTIMIZERS = ("SGD", "ADAMW")
SCHEDULES = ("WarmupPolyLR", "WarmupCosineLR", "WarmupMultiStepLR")
WARMUPS = ("linear", "constant")
CLIP_TYPES = ("value", "norm", "full_model")


# ---------------------------------------------------------------------------------------------------- optimizer


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that SOLVER names.

    ValueError: SOLVER.OPTIMIZER is unknown, the model has nothing to train, or LAYER_DECAY does not fit its backbone.
    """
    solver = cfg.SOLVER
    one_of(solver.OPTIMIZER, OPTIMIZERS, key="SOLVER.OPTIMIZER")
    groups = groups_from_config(cfg, model)
    fused = True if takes_fused_steps(cfg, model) else None  # None, not False: the checkpoints of before have that
    optimizer: torch.optim.Optimizer
    if solver.OPTIMIZER == "SGD":
        optimizer = torch.optim.SGD(
            groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, fused=fused
        )
    else:
        optimizer = torch.optim.AdamW(groups, lr=solver.BASE_LR, fused=fused)
    scale_optimizer_steps(model, optimizer)
    return optimizer


def takes_fused_steps(cfg: CfgNode, model: nn.Module) -> bool:
    """Whether the optimizer's step is one kernel: SOLVER.FUSED, for weights on a CPU or CUDA device, without a scaler.

    With a loss scaler torch's fused SGD leaves the momentum undefined where the first update is skipped. A resumed run
    has what its checkpoint says, which is part of the optimizer's state.
    """
    scaled = cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.AMP.DTYPE == "float16"
    places = {(p.device.type, p.dtype) for p in model.parameters() if p.requires_grad}
    fits = {(device, dtype) for device in ("cpu", "cuda") for dtype in (torch.float32, torch.float64)}
    return bool(cfg.SOLVER.FUSED and not scaled and len(places) == 1 and places <= fits)


# ---------------------------------------------------------------------------------------------------- schedule


def warmup_progress(iteration: int, *, iterations: int, method: str) -> float:
    """How far warm-up has come: 0 to 1 on a line (linear), or 0 until it is over (constant); 1 afterwards."""
    if iteration >= iterations:
        return 1.0
    return iteration / iterations if method == "linear" else 0.0


def poly(iteration: int, *, max_iter: int, power: float) -> float:
    """(1 - iteration / max_iter) ** power."""
    return (1.0 - min(iteration / max_iter, 1.0)) ** power


def cosine(iteration: float, *, max_iter: int, ending: float) -> float:
    """Half a cosine from 1 to `ending`."""
    return ending + 0.5 * (1 - ending) * (1 + math.cos(math.pi * iteration / max_iter))


def multi_step(iteration: float, *, milestones: list[int], gamma: float) -> float:
    """gamma to the number of milestones reached; 1e-6 forgives the rounding of a rescaled iteration."""
    return gamma ** bisect_right(milestones, iteration + 1e-6)


def lr_multiplier(cfg: CfgNode) -> Multiplier:
    """iteration -> factor on every base learning rate.

    WarmupPolyLR multiplies the ramp into the decay and ends at the ratio POLY_LR_CONSTANT_ENDING (DeepLab's meaning).
    The others ramp linearly (or stay) up to the value that the decay has when warm-up ends; RESCALE_INTERVAL squeezes
    the whole decay into the iterations after warm-up (Detectron2's meaning).

    ValueError: an unknown schedule or warm-up method, or a cosine that ends above its start.
    """
    solver = cfg.SOLVER
    one_of(solver.WARMUP_METHOD, WARMUPS, key="SOLVER.WARMUP_METHOD")
    one_of(solver.LR_SCHEDULER_NAME, SCHEDULES, key="SOLVER.LR_SCHEDULER_NAME")
    if solver.LR_SCHEDULER_NAME == "WarmupPolyLR":
        return _warmup_times_poly(solver)
    return _warmup_then(_decay(solver), solver)


def _warmup_times_poly(solver: CfgNode) -> Multiplier:
    def multiplier(iteration: int) -> float:
        progress = warmup_progress(iteration, iterations=solver.WARMUP_ITERS, method=solver.WARMUP_METHOD)
        decayed = poly(iteration, max_iter=solver.MAX_ITER, power=solver.POLY_LR_POWER)
        if progress == 1.0:
            return max(decayed, solver.POLY_LR_CONSTANT_ENDING)
        return (solver.WARMUP_FACTOR * (1 - progress) + progress) * decayed

    return multiplier


def _decay(solver: CfgNode) -> Callable[[float], float]:
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        ending = solver.BASE_LR_END / solver.BASE_LR
        if not 0.0 <= ending <= 1.0:
            raise ValueError(f"SOLVER.BASE_LR_END is {solver.BASE_LR_END}; it lies in [0, BASE_LR={solver.BASE_LR}]")
        return lambda iteration: cosine(iteration, max_iter=solver.MAX_ITER, ending=ending)
    milestones = sorted(solver.STEPS)
    return lambda iteration: multi_step(iteration, milestones=milestones, gamma=solver.GAMMA)


def _warmup_then(decay: Callable[[float], float], solver: CfgNode) -> Multiplier:
    """Warm-up, then `decay`: continuous where warm-up is linear."""
    warmup, max_iter = min(solver.WARMUP_ITERS, solver.MAX_ITER), solver.MAX_ITER
    # The value that warm-up climbs to.
    rescale = solver.RESCALE_INTERVAL and warmup < max_iter
    start = solver.WARMUP_FACTOR * decay(0)
    end = decay(0) if rescale else decay(warmup)

    def multiplier(iteration: int) -> float:
        progress = warmup_progress(iteration, iterations=warmup, method=solver.WARMUP_METHOD)
        if progress < 1.0:
            return start * (1 - progress) + end * progress
        return decay((iteration - warmup) / (max_iter - warmup) * max_iter) if rescale else decay(iteration)

    return multiplier


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """A per-iteration scheduler; each group keeps its ratio to the base learning rate.

    SCHEDULES are those above, with every engine. Any other name is passed on to the engine, as Detectron2's DeepLab
    project does. ValueError: nobody knows the name.
    """
    if cfg.SOLVER.LR_SCHEDULER_NAME not in SCHEDULES:
        scheduler = engine_lr_scheduler(cfg, optimizer)
        if scheduler is not None:
            return scheduler
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lr_multiplier(cfg))


# ---------------------------------------------------------------------------------------------------- clipping


def build_gradient_clipper(cfg: CfgNode) -> Clipper | None:
    """SOLVER.CLIP_GRADIENTS as a function on the parameters, applied between backward and step; None when off.

    "value" clips each element, "norm" each parameter's norm, "full_model" the norm over all parameters.

    ValueError: CLIP_TYPE is unknown.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return None
    one_of(clip.CLIP_TYPE, CLIP_TYPES, key="SOLVER.CLIP_GRADIENTS.CLIP_TYPE")
    limit, norm_type = float(clip.CLIP_VALUE), float(clip.NORM_TYPE)
    if clip.CLIP_TYPE == "value":
        return lambda parameters: nn.utils.clip_grad_value_(parameters, limit)
    if clip.CLIP_TYPE == "full_model":
        return lambda parameters: nn.utils.clip_grad_norm_(parameters, limit, norm_type)

    def clip_each(parameters: list[nn.Parameter]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if gradients:  # torch's clip_grad_norm_ of each, bit for bit, without its seven launches a parameter
            norms = torch.stack(torch._foreach_norm(gradients, norm_type))
            torch._foreach_mul_(gradients, list((limit / (norms + 1e-6)).clamp(max=1.0).unbind()))

    return clip_each
