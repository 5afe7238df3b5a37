"""What a run needs before its model exists: device, threads, and a label set that fits."""

from __future__ import annotations

import logging
import os

import torch

from scaleeq import engine
from scaleeq.engine import CfgNode, DatasetCatalog, MetadataCatalog, comm

logger = logging.getLogger(__name__)


def choose_device(cfg: CfgNode) -> None:
    """Set MODEL.DEVICE to "cpu", and say so, where it asks for CUDA and there is none; `cfg` must not be frozen."""
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.info("MODEL.DEVICE is %r but no CUDA device is available: running on the CPU", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"


def log_engine() -> None:
    """Say in the run's log which engine it has; the choice itself was made before there was a log."""
    logger.info("Engine: %s %s", engine.NAME, engine.VERSION)


def limit_threads(cfg: CfgNode) -> None:
    """Share the cores among the processes of this machine, unless OMP_NUM_THREADS says otherwise.

    Without this every process on the CPU starts as many threads as the machine has cores.
    """
    processes = comm.get_local_size()
    if cfg.MODEL.DEVICE == "cpu" and processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // processes))


def check_labels(cfg: CfgNode) -> None:
    """Compare the head's classes and ignore label with those of every data set of the run, before anything is built.

    KeyError: a data set is not registered. ValueError: its labels differ from the head's; unnoticed, that is an index
    error in the loss, or a silent mistake.
    """
    head = cfg.MODEL.SEM_SEG_HEAD
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if name not in DatasetCatalog.list():
            known = ", ".join(known for known in DatasetCatalog.list() if "sem_seg" in known)
            raise KeyError(f"the data set {name!r} is not registered; for semantic segmentation there are {known}")
        metadata = MetadataCatalog.get(name)
        classes = metadata.get("stuff_classes")
        if classes is not None and len(classes) != head.NUM_CLASSES:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {head.NUM_CLASSES}, but {name} has {len(classes)} classes; "
                f"set it to {len(classes)}"
            )
        ignore_label = metadata.get("ignore_label", head.IGNORE_VALUE)
        if ignore_label != head.IGNORE_VALUE:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE is {head.IGNORE_VALUE}, but {name} marks void pixels with "
                f"{ignore_label}"
            )
