"""Say in plain words what is wrong with data sets, and what to do; most important first.

    scaleeq data check camvid_sem_seg_train camvid_sem_seg_val --all
    scaleeq data check path/to/folder --sheet sheet.png
    python tools/check_dataset.py ...                            the same

A folder holds images/, labels/ and classes.txt, and all of its splits are checked; it is looked for as given, then
under $DETECTRON2_DATASETS (default ./datasets). A name is one of DATASETS.TRAIN and DATASETS.TEST, found there too.
Exit code: 0 all is fine, 1 there are faults, 2 wrong usage.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from scaleeq import console
from scaleeq.files import require_writable, write_json

from .words import counting, positive

STOPPED = "stopped; nothing is written"
DEFAULT_SAMPLE = 200


def parser() -> argparse.ArgumentParser:
    parser = console.parser(__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME_OR_FOLDER")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--all", action="store_true", help="read every image")
    amount.add_argument(
        "--sample",
        type=positive,
        metavar="N",
        default=DEFAULT_SAMPLE,
        help="read N images of each; default %(default)s",
    )
    parser.add_argument("--workers", type=counting, metavar="N", help="processes; default: one a core; 0: this one")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="write a picture of images and their labels")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report, with all file names")
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    arguments = parser.parse_args(argv)
    if arguments.sheet:
        require_writable(arguments.sheet, key="--sheet")
    if arguments.json:
        require_writable(arguments.json, key="--json")
    return arguments


def run(arguments: argparse.Namespace) -> int:
    from scaleeq.data.check.splits import names_of
    from scaleeq.reports.data import ALL, check_datasets, draw_sheets

    names = list(dict.fromkeys(name for argument in arguments.names for name in names_of(argument)))
    sample = ALL if arguments.all else arguments.sample
    reports = check_datasets(names, sample=sample, workers=arguments.workers)
    print("\n".join(report.text() for report in reports))
    if arguments.sheet:
        for path in draw_sheets(reports, arguments.sheet):
            print(path)
    if arguments.json:
        write_json(arguments.json, {"datasets": [report.to_dict() for report in reports]})
    return 1 if any(report.faults for report in reports) else 0
