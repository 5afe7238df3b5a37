"""Convert the labels of a data set that are no pictures; prints the names that can be used then.

    scaleeq data prepare voc2012-trainaug         SBD's .mat files and VOC's labels -> SegmentationClassAug
    scaleeq data prepare pascal-context           trainval_merged.json -> SegmentationClassContext
    scaleeq data prepare coco-stuff-10k           .mat files of v1.0 or v1.1 -> annotations_v10 or _v11
    python tools/prepare_dataset.py ...           the same

Stop it and start it again as you like: what is there and right is kept. A second run checks every picture.
HDF5 files of MATLAB's and COCO's masks need two libraries more: pip install 'scaleeq[data]'.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from scaleeq import console

from .words import counting

STOPPED = "stopped; the same command goes on from here"
DATASETS = ("voc2012-trainaug", "pascal-context", "coco-stuff-10k")


def parser() -> argparse.ArgumentParser:
    parser = console.parser(__doc__)
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument("--root", help="the directory of all data sets; default: $DETECTRON2_DATASETS, or ./datasets")
    parser.add_argument("--workers", type=counting, default=os.cpu_count() or 1, help="processes; default: one a core")
    parser.add_argument("--allow-incomplete", action="store_true", help="go on with fewer images than officially")
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> None:
    import logging

    from scaleeq.data.preparation import prepare_dataset

    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    names = prepare_dataset(
        arguments.dataset,
        root=arguments.root,
        workers=arguments.workers,
        allow_incomplete=arguments.allow_incomplete,
    )
    print(*names, sep="\n")
