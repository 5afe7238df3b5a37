#!/usr/bin/env python3
"""Convert the labels of a data set that are no pictures; prints the names that can be used then.

    python tools/prepare_dataset.py voc2012-trainaug      SBD's .mat files and VOC's labels -> SegmentationClassAug
    python tools/prepare_dataset.py pascal-context        trainval_merged.json -> SegmentationClassContext
    python tools/prepare_dataset.py coco-stuff-10k        .mat files of v1.0 or v1.1 -> annotations_v10 or _v11

Stop it and start it again as you like: what is there and right is kept. A second run checks every picture.
MATLAB's files need two libraries more: pip install -e '.[prepare]'.
"""

from __future__ import annotations

import logging
import os

from scaleeq import console

console.start()

from scaleeq.data.preparation import CONVERSIONS, prepare_dataset


def main() -> None:
    parser = console.parser(__doc__)
    parser.add_argument("dataset", choices=CONVERSIONS)
    parser.add_argument("--root", help="the directory of all data sets; default: $DETECTRON2_DATASETS, or ./datasets")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; default: one per core")
    parser.add_argument("--allow-incomplete", action="store_true", help="go on with fewer images than officially")
    arguments = parser.parse_args()

    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    names = prepare_dataset(
        arguments.dataset,
        root=arguments.root,
        workers=arguments.workers,
        allow_incomplete=arguments.allow_incomplete,
    )
    print(*names, sep="\n")


if __name__ == "__main__":
    console.run(main, stopped="stopped; the same command goes on from here")
