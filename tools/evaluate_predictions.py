#!/usr/bin/env python3
"""Score label pictures that any framework has written: no model, no config.

    python tools/evaluate_predictions.py output/predictions --dataset ade20k_150_val
    python tools/evaluate_predictions.py results --dataset cityscapes_sem_seg_val --label-ids --json results.json

PRED_DIR, with the folders in it, holds a PNG for each image, of its name: NAME.png, one channel or a palette, labels
0..K-1; with --label-ids the raw values of the data set's own label files (Cityscapes' labelIds, ADE20K's 1..150). A
data set is a registered one or "folder:PATH/SPLIT", found under $DETECTRON2_DATASETS. The table is printed; --json
writes the same numbers, in the shape of a run's inference/results.json.
"""

from __future__ import annotations

import os

from scaleeq import console

console.start()

from scaleeq.data import find_dataset, read_labels
from scaleeq.data.reading import read_instances
from scaleeq.engine import setup_logger
from scaleeq.evaluation import ABSENT_POLICIES, Reader, score_predictions
from scaleeq.files import write_json


def main() -> None:
    parser = console.parser(__doc__)
    parser.add_argument("predictions", metavar="PRED_DIR")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="for example camvid_sem_seg_val")
    parser.add_argument("--json", metavar="FILE", help="where the results are written too")
    parser.add_argument(
        "--absent", default="exclude", choices=ABSENT_POLICIES, help="what becomes of classes that are in no truth"
    )
    parser.add_argument("--boundary", action="store_true", help="also trimap mIoU, boundary F-score, boundary IoU")
    parser.add_argument(
        "--workers", type=int, default=_num_cpus(), metavar="N", help="processes (default: %(default)s)"
    )
    parser.add_argument("--label-ids", action="store_true", help="the pictures hold the data set's raw values")
    arguments = parser.parse_args()

    find_dataset(arguments.dataset)
    setup_logger(name="scaleeq")
    results = score_predictions(
        arguments.predictions,
        arguments.dataset,
        Reader(labels=read_labels, instances=read_instances),
        absent=arguments.absent,
        boundary=arguments.boundary,
        label_ids=arguments.label_ids,
        workers=arguments.workers,
    )
    if arguments.json:
        write_json(arguments.json, results)


def _num_cpus() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    console.run(main, stopped="stopped; nothing is written")
