"""Scores label pictures that any framework has written: no model, a process a core, int64 counts that are added.

A picture is found by its image's name: NAME.png, in any folder below; for Cityscapes also what its own tools accept,
one picture whose name starts with CITY_SEQUENCE_FRAME. Pictures are read as labels are (one channel, palettes by
index), so that they hold labels 0..K-1, or the data set's raw values where that is asked for.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from tqdm import tqdm

from scaleeq import engine
from scaleeq.engine import DatasetCatalog, MetadataCatalog
from scaleeq.records import Record
from scaleeq.workers import map_in_processes

from .cityscapes import LABEL_IDS
from .families import dataset_parts
from .parts import CONFUSION
from .sem_seg import NUM_IMAGES, Counts, SemSegEvaluator, add_counts

SUFFIX = ".png"
CITYSCAPES_IDS = dict.fromkeys(range(256), 255) | {raw: label for label, raw in enumerate(LABEL_IDS)}
IMAGES_A_TASK = 32  # at most; a task's counts are sent between processes
LISTED = 20  # names of a kind in a message, at most

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reader:
    """How an image's truth is read; functions of scaleeq.data, which evaluation does not know.

    labels: record -> (H, W) uint8. instances: record -> (H, W) int32 or None.
    """

    labels: Callable[[Record], np.ndarray]
    instances: Callable[[Record], np.ndarray | None]


def score_predictions(
    folder: str,
    dataset_name: str,
    reader: Reader,
    *,
    absent: str = "exclude",
    boundary: bool = False,
    label_ids: bool = False,
    workers: int = 1,
) -> Record:
    """The record of an evaluation, as --eval-only writes it: {"sem_seg": {...}}, data set, policy, engine.

    folder: of pictures. dataset_name: registered. The rest as in count_predictions, dataset_parts and SemSegEvaluator.
    ValueError: also where the data set's truth is not public.
    """
    records: list[Record] = DatasetCatalog.get(dataset_name)
    if len(MetadataCatalog.get(dataset_name).get("stuff_classes", ())) == 1:
        raise ValueError(
            f"{dataset_name} has one class, so that every prediction is right; one class against the background are "
            "two classes: write the background as a class instead of void"
        )
    if not any("sem_seg_file_name" in record or "read" in record for record in records):
        raise ValueError(f"{dataset_name} has no truth to score with: it is for a test server")
    parts = dataset_parts(dataset_name, absent=absent, boundary=boundary)
    evaluator = SemSegEvaluator(dataset_name, absent=absent, parts=parts, distributed=False)
    family = MetadataCatalog.get(dataset_name).get("family", "")
    counts = count_predictions(folder, records, evaluator, reader, family=family, label_ids=label_ids, workers=workers)
    if not label_ids and records[0].get("label_map") and not counts[CONFUSION][:, 0].any():
        logger.warning(
            "no prediction is class 0 (%s): do the pictures hold raw values? Then add --label-ids",
            evaluator.class_names[0],
        )
    return {
        **evaluator.results(counts),
        "datasets": [dataset_name],
        "num_images": int(counts[NUM_IMAGES]),
        "absent_classes": absent,
        "engine": engine.NAME,
        "predictions": os.path.abspath(folder),
    }


def count_predictions(
    folder: str,
    records: Sequence[Record],
    evaluator: SemSegEvaluator,
    reader: Reader,
    *,
    family: str = "",
    label_ids: bool = False,
    workers: int = 1,
) -> Counts:
    """What `evaluator` counts of the pictures in a folder, one for each record.

    family: of the data set; "cityscapes" has names and raw values of its own.
    label_ids: the pictures hold raw values, as the data set's own label files.
    workers: processes; 0 or 1: this one.
    ValueError: pictures are missing or twice there (all are listed), of another size, with colours, or with values that
    are no class.
    """
    pictures = match_pictures(folder, records, family=family)
    pairs = [
        (record, prediction_record(path, record, family, label_ids))
        for record, path in zip(records, pictures, strict=True)
    ]
    size = max(1, min(IMAGES_A_TASK, len(pairs) // (8 * max(workers, 1))))
    tasks = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    count = functools.partial(_count_task, evaluator, reader)
    with tqdm(total=len(pairs), unit="images", disable=not sys.stderr.isatty()) as bar:
        evaluator.reset()
        total = evaluator.counts()
        for counts in map_in_processes(count, tasks, min(workers, len(tasks))):
            total = add_counts([total, counts])
            bar.update(int(counts[NUM_IMAGES]))
    return total


def match_pictures(folder: str, records: Sequence[Record], *, family: str = "", all_records: bool = True) -> list[str]:
    """The path of each record's picture; a warning lists pictures that belong to no record.

    all_records: False: these are some of a data set's images, and the others' pictures are no surprise.

    ValueError: pictures are missing, or there are several for an image.
    """
    # Pictures by name.
    found = list(_pictures_below(folder))
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in found:
        name = os.path.basename(path)[: -len(SUFFIX)]
        by_name[name].append(path)
        if family == "cityscapes" and (frame := _frame(name)) != name:
            by_name[frame].append(path)
    # Each image's picture.
    names = [os.path.splitext(os.path.basename(record["file_name"]))[0] for record in records]
    keys = [_frame(name) if family == "cityscapes" and name not in by_name else name for name in names]
    # What does not match.
    missing = [name + SUFFIX for name, key in zip(names, keys, strict=True) if key not in by_name]
    others = _other_files(folder, missing) if missing else []
    several = [path for key in dict.fromkeys(keys) if len(by_name.get(key, ())) > 1 for path in by_name[key]]
    extra = sorted(set(found) - {path for key in keys for path in by_name.get(key, ())})
    shown = [os.path.relpath(path, folder) for path in extra]
    if missing or several:
        raise ValueError(
            f"{folder} does not hold one picture for each of the {len(records)} images"
            + _listing("missing", missing)
            + _listing(f"named as these, but not {SUFFIX}, and not read", others)
            + _listing("several for one image", [os.path.relpath(path, folder) for path in several])
            + (_listing("of no image", shown) if all_records else "")
        )
    if extra and all_records:
        logger.warning("%s: not scored%s", folder, _listing("of no image", shown))
    return [by_name[key][0] for key in keys]


def prediction_record(path: str, record: Record, family: str = "", label_ids: bool = False) -> Record:
    """The record by which a picture is read as labels. ValueError: label_ids, but the data set has no raw values."""
    label_map = None
    if label_ids:
        label_map = CITYSCAPES_IDS if family == "cityscapes" else record.get("label_map")
        if not label_map:
            raise ValueError(f"{record['sem_seg_file_name']} holds labels as they are: leave out --label-ids")
    return {"file_name": path, "sem_seg_file_name": path, **({"label_map": label_map} if label_map else {})}


def _count_task(evaluator: SemSegEvaluator, reader: Reader, pairs: Sequence[tuple[Record, Record]]) -> Counts:
    """The counts of some images, of (record, its prediction's record)."""
    cv2.setNumThreads(1)  # processes are the parallelism
    evaluator.reset()
    for record, prediction in pairs:
        sample = {"file_name": prediction["file_name"], "instance_truth": None}
        if "instance_file_name" in record:
            sample["instance_truth"] = reader.instances(record)
        truth, labels = reader.labels(record), reader.labels(prediction)
        if labels.shape != truth.shape:
            raise ValueError(f"{prediction['file_name']} is {labels.shape} (height, width), its truth {truth.shape}")
        evaluator.count(labels, truth, sample)
    return evaluator.counts()


def _pictures_below(folder: str) -> Iterator[str]:
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"there is no folder {os.path.abspath(folder)}")
    for parent, folders, files in os.walk(folder):
        folders.sort()
        yield from (os.path.join(parent, name) for name in sorted(files) if name.lower().endswith(SUFFIX))


def _other_files(folder: str, missing: Sequence[str]) -> list[str]:
    """Files in the folder, and below, that are named as missing pictures are, with another ending."""
    wanted = {name[: -len(SUFFIX)] for name in missing}
    paths = [os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names]
    alike = [path for path in paths if os.path.splitext(os.path.basename(path))[0] in wanted]
    return sorted(os.path.relpath(path, folder) for path in alike)


def _frame(name: str) -> str:
    """CITY_SEQUENCE_FRAME of the name of a Cityscapes file."""
    return "_".join(name.split("_")[:3])


def _listing(what: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = [f"and {len(names) - LISTED} more"] if len(names) > LISTED else []
    return f"\n{what} ({len(names)}): {', '.join([*names[:LISTED], *more])}"
