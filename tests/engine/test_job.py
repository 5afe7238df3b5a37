"""run_job in the process that calls it: what it starts, what it raises, what it leaves behind.

Jobs of real processes are in tests/training: test_dying_ranks.py, test_signals.py.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from typing import Any

import pytest
import torch

from scaleeq.engine import default_argument_parser, job, run_job
from scaleeq.stopping import Stopped, stop_requested


@pytest.fixture(autouse=True)
def without_torchrun_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def options(processes: int) -> argparse.Namespace:
    return default_argument_parser().parse_args(["--num-gpus", str(processes)])


def test_an_error_of_one_process_is_raised_as_it_is() -> None:
    error = ValueError("a mistake")

    def main(args: argparse.Namespace) -> None:
        raise error

    with pytest.raises(ValueError, match="a mistake") as caught:
        run_job(main, options(0))
    assert caught.value is error


def test_the_stop_of_a_job_is_not_that_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of the first job notes a signal; the program that has started the job goes on."""

    def launch(function: Any, processes: int, *, args: tuple[Any, ...], **others: Any) -> None:
        assert processes == 2
        args[-1].value = signal.SIGTERM

    monkeypatch.setattr(job, "launch", launch)
    with pytest.raises(Stopped, match="143"):
        run_job(pytest.fail, options(2))
    assert stop_requested() == 0
    seen: list[argparse.Namespace] = []
    run_job(seen.append, options(1))
    assert len(seen) == 1


def test_the_launch_is_that_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(job, "launch", lambda function, processes, **others: told.update(others, processes=processes))
    words = ["--num-gpus", "2", "--num-machines", "3", "--machine-rank", "1", "--dist-url", "tcp://10.0.0.1:29500"]
    run_job(pytest.fail, default_argument_parser().parse_args(words))
    assert (told["processes"], told["num_machines"], told["machine_rank"]) == (2, 3, 1)
    assert told["dist_url"] == "tcp://10.0.0.1:29500"


RANK = """
import argparse, multiprocessing, signal, sys
from scaleeq.engine import job
from scaleeq.stopping import Stopped

def main(args):
    raise Stopped(signal.SIGTERM)

asked = multiprocessing.get_context("spawn").Value("i", 0) if sys.argv[1] == "launched" else None
try:
    job._run_rank(main, argparse.Namespace(), asked)
    print("returned", asked.value)
except Stopped as stop:
    print("raised", stop.number)
"""


@pytest.mark.parametrize(("by", "told"), [("launched", "returned 15"), ("torchrun", "raised 15")])
def test_a_stopped_process_returns_to_its_launcher_and_raises_under_torchrun(by: str, told: str) -> None:
    """Elsewhere, since such a process takes no further signal."""
    done = subprocess.run([sys.executable, "-c", RANK, by], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == told
