"""toy/multitask killed in the middle: it ends as a run that was never killed, to the bit. Oracle: the unbroken run."""

from __future__ import annotations

import json
import signal
import time

import pytest

from .kill_check import Part, damage, differences, metric_differences, whole_lines
from .kill_moments import last_tag, start_of
from .kill_run import Attempt
from .test_kills import finished

ITERATIONS = 6
OPTIONS = {
    "MODEL.DEVICE": "cpu",
    "MODEL.TIMM.NAME": "test_resnet",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 8,
    "MODEL.SEM_SEG_HEAD.DROPOUT": 0.3,
    "MODEL.PYRAMID.CHANNELS": 8,
    "MODEL.SCALE_EQUALIZER.ENABLED": True,
    "MODEL.SCALE_EQUALIZER.SCOPE": "all",
    "MODEL.SCALE_EQUALIZER.NUM_IMAGES": 8,
    "MODEL.SCALE_EQUALIZER.STATISTICS_PERIOD": 2,
    "INPUT.CROP.ENABLED": True,
    "INPUT.CROP.TYPE": "absolute",
    "INPUT.CROP.SIZE": [64, 64],
    "DATALOADER.NUM_WORKERS": 1,
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.ACCUMULATE": 2,
    "SOLVER.EMA_DECAY": 0.9,
    "SOLVER.MAX_ITER": ITERATIONS,
    "SOLVER.WARMUP_ITERS": 2,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "SOLVER.KEEP_CHECKPOINTS": 2,
    "TEST.EVAL_PERIOD": 3,
    "TEST.EDGES.MATCH": False,
    "TEST.BEST_METRIC": "normals/mean",
}
VARIANTS = {
    "plain": {},
    "interacting": {
        "MODEL.TASKS.INTERACTION": "pad_net",
        "MODEL.TASKS.WEIGHTING": "uncertainty",
        "MODEL.TASKS.WEIGHTS": [],
    },
}

pytestmark = pytest.mark.slow  # processes


def command(folder, options):
    folder.mkdir()
    words = [str(word) for pair in (OPTIONS | options).items() for word in pair]
    return ["--config-file", "toy/multitask", "--resume", *words, "OUTPUT_DIR", str(folder / "run")]


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_killed_run_of_four_tasks_ends_as_an_unbroken_one(tmp_path, monkeypatch, variant):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = {name: command(tmp_path / name, VARIANTS[variant]) for name in ("unbroken", "killed")}
    unbroken = Attempt(tmp_path / "unbroken" / "run", words["unbroken"], watched=False)
    assert finished(unbroken, 600) == 0, (tmp_path / "unbroken" / "console.txt").read_text()[-3000:]
    attempt = Attempt(tmp_path / "killed" / "run", words["killed"], watched=False)
    while not attempt.ended() and not last_tag(attempt.output_dir):
        time.sleep(0.001)
    time.sleep(0.05)
    assert attempt.kill(), f"it ended before the kill with {attempt.status}"
    assert attempt.status == -signal.SIGKILL and not damage(attempt.output_dir)
    parts = [Part(0, whole_lines(attempt.output_dir))]
    resumed = Attempt(attempt.output_dir, words["killed"], watched=False)
    assert finished(resumed, 600) == 0, (tmp_path / "killed" / "console.txt").read_text()[-3000:]
    start = start_of(resumed.log())
    assert start is not None and 0 < start < ITERATIONS
    parts.append(Part(start, whole_lines(resumed.output_dir)))
    assert not differences(unbroken.output_dir, resumed.output_dir)
    assert not metric_differences(unbroken.output_dir, resumed.output_dir, parts, steps={})
    best = json.loads((resumed.output_dir / "model_best.json").read_text())
    assert best["metric"] == "normals/mean" and 0 < best["value"] < 180
