"""Starts tools/train_net.py's main several times in one folder; writes what it answered. Run by test_train_net."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from scaleeq.engine import default_argument_parser

from .tiny import BASE, OPTIONS, tiny_config

TOOL = Path(__file__).parents[2] / "tools" / "train_net.py"
EXPECTED = [["sem_seg", "mIoU", 50.0, 50.0]]


def main(folder: Path) -> None:
    spec = importlib.util.spec_from_file_location("train_net", TOOL)
    train_net = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train_net)
    tiny_config(folder)  # registers its data sets

    def start(*options: str, **changes: Any) -> str:
        """What it said when it refused; empty: it did not."""
        keys = {**OPTIONS, "TEST.EXPECTED_RESULTS": EXPECTED, "TEST.VALIDATION_LOSS": True, **changes}
        keys |= {"OUTPUT_DIR": folder / "run"}
        words = [str(word) for pair in keys.items() for word in pair]
        arguments = default_argument_parser().parse_args(["--config-file", str(BASE), *options, *words])
        try:
            train_net.main(arguments)
        except ValueError as error:
            return str(error)
        return ""

    outcome = {
        "fresh": start(),
        "fresh again": start(),
        "resumed": start("--resume", **{"SOLVER.BASE_LR": 0.001}),
        "evaluated": start("--eval-only", "--resume", **{"INPUT.MIN_SIZE_TEST": 64}),
        "another model": start("--resume", **{"MODEL.SEM_SEG_HEAD.CONVS_DIM": 16}),
    }
    (folder / "outcome.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
