"""SLURM's variables, as srun(1) says that they are: no SLURM is here. Jobs of real processes: training/test_srun.py."""

from __future__ import annotations

import subprocess
import sys

import pytest

from scaleeq.slurm import first_host, join_step, without_step

STEP = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
}


def joined(changes, num_gpus=1, num_machines=1):
    environ = {name: value for name, value in {**STEP, **changes}.items() if value is not None}
    join_step(environ, num_gpus=num_gpus, num_machines=num_machines)
    return {name: value for name, value in environ.items() if not name.startswith("SLURM_")}


def test_a_task_of_srun_is_a_process_of_one_job():
    assert joined({}) == {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": str(20000 + 47112 % 10000),
    }
    one_machine = joined({"SLURM_STEP_TASKS_PER_NODE": "8", "MASTER_PORT": "1234"})
    assert one_machine["MASTER_ADDR"] == "127.0.0.1" and one_machine["MASTER_PORT"] == "1234"


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"SLURM_STEP_NUM_TASKS": None, "SLURM_NTASKS": "8"}, {}),  # a batch script
        ({"SLURM_STEP_NUM_TASKS": "1"}, {}),
        ({"TORCHELASTIC_RUN_ID": "none"}, {}),
        ({"RANK": "0"}, {}),
        ({}, {"num_gpus": 4, "num_machines": 2}),
    ],
)
def test_what_is_no_task_of_several_is_left_alone(changes, options):
    assert "WORLD_SIZE" not in joined(changes, **options)


@pytest.mark.parametrize(
    ("changes", "num_gpus", "message"),
    [
        ({}, 8, "srun has started 8 processes: leave out --num-gpus, and give srun --ntasks-per-node"),
        ({"SLURM_STEP_TASKS_PER_NODE": "6,2"}, 1, "srun has started 6, 2 processes on the machines"),
        ({"SLURM_STEP_NODELIST": None}, 1, "SLURM_STEP_NODELIST is not set"),
    ],
)
def test_contradictions_are_told_once(changes, num_gpus, message):
    with pytest.raises(ValueError, match=message):
        joined({**changes, "SLURM_PROCID": "0"}, num_gpus)
    with pytest.raises(SystemExit, match="2"):
        joined(changes, num_gpus)


@pytest.mark.parametrize(
    ("names", "first"),
    [("node1", "node1"), ("a,b", "a"), ("gpu[07-09,12],login", "gpu07"), ("n[3,5]-ib", "n3-ib"), ("r1c[2-4]", "r1c2")],
)
def test_the_first_machine_of_a_list(names, first):
    assert first_host(names) == first


def test_a_command_that_a_task_starts_is_a_job_of_its_own():
    environ = without_step(STEP)
    join_step(environ, num_gpus=1, num_machines=1)
    assert "RANK" not in environ and environ["SLURM_JOB_ID"] == "4711"


WARNED = """
import os, signal, sys
if sys.argv[1] == "handled":
    signal.signal(signal.SIGUSR1, lambda *_: print("its own"))
from scaleeq.stopping import check_stop, stop_signals
with stop_signals(at_once=False):
    os.kill(os.getpid(), signal.SIGUSR1)
    check_stop()
print("not stopped")
"""


@pytest.mark.parametrize(
    ("environ", "handler", "status", "told"),
    [
        ({"SLURM_JOB_ID": "1"}, "none", 143, ""),
        ({"SLURM_JOB_ID": "1"}, "handled", 0, "its own\nnot stopped\n"),  # submitit requeues by it
        ({}, "none", -10, ""),  # Python's own answer
    ],
)
def test_the_warning_before_the_end_of_a_jobs_time_is_a_stop_under_slurm_alone(
    monkeypatch, environ, handler, status, told
):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", WARNED, handler], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (status, told)
