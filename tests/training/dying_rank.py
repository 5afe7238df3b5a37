"""A tiny training whose rank 1 dies as asked: python -m tests.training.dying_rank [options] HOW ITERATION FOLDER

HOW: "raise" (reads a broken image), "kill" (SIGKILL), "live" (does not die).
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

from scaleeq import console
from scaleeq.data.reading import read_image
from scaleeq.engine import comm, default_argument_parser, run_job, setup_logger
from scaleeq.training import Trainer
from tests.training.tiny import tiny_config

OPTIONS = {"MODEL__TIMM__NAME": "test_convnext", "SOLVER__MAX_ITER": 4, "DATALOADER__NUM_WORKERS": 1}
BROKEN = "broken.png"


def main(args: argparse.Namespace) -> None:
    how, iteration, folder = args.opts[0], int(args.opts[1]), Path(args.opts[2])

    class Dying(Trainer):
        def run_step(self) -> None:
            if self.iter == iteration and comm.get_rank() == 1:
                if how == "raise":
                    (folder / BROKEN).write_bytes(b"not an image")
                    read_image({"file_name": str(folder / BROKEN)})
                if how == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                (folder / "reached").touch()
            super().run_step()

    setup_logger(str(folder / "run"), distributed_rank=comm.get_rank(), name="scaleeq")
    Dying(tiny_config(folder / "run", **{**OPTIONS, "SOLVER__MAX_ITER": 10**6 if how == "live" else 4})).train()


if __name__ == "__main__":
    console.run(lambda: run_job(main, default_argument_parser().parse_args()))
