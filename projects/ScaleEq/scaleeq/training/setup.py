"""What a run needs before its model exists: device, threads, and every mistake in the config that can be seen by then.

A mistake that a user types is told before the first step, not after hours: at the first evaluation, at the first
checkpoint, or never. The checks of the output folder are in `output_dir`. Own design.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence

import torch
from torch import nn

from scaleeq import engine
from scaleeq.config import check_config
from scaleeq.data.folder import find_dataset
from scaleeq.data.mapper import SegmentationMapper
from scaleeq.data.reading import check_same_size, has_labels, read_image
from scaleeq.data.sets.catalog import ONE_CLASS, Record, datasets_root
from scaleeq.engine import CfgNode, DatasetCatalog, MetadataCatalog, comm
from scaleeq.inference import InferenceOptions
from scaleeq.names import check_names
from scaleeq.tasks import build_tasks

from .expected import check_rows
from .step import micro_batch_size
from .writers import import_wandb

logger = logging.getLogger(__name__)

NUM_FIRST_RECORDS = 4  # of each data set are read before training
DATASET_KEYS = ("TRAIN", "TEST")  # of DATASETS


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


def log_engine() -> None:
    """Say in the run's log which engine it has; the choice itself was made before there was a log."""
    logger.info("Engine: %s %s", engine.NAME, engine.VERSION)


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


def check_before_training(cfg: CfgNode) -> None:
    """Everything below, in the order of its cost: keys first, then names, then files.

    ValueError, KeyError, FileNotFoundError, ImportError: what is wrong, and the way out.
    """
    check_config(cfg)
    check_names(cfg)
    micro_batch_size(cfg, comm.get_world_size())
    check_schedule(cfg)
    check_evaluation(cfg)
    check_rows(cfg)
    if cfg.WANDB.ENABLED:
        import_wandb()
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
    patience = cfg.SOLVER.EARLY_STOP_PATIENCE
    if patience < 0 or (patience and not (tests and 0 < cfg.TEST.EVAL_PERIOD < cfg.SOLVER.MAX_ITER)):
        raise ValueError(
            f"SOLVER.EARLY_STOP_PATIENCE is {patience} evaluations, but with DATASETS.TEST {tuple(tests)}, "
            f"TEST.EVAL_PERIOD {cfg.TEST.EVAL_PERIOD} and SOLVER.MAX_ITER {cfg.SOLVER.MAX_ITER} there are none while "
            "training; set TEST.EVAL_PERIOD below MAX_ITER, or EARLY_STOP_PATIENCE 0"
        )


def check_labels(cfg: CfgNode, keys: Sequence[str] = DATASET_KEYS) -> None:
    """Compare the head's classes and ignore label with those of every data set of the run, before anything is built.

    ValueError: there is no such data set, or its labels differ from the head's; unnoticed, that is an index error in
    the loss, or a silent mistake. FileNotFoundError: a folder named as a data set lacks something.
    """
    head = cfg.MODEL.SEM_SEG_HEAD
    named = [(name, key) for key in keys for name in cfg.DATASETS[key]]
    for name, key in named:
        try:
            metadata = find_dataset(name)
        except (ValueError, OSError) as error:
            kind = ValueError if isinstance(error, ValueError) else FileNotFoundError
            raise kind(f"DATASETS.{key}: {error}") from error
        if "sem_seg" not in cfg.MODEL.TASKS.NAMES:
            continue
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
    if head.NUM_CLASSES < 2 and "sem_seg" in cfg.MODEL.TASKS.NAMES:
        raise ValueError(f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {head.NUM_CLASSES}: {ONE_CLASS}")


def check_first_records(cfg: CfgNode, keys: Sequence[str] = DATASET_KEYS) -> None:
    """Read the first few records of every data set of the run, also of those that are needed only hours later.

    FileNotFoundError: a data set is missing or has no image. ValueError: labels, or another task's truth, are missing,
    of another size than their image, or outside the classes.
    """
    if "TRAIN" in keys and not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty; name a data set, for example ('toy_sem_seg_train',)")
    tasks = build_tasks(cfg)
    for key, names in ((f"DATASETS.{key}", cfg.DATASETS[key]) for key in keys):
        for name in names:
            for record in _records(name, key)[:NUM_FIRST_RECORDS]:
                if "sem_seg" in tasks and not has_labels(record):
                    if key == "DATASETS.TEST" and MetadataCatalog.get(name).get("evaluator_type") != "sem_seg":
                        continue
                    raise ValueError(
                        f"{key} names {name}, whose {record['file_name']} has no labels; "
                        f"{'train' if key == 'DATASETS.TRAIN' else 'evaluate'} on a split that has them"
                    )
                try:
                    image = read_image(record)
                    for task in tasks.values():
                        if (values := task.read(record, image)) is not None:
                            check_same_size(record, image.shape[:2], values.shape[:2], key=task.target_key)
                except (ValueError, OSError) as error:  # PIL's for a file that is no picture is an OSError
                    kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
                    raise kind(f"{key} names {name}: {error}") from error


def check_overlap(cfg: CfgNode) -> None:
    """ValueError: an image is in DATASETS.TRAIN and in DATASETS.TEST, whose score would then be of what was learned.

    Images are compared by their files, wherever links lead; copies are not found. ALLOW_OVERLAP: they are not compared.
    """
    if cfg.DATASETS.ALLOW_OVERLAP:
        return
    links: dict[str, set[str]] = {}
    trained = {
        real_file(record["file_name"], links): name
        for name in cfg.DATASETS.TRAIN
        for record in _records(name, "DATASETS.TRAIN")
    }
    for name in cfg.DATASETS.TEST:
        files = [record["file_name"] for record in _records(name, "DATASETS.TEST")]
        shared = [file for file in files if real_file(file, links) in trained]
        if shared:
            raise ValueError(
                f"DATASETS.TEST names {name}, of whose {len(files)} images {len(shared)} are in DATASETS.TRAIN's "
                f"{trained[real_file(shared[0], links)]} too, such as {shared[0]}: test on others. To overfit on "
                "purpose, set DATASETS.ALLOW_OVERLAP True"
            )


def real_file(file: str, links: dict[str, set[str]]) -> str:
    """The file without links. links: folder -> the links in it; filled here, as one look at a folder tells them all."""
    folder, name = os.path.split(os.path.abspath(file))
    if folder not in links:
        try:
            links[folder] = {entry.name for entry in os.scandir(folder) if entry.is_symlink()}
        except OSError:  # records that are no files
            links[folder] = set()
    if name in links[folder]:
        return os.path.realpath(file)
    return os.path.join(_real_folder(folder), name)


@functools.lru_cache(maxsize=1 << 16)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _records(name: str, key: str) -> list[Record]:
    where = "set" if "DETECTRON2_DATASETS" in os.environ else "not set: the default"
    root = f"DETECTRON2_DATASETS is {os.path.abspath(datasets_root())} ({where})"
    try:
        records = DatasetCatalog.get(name)
    except (OSError, AssertionError) as error:  # Detectron2's own data sets assert
        raise FileNotFoundError(f"{key} names {name}, which cannot be read: {error}. {root}") from error
    if not records:
        raise FileNotFoundError(f"{key} names {name}, which has no image. {root}")
    return records
