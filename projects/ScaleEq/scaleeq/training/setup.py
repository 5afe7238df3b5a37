"""What a run needs before its model exists: device, threads, and every mistake in the config that can be seen by then.

A mistake that a user types is told before the first step, not after hours: at the first evaluation, at the first
checkpoint, or never. The checks of data sets are in `check_data`, those of the output folder in `output_dir`.
"""

from __future__ import annotations

import logging
import os

import torch
from torch import nn

from scaleeq.config import check_config
from scaleeq.data.mapper import SegmentationMapper
from scaleeq.engine import CfgNode, comm
from scaleeq.inference import InferenceOptions
from scaleeq.names import check_names
from scaleeq.tasks import build_tasks

from .check_data import check_first_records, check_labels, check_overlap
from .expected import check_rows
from .multi_task import check_multi_task
from .pcgrad import refuse_processes
from .step import micro_batch_size
from .writers import require_wandb

logger = logging.getLogger(__name__)


def choose_device(cfg: CfgNode) -> None:
    """Set MODEL.DEVICE to "cpu", and say so, where it asks for CUDA and there is none; `cfg` must not be frozen.

    ValueError: there are GPUs, but not the one that it names.
    """
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.info("MODEL.DEVICE is %r but no CUDA device is available: running on the CPU", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    index = torch.device(cfg.MODEL.DEVICE).index or 0
    if cfg.MODEL.DEVICE.startswith("cuda") and index >= torch.cuda.device_count():
        raise ValueError(f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, but there are {torch.cuda.device_count()} GPUs")


def build_mapper(cfg: CfgNode, *, is_train: bool) -> SegmentationMapper:
    """The mapper that INPUT describes, which reads what the tasks of MODEL.TASKS need."""
    return SegmentationMapper.from_config(cfg, is_train, targets=list(build_tasks(cfg).values()))


def limit_threads(cfg: CfgNode) -> None:
    """Share the cores among the processes of this machine, unless OMP_NUM_THREADS says otherwise.

    Without this every process on the CPU starts as many threads as the machine has cores.
    """
    processes = comm.get_local_size()
    if cfg.MODEL.DEVICE == "cpu" and processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // processes))


def choose_algorithms(cfg: CfgNode) -> None:
    """Deterministic algorithms, for this process, where DETERMINISTIC asks for them.

    torch warns, naming the operation, where it has none; cuBLAS reads its workspace's size when CUDA starts.
    """
    if cfg.DETERMINISTIC:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)


def compile_parts(model: nn.Module, *, enabled: bool) -> None:
    """torch.compile backbone and head in place, names in the state dict unchanged; pre- and post-processing stay."""
    for name, part in model.named_children():
        if enabled and name in ("backbone", "sem_seg_head"):
            part.compile()
        if enabled and name == "decoders":  # of several tasks, whose decoders are called in steps
            for step in (step for decoder in part.children() for step in decoder.children()):
                step.compile()


def check_before_training(cfg: CfgNode) -> None:
    """Everything below, in the order of its cost: keys first, then names, then files.

    ValueError, KeyError, FileNotFoundError, ImportError: what is wrong, and the way out.
    """
    check_config(cfg)
    check_names(cfg)
    # Numbers that do not fit together.
    micro_batch_size(cfg, comm.get_world_size())
    refuse_processes(cfg, comm.get_world_size())
    check_schedule(cfg)
    check_evaluation(cfg)
    check_rows(cfg)
    if cfg.WANDB.ENABLED:
        require_wandb()
    check_labels(cfg)
    build_mapper(cfg, is_train=True)
    check_first_records(cfg)
    check_overlap(cfg)


def check_before_evaluation(cfg: CfgNode) -> None:
    """What check_before_training says of an evaluation alone."""
    check_config(cfg)
    check_names(cfg)
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty; name a data set, for example \"('toy_sem_seg_val',)\"")
    InferenceOptions.from_config(cfg)
    check_multi_task(cfg)
    check_labels(cfg, keys=("TEST",))
    build_mapper(cfg, is_train=False)
    check_first_records(cfg, keys=("TEST",))


def check_schedule(cfg: CfgNode) -> None:
    """ValueError: the learning rate's schedule, or the period of checkpoints, does not fit the length of the run."""
    solver = cfg.SOLVER
    if solver.MAX_ITER < 1:
        raise ValueError(f"SOLVER.MAX_ITER is {solver.MAX_ITER}; a run has at least one iteration")
    if not 0 <= solver.WARMUP_ITERS < solver.MAX_ITER:
        raise ValueError(
            f"SOLVER.WARMUP_ITERS is {solver.WARMUP_ITERS}, but the run has only SOLVER.MAX_ITER = {solver.MAX_ITER} "
            "iterations: the learning rate would never reach SOLVER.BASE_LR. Set SOLVER.WARMUP_ITERS below MAX_ITER "
            "(0: no warm-up)"
        )
    beyond = [step for step in solver.STEPS if step >= solver.MAX_ITER]
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR" and beyond:
        raise ValueError(
            f"SOLVER.STEPS lowers the learning rate at {', '.join(map(str, beyond))}, but the run ends at "
            f"SOLVER.MAX_ITER = {solver.MAX_ITER}: set SOLVER.STEPS for this length (now {tuple(solver.STEPS)}; "
            "(): the rate stays)"
        )
    if solver.CHECKPOINT_PERIOD < 1:
        raise ValueError(f"SOLVER.CHECKPOINT_PERIOD is {solver.CHECKPOINT_PERIOD}; it counts iterations, from 1 on")


def check_evaluation(cfg: CfgNode) -> None:
    """ValueError: what the config expects of evaluations cannot be, because of how it sets them up."""
    InferenceOptions.from_config(cfg)
    tests = cfg.DATASETS.TEST
    check_multi_task(cfg)
    patience = cfg.SOLVER.EARLY_STOP_PATIENCE
    if patience < 0 or (patience and not (tests and 0 < cfg.TEST.EVAL_PERIOD < cfg.SOLVER.MAX_ITER)):
        raise ValueError(
            f"SOLVER.EARLY_STOP_PATIENCE is {patience} evaluations, but with DATASETS.TEST {tuple(tests)}, "
            f"TEST.EVAL_PERIOD {cfg.TEST.EVAL_PERIOD} and SOLVER.MAX_ITER {cfg.SOLVER.MAX_ITER} there are none while "
            "training; set TEST.EVAL_PERIOD below MAX_ITER, or EARLY_STOP_PATIENCE 0"
        )
