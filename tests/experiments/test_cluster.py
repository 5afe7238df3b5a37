"""Runs on a Ray cluster of two nodes on this machine, and through submitit's executor for one machine: both real.

The jobs are small programs of this Python that answer SIGTERM as a training does; trainings are in test_lost_node.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from scaleeq.experiments.executors import Where, build_executor
from scaleeq.experiments.jobs import LOCK, Job
from scaleeq.stopping import Stopped
from tests.experiments.ray_nodes import ray_cluster
from tests.experiments.test_jobs import HOLD

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PLACES = ("ray", "slurm")
# Logs its start, with the process that watches it, and waits; SIGTERM: saves and ends; a second start: ends well.
PROGRAM = """
import os, signal, sys, time
folder = sys.argv[1]
def save(*_):
    open(folder + '/saved', 'w').close()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
with open(folder + '/log.txt', 'a') as log:
    log.write(f'{os.getppid()}\\n')
until = time.time() + 120
while sys.argv[2] == 'wait' and not os.path.exists(folder + '/saved') and time.time() < until:
    time.sleep(0.05)
"""


def job(folder, name, kind="end"):
    return Job(name, folder / name, [sys.executable, "-S", "-c", PROGRAM, str(folder / name), kind])


@pytest.fixture(scope="module")
def address():
    """Of a cluster with two nodes."""
    pytest.importorskip("ray")
    with ray_cluster(2) as cluster:
        yield cluster.address


@pytest.fixture(params=PLACES)
def place(request):
    if request.param == "ray":
        return Where("ray", ray_address=request.getfixturevalue("address"))
    pytest.importorskip("submitit")
    return Where("slurm", slurm={"cluster": "local"})


def executor(where, folder, said, jobs):
    return build_executor(
        replace(where, jobs=jobs),
        settled=lambda job: False,
        finished="done",
        environment=os.environ,
        logs=folder / ".submitit",
        say=said.append,
    )


def starts(folder):
    with contextlib.suppress(FileNotFoundError):
        return (folder / "log.txt").read_text().split()
    return []


def wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    assert condition()


def test_jobs_end_and_one_that_another_has_is_waited_for(tmp_path, place):
    """LOCK: another call's. One that is done, and one that fails, with the others."""
    said, ends = [], []
    jobs = [job(tmp_path, name) for name in "abc"] + [Job("f", tmp_path / "f", [sys.executable, "-c", "exit(3)"])]
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "done").touch()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "a"), LOCK]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"

        def end(end):
            ends.append((end.job.name, end.status))
            if len(ends) == 2:
                assert not starts(tmp_path / "a")
                holder.communicate("\n")

        executor(place, tmp_path, said, 2).run(jobs, end)
    assert sorted(ends) == [("a", 0), ("b", 0), ("f", 3)] and ends[-1][0] == "a"
    assert not starts(tmp_path / "c") and "c: another call has run it" in said
    assert [line.partition(" (")[0] for line in said if "process" in line] == ["a: is another call's"]


def test_a_stop_lets_the_runs_save(tmp_path, place):
    def stop():
        wait_for(lambda: starts(tmp_path / "a"))
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(Stopped, match="143"):
        executor(place, tmp_path, [], 1).run([job(tmp_path, "a", "wait"), job(tmp_path, "b")], lambda end: None)
    wait_for(lambda: (tmp_path / "a" / "saved").exists(), 10)
    assert not starts(tmp_path / "b")


def test_a_job_whose_time_is_over_saves_and_is_requeued(tmp_path):
    """SIGUSR1, as SLURM sends it, reaches the process that watches the run."""
    said = []
    pytest.importorskip("submitit")
    place = executor(Where("slurm", slurm={"cluster": "local"}), tmp_path, said, 1)

    def preempt():
        wait_for(lambda: starts(tmp_path / "a"))
        os.kill(int(starts(tmp_path / "a")[0]), signal.SIGUSR1)

    threading.Thread(target=preempt, daemon=True).start()
    [end] = place.run([job(tmp_path, "a", "wait")], lambda end: None)
    first, second = starts(tmp_path / "a")
    assert end.status == 0 and (tmp_path / "a" / "saved").exists() and first != second
    assert not [line for line in said if "lost" in line], "submitit has requeued it"
