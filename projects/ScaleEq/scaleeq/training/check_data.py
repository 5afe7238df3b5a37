"""What can be seen to be wrong with a run's data sets before its model exists: names, labels, files, shared images.

A missing test set is told before the first step, not at the first evaluation.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence

from scaleeq.data.folder import find_dataset
from scaleeq.data.reading import check_same_size, has_labels, read_image
from scaleeq.data.rules import check_classes, check_train_sets
from scaleeq.data.sets.catalog import ONE_CLASS, Record, datasets_root
from scaleeq.engine import CfgNode, DatasetCatalog, MetadataCatalog
from scaleeq.tasks import build_tasks

logger = logging.getLogger(__name__)

NUM_FIRST_RECORDS = 4  # of each data set are read before training
DATASET_KEYS = ("TRAIN", "TEST")  # of DATASETS


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
        check_classes(cfg, name, metadata)
        if "sem_seg" not in cfg.MODEL.TASKS.NAMES:
            continue
        # Its void against the head's.
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
    if "TRAIN" in keys:
        check_train_sets(cfg)
    tasks = build_tasks(cfg)
    seen: set[str] = set()
    for key, names in ((f"DATASETS.{key}", cfg.DATASETS[key]) for key in keys):
        for name in names:
            for record in _records(name, key)[:NUM_FIRST_RECORDS]:
                if list(tasks) == ["sem_seg"] and not has_labels(record):
                    if key == "DATASETS.TEST" and MetadataCatalog.get(name).get("evaluator_type") != "sem_seg":
                        continue
                    raise ValueError(
                        f"{key} names {name}, whose {record['file_name']} has no labels; "
                        f"{'train' if key == 'DATASETS.TRAIN' else 'evaluate'} on a split that has them"
                    )
                try:
                    # Every task's truth against the image.
                    image, known = read_image(record), []
                    for task in tasks.values():
                        if (values := task.read(record, image)) is not None:
                            check_same_size(record, image.shape[:2], values.shape[:2], key=task.target_key)
                            known.append(task.name)
                    seen.update(known if key == "DATASETS.TRAIN" else ())
                    if not known and key == "DATASETS.TRAIN":
                        raise ValueError(f"{record['file_name']} has nothing to train {' and '.join(tasks)} on")
                except (ValueError, OSError) as error:  # PIL's for a file that is no picture is an OSError
                    kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
                    raise kind(f"{key} names {name}: {error}") from error
    if "TRAIN" in keys and (unseen := [name for name in tasks if name not in seen]) and seen:
        logger.warning(
            "No truth for %s in the first %d images of any data set of DATASETS.TRAIN: without one it is not trained",
            " and ".join(unseen),
            NUM_FIRST_RECORDS,
        )


def check_overlap(cfg: CfgNode) -> None:
    """ValueError: an image is in DATASETS.TRAIN and in DATASETS.TEST, whose score would then be of what was learned.

    Images are compared by their files, wherever links lead; copies are not found. ALLOW_OVERLAP: they are not compared.
    """
    if cfg.DATASETS.ALLOW_OVERLAP:
        return
    # Files of the training, wherever they are.
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
