"""Rules on a config and its data sets that loaders hold to, and that a run asks before it builds anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .mixture import refuse_weights

if TYPE_CHECKING:
    from scaleeq.engine import CfgNode
    from scaleeq.engine.standalone.data import Metadata


def check_train_sets(cfg: CfgNode) -> None:
    """ValueError: there is nothing to train on, or not so much of each set as DATALOADER.WEIGHTS asks for."""
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty; name a data set, for example ('toy_sem_seg_train',)")
    if cfg.DATALOADER.WEIGHTS:
        refuse_weights(cfg.DATALOADER.WEIGHTS, len(cfg.DATASETS.TRAIN))


def check_classes(cfg: CfgNode, name: str, metadata: Metadata) -> None:
    """ValueError: the head, or the detector, has not as many classes as the data set declares, where a task is about
    them.

    name: of the data set, whose metadata may declare none.
    """
    objects, number = metadata.get("thing_classes"), cfg.MODEL.DETECTOR.NUM_CLASSES
    if "instances" in cfg.MODEL.TASKS.NAMES and objects is not None and len(objects) != number:
        raise ValueError(
            f"MODEL.DETECTOR.NUM_CLASSES is {number}, but the data set {name} has {len(objects)} classes of objects; "
            f"set it to {len(objects)}"
        )
    classes, own = metadata.get("stuff_classes"), cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if "sem_seg" in cfg.MODEL.TASKS.NAMES and classes is not None and len(classes) != own:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {own}, but the data set {name} has {len(classes)} classes; set it to "
            f"{len(classes)}"
        )


def samples_per_pass(batch: int, *, num_processes: int, passes: int = 1) -> int:
    """How many samples one forward pass of one process has.

    batch: SOLVER.IMS_PER_BATCH, samples of a whole step. passes: SOLVER.ACCUMULATE, of each process in a step.
    ValueError: the batch cannot be cut so.
    """
    if passes < 1:
        raise ValueError(f"SOLVER.ACCUMULATE is {passes}; a step has at least one forward pass")
    if batch < 1 or batch % (passes * num_processes):
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH is the batch of a whole step: {batch} samples cannot be split evenly among "
            f"{num_processes} processes with {passes} passes each (SOLVER.ACCUMULATE)"
        )
    return batch // (passes * num_processes)
