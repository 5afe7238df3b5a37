"""The sbatch file of docs/, with stand-ins for srun and scontrol: no SLURM is here.

Two real processes train as one; a warning that the time is over has them save, and the file asks for the requeue.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .starting import free_port
from .tiny import OPTIONS

ROOT = Path(__file__).parents[2]
SRUN = """#!{python}
import os, signal, subprocess, sys
words = sys.argv[2:]  # after its own option
step = {{"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_STEP_NODELIST": "here"}}
tasks = [
    subprocess.Popen(words, env={{**os.environ, **step, "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)}})
    for task in range(2)
]
signal.signal(signal.SIGUSR1, lambda *_: [task.send_signal(signal.SIGUSR1) for task in tasks])
open("srun.pid", "w").write(str(os.getpid()))
sys.exit(max(task.wait() for task in tasks))
"""


@pytest.mark.slow
def test_two_tasks_are_one_training_that_saves_and_is_requeued_and_resumed(tmp_path):
    programs = {
        "srun": SRUN.format(python=sys.executable),
        "scontrol": '#!/bin/sh\necho "$@" >> requeued.txt\n',
        "scaleeq": f'#!/bin/sh\nexec {sys.executable} -m scaleeq "$@"\n',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    options = {**OPTIONS, "MODEL.TIMM.NAME": "test_resnet", "DATASETS.TEST": (), "SOLVER.MAX_ITER": 60}
    options |= {"OUTPUT_DIR": "run", "SOLVER.CHECKPOINT_PERIOD": 1000, "SOLVER.IMS_PER_BATCH": 2}
    pairs = [word for key, value in options.items() for word in (key, value if isinstance(value, str) else repr(value))]
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")},
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "projects" / "ScaleEq"),
        "CUDA_VISIBLE_DEVICES": "",
        "SLURM_JOB_ID": "4711",
        "MASTER_PORT": str(free_port()),
    }
    log = tmp_path / "log.txt"

    def batch(*words):
        with log.open("a") as file:
            line = ["bash", str(ROOT / "docs" / "train.sbatch"), str(ROOT / "configs" / "Base.yaml"), *pairs, *words]
            return subprocess.Popen(line, cwd=tmp_path, env=environment, stdout=file, stderr=file)

    first, until = batch(), time.monotonic() + 250
    metrics = tmp_path / "run" / "metrics.json"
    while not metrics.exists() and first.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(int((tmp_path / "srun.pid").read_text()), 10)
    assert first.wait(timeout=100) == 143, log.read_text()[-3000:]
    assert (tmp_path / "requeued.txt").read_text() == "requeue 4711\n"
    assert (tmp_path / "run" / "model_stopped.pth").exists()
    assert "log.txt.rank1" in os.listdir(tmp_path / "run"), "one run of two processes"
    assert batch().wait(timeout=250) == 0, log.read_text()[-3000:]
    assert (tmp_path / "run" / "model_final.pth").exists() and '"resumed": true' in metrics.read_text()
