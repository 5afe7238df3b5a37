"""Real comparisons, as small as they get: toy scenes as files of CamVid's layout, at 32 pixels; three iterations."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from scaleeq.commands import compare
from scaleeq.engine import DatasetCatalog
from scaleeq.experiments.execute import _Progress, execute, run_folder
from scaleeq.experiments.executors import Where
from scaleeq.experiments.jobs import End, Job, Pool
from scaleeq.experiments.plan import read_plan
from scaleeq.experiments.run_table import compare_runs, runs_table, write_runs
from scaleeq.experiments.summary import summarize_comparison
from tests.experiments.folders import write_run
from tests.training.kill_run import write_scenes

ROOT = Path(__file__).parents[2]
TRAIN, COMPARE = ROOT / "tools" / "train_net.py", ROOT / "tools" / "compare.py"
OVERRIDES = {
    "MODEL.DEVICE": "cpu",
    "MODEL.TIMM.NAME": "test_resnet",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 8,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 11,
    "MODEL.AUX_HEAD.CONVS_DIM": 8,
    "MODEL.SCALE_EQUALIZER.NUM_IMAGES": 4,
    "DATASETS.TRAIN": ["camvid_sem_seg_train"],
    "DATASETS.TEST": ["camvid_sem_seg_val"],
    "INPUT.MIN_SIZE_TRAIN": [32],
    "INPUT.MIN_SIZE_TEST": 32,
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.MAX_ITER": 3,
}
DIVERGING = {  # as far as the ranges of the keys go
    "SOLVER.OPTIMIZER": "SGD",
    "SOLVER.BASE_LR": 100.0,
    "SOLVER.WEIGHT_DECAY": 0.0,
    "MODEL.SEM_SEG_HEAD.NORM": "",
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": 1000.0,
}
EQUALIZED = {"MODEL.SCALE_EQUALIZER.ENABLED": True}


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    write_scenes(tmp_path / "datasets")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "projects" / "ScaleEq"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def write(folder, variants, **changes):
    content = {
        "base": str(ROOT / "configs" / "Base.yaml"),
        "overrides": OVERRIDES,
        "seeds": [0],
        "baseline": "off",
        "variants": variants,
        **changes,
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def running_in(folder):
    """Processes whose command lines name something in the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{folder}/" in (entry / "cmdline").read_text():
                found.append(entry.name)
    return found


@pytest.mark.slow
def test_a_failed_run_is_shown_and_the_others_go_on(tmp_path, scenes):
    path = write(tmp_path, {"diverging": DIVERGING, "off": {}}, seeds=[2])
    plan, said = read_plan(path), []
    failed = execute(plan, tmp_path / "out", train=[str(TRAIN)], where=Where(jobs=2), say=said.append)
    text = "\n".join(said)
    assert [end.job.name for end in failed] == ["seed 2 diverging"], text
    assert "FAILED" in text and "not finite" in text and "SOLVER.BASE_LR" in text
    content = summarize_comparison(plan, tmp_path / "out")
    assert content["missing"] == ["diverging, seed 2"] and content["variants"]["off"]["n"] == 1
    record = content["variants"]["off"]["runs"]["2"]
    assert 0 <= record["value"] <= 100 and record["seconds"] > 0 and "--resume" in record["command"]
    assert yaml.safe_load((tmp_path / "out" / "off" / "seed_2" / "config.yaml").read_text())["SEED"] == 2

    [row] = compare_runs([tmp_path / "out" / "off"])
    assert row["sem_seg/mIoU"] == record["value"] and "trained, not evaluated again" in runs_table([row])
    path = write(tmp_path, {"diverging": DIVERGING, "off": {"SOLVER.MAX_ITER": 4}}, seeds=[2])
    with pytest.raises(ValueError, match=r"another config.*\n  SOLVER.MAX_ITER: 3 -> 4\n.*--output"):
        execute(read_plan(path), tmp_path / "out", train=[str(TRAIN)])


def test_runs_that_are_there_are_not_run_again(tmp_path, scenes):
    plan, said = read_plan(write(tmp_path, {"off": {}, "equalized": EQUALIZED}, seeds=[0, 1])), []
    for variant, seed in plan.runs():
        write_run(run_folder(tmp_path / "out", variant, seed), 50.0)
    (tmp_path / "train.py").write_text(f"open({str(tmp_path / 'started')!r}, 'a').write('.')")
    assert (
        execute(plan, tmp_path / "out", train=[str(tmp_path / "train.py")], where=Where(jobs=1), say=said.append) == []
    )
    assert not (tmp_path / "started").exists() and "4 of 4 runs are there already" in said


def test_the_time_left_is_that_of_the_runs_so_far(tmp_path):
    """Three runs wait after one of 40 s, two after another of 20 s; then, in pairs, one after one of 60 s."""
    pool, said = Pool(jobs=1), []
    metrics = {tmp_path / f"{left}": ["sem_seg/mIoU"] for left in range(4)}
    progress = _Progress(metrics, num_runs=4, executor=pool, say=said.append)
    for left, seconds in ((3, 40.0), (2, 20.0), (1, 60.0), (0, 40.0)):
        job = Job(f"{left}", tmp_path / f"{left}", ["train"])
        write_run(job.folder, 50.0)
        pool.waiting, pool.limit = [job] * left, 1 + (left == 1)
        progress(End(job, 0, seconds, None))
    endings = [line.partition(f", {seconds} s")[2] for line, seconds in zip(said, (40, 20, 60, 40), strict=True)]
    assert endings == ["; about 2 min left", "; about 60 s left", "; about 20 s left", ""]


def test_what_cannot_run_is_refused_before_anything_runs(tmp_path, scenes):
    for changes, message in (
        ({"DATASETS.TRAIN": ["camvid_sem_seg_trian"]}, "variant other.*camvid_sem_seg_train"),
        ({"MODEL.SEM_SEG_HEAD.NAME": "PSPHead"}, "variant other.*PSPHead reads 1 level"),
        ({"SOLVER.WARMUP_ITERS": 5}, "variant other.*SOLVER.WARMUP_ITERS"),
    ):
        plan = read_plan(write(tmp_path, {"off": {}, "other": changes}))
        with pytest.raises((KeyError, ValueError), match=message):
            execute(plan, tmp_path / "out", train=[str(TRAIN)], where=Where(jobs=1))
    assert not (tmp_path / "out").exists()


def test_a_stop_before_the_first_run_ends_at_once(tmp_path, scenes, monkeypatch, capsys):
    """The terminal is closed while the data sets of the variants are read, which may take long."""
    path, read = write(tmp_path, {"off": {}, "equalized": EQUALIZED}), []

    def closed_meanwhile():
        if not read:
            os.kill(os.getpid(), signal.SIGHUP)
        read.append("all of it")
        return load()

    load = DatasetCatalog[OVERRIDES["DATASETS.TRAIN"][0]]
    monkeypatch.setitem(DatasetCatalog.data, OVERRIDES["DATASETS.TRAIN"][0], closed_meanwhile)
    words = [str(path), "--output", str(tmp_path / "out"), "--jobs", "1"]
    assert compare.run(compare.parse(compare.parser(), words)) == 143
    assert read == [] and "Stopped by SIGTERM" in capsys.readouterr().out
    assert not list(tmp_path.rglob("metrics.json"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stopped_comparison_goes_on_and_ends_as_an_unbroken_one(tmp_path, scenes):
    """The command itself: 2 variants x 2 seeds, stopped after its first run."""
    path = write(tmp_path, {"off": {}, "equalized": EQUALIZED}, seeds=[0, 1])

    def command(output, *words):
        line = [sys.executable, str(COMPARE), str(path), "--output", str(tmp_path / output), "--jobs", "2", *words]
        return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    stopped = command("stopped")
    until = time.monotonic() + 200
    while not list((tmp_path / "stopped").rglob("run.json")) and stopped.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(stopped.pid, signal.SIGHUP)  # the terminal was closed
    text = stopped.communicate(timeout=60)[0]
    assert not running_in(tmp_path / "stopped")
    assert stopped.returncode == 143 and "The same command goes on" in text and "Missing runs" in text, text
    done = {run: run.stat().st_mtime_ns for run in (tmp_path / "stopped").rglob("run.json")}
    assert 1 <= len(done) < 4

    again = [command("stopped"), command("unbroken"), command("stopped")]  # two callers of one folder
    texts = [process.communicate(timeout=280)[0] for process in again]
    assert [process.returncode for process in again] == [0, 0, 0], texts
    assert f"{len(done)} of 4 runs are there already" in texts[0]
    assert "is another call's (process" in texts[0] + texts[2]
    assert "Missing runs" not in texts[0] + texts[2], "each has waited for all"
    assert all(run.stat().st_mtime_ns == changed for run, changed in done.items()), "they were not run again"
    first, second = (json.loads((tmp_path / name / "comparison.json").read_text()) for name in ("stopped", "unbroken"))
    assert first["comparisons"] == second["comparisons"] and first["missing"] == []
    assert command("stopped", "--summary-only").wait(timeout=100) == 0


def test_a_table_over_runs(tmp_path):
    """results.json as --eval-only writes it (training/evaluate.py); a run without one is listed all the same."""
    for name, miou, channels in (("a", 61.25, 64), ("b", 62.5, 96)):
        folder = tmp_path / name
        (folder / "inference").mkdir(parents=True)
        results = {
            "sem_seg": {"mIoU": miou},
            "parameters": 1_500_000,
            "multiply_adds": 2_000_000_000,
            "seconds_per_image": 0.05,
            "engine": "standalone",
            "weights_kind": "ema",
        }
        (folder / "inference" / "results.json").write_text(json.dumps(results))
        (folder / "config.yaml").write_text(f"MODEL:\n  PYRAMID:\n    CHANNELS: {channels}\nOUTPUT_DIR: {name}\n")
    records = compare_runs([tmp_path])
    assert [record["differs_in"] for record in records] == [{"MODEL.PYRAMID.CHANNELS": n} for n in (64, 96)]
    row = next(line for line in runs_table(records).splitlines() if "62.50" in line)
    assert [cell.strip() for cell in row.split("|")[2:9]] == [
        "62.50", "1.50", "2.00", "50.0", "ema", "standalone", "MODEL.PYRAMID.CHANNELS 96",
    ]  # fmt: skip
    paths = write_runs(records, tmp_path / "table")
    assert json.loads(paths[0].read_text())["runs"][0]["sem_seg/mIoU"] == 61.25 and "61.25" in paths[1].read_text()
    with pytest.raises(FileNotFoundError, match="--eval-only"):
        compare_runs([tmp_path / "table"])
