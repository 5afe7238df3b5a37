"""A process of a job dies: the job ends, the cause is the last thing printed, and no process is left. Real processes.

A job has four minutes to start and end, which a busy machine may need; without an end of its own it would wait for half
an hour.
"""

from __future__ import annotations

import argparse
import re
import time

import pytest

from scaleeq.engine import default_argument_parser, run_job
from scaleeq.engine.job import is_lost_connection
from tests.training.dying_rank import BROKEN
from tests.training.starting import WAYS, Job, commands

PROGRAM = ["-m", "tests.training.dying_rank"]
LIMIT_S = 240
PROCESSES, MACHINES, TORCHRUN = WAYS


def job(folder, way, how, iteration=1):
    return Job(commands(way, PROGRAM, [how, str(iteration), str(folder)]), folder)


def last_lines(text, number=3):
    return "\n".join([line for line in text.splitlines() if line.strip()][-number:])


# In its last iteration: the end of training, which follows from there, would exchange things with processes that wait
# for something else.
@pytest.mark.slow
@pytest.mark.parametrize("iteration", [1, 3])
def test_an_error_of_one_process_is_what_the_command_says_last(tmp_path, iteration):
    dying = job(tmp_path, PROCESSES, "raise", iteration)
    assert dying.wait(LIMIT_S) == [2]
    assert re.search(f"^error: {re.escape(str(tmp_path / BROKEN))} cannot be read", last_lines(dying.output(), 1))
    assert [line[:7] for line in dying.output().splitlines()].count("error: ") == 1
    assert not dying.left_over()


@pytest.mark.slow
def test_a_killed_process_is_named(tmp_path):
    dying = job(tmp_path, PROCESSES, "kill")
    assert dying.wait(LIMIT_S) == [1]
    assert re.match(r"rank 1 \(process \d+\) was killed by SIGKILL", last_lines(dying.output(), 1))
    assert not dying.left_over()


@pytest.mark.slow
def test_an_error_on_one_machine_ends_the_other(tmp_path):
    dying = job(tmp_path, MACHINES, "raise")
    assert dying.wait(LIMIT_S) == [1, 2]
    assert "rank 0 lost the connection to another process of the job" in last_lines(dying.output(0), 1)
    assert re.search(f"^error: {re.escape(str(tmp_path / BROKEN))} cannot be read", last_lines(dying.output(1), 1))
    assert not dying.left_over()


@pytest.mark.slow
def test_a_machine_that_is_gone_ends_the_other(tmp_path):
    living = job(tmp_path, MACHINES, "live")
    end = time.monotonic() + LIMIT_S
    while not (tmp_path / "reached").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert (tmp_path / "reached").exists(), living.output()
    living.kill_machine(1)
    assert living.wait(60) == [1, -9], "within a minute"
    assert "rank 0 lost the connection to another process of the job" in last_lines(living.output(0), 1)
    assert not living.left_over()


@pytest.mark.slow
@pytest.mark.parametrize(("how", "said"), [("raise", "cannot be read: it is not"), ("kill", r"Signal 9 \(SIGKILL\)")])
def test_torchrun_names_the_process_and_its_error(tmp_path, how, said):
    dying = job(tmp_path, TORCHRUN, how)
    assert dying.wait(LIMIT_S) == [1]
    root_cause = dying.output().rpartition("Root Cause")[2]
    assert re.search(r"rank +: 1 ", root_cause)
    assert re.search(said, root_cause)
    assert not dying.left_over()


# ---------------------------------------------------------------------------------------------------- no job at all


def start(*words):
    run_job(pytest.fail, default_argument_parser().parse_args(list(words)))


def test_contradicting_options_are_refused(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="--dist-url tcp://HOST:PORT"):
        start("--num-machines", "2")
    with pytest.raises(ValueError, match="--dist-url tcp://HOST:PORT"):
        start("--num-machines", "2", "--dist-url", "auto")
    with pytest.raises(ValueError, match="numbered from 0"):
        start("--num-machines", "2", "--dist-url", "tcp://localhost:1", "--machine-rank", "2")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(ValueError, match="torchrun has started the processes: leave out --num-gpus"):
        start("--num-gpus", "2")
    with pytest.raises(ValueError, match="LOCAL_WORLD_SIZE"):
        start()


def test_one_process_is_a_call(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    seen: list[argparse.Namespace] = []
    run_job(seen.append, default_argument_parser().parse_args(["--num-gpus", "0", "A", "1"]))
    assert [args.opts for args in seen] == [["A", "1"]]


def chained(first, second):
    try:
        try:
            raise first
        except Exception as error:
            raise second from error
    except Exception as error:
        return error


def test_only_what_went_wrong_first_counts_as_a_lost_connection():
    lost = RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:5")
    assert is_lost_connection(lost)
    assert is_lost_connection(chained(lost, KeyError("x")))
    assert not is_lost_connection(chained(ValueError("a broken image"), lost))
    assert not is_lost_connection(ValueError("Connection closed by peer"))
