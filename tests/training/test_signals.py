"""A run that a signal ends: after its step, with a checkpoint, and as an unbroken one in the end. Real signals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from scaleeq.engine import HookBase, seed_all_rng
from scaleeq.stopping import Stopped
from scaleeq.training import Trainer

from .kill_check import damage, differences, load, step_differences
from .kill_killer import run_unbroken
from .kill_moments import EVALUATION, last_tag, phase_of, start_of
from .kill_run import ITERATIONS, Attempt, arguments, write_scenes
from .starting import WAYS, Job, commands
from .tiny import BASE, OPTIONS, OneStep, tiny_config

FAST = {"MODEL__TIMM__NAME": "test_resnet", "DATASETS__TEST": ()}


class Signal(HookBase):
    """Sends this process a signal in one place of one iteration."""

    def __init__(self, where: str, iteration: int = 0, number: int = signal.SIGTERM) -> None:
        self.place = where, iteration
        self.number = number

    def _at(self, where: str) -> None:
        if self.place == (where, self.trainer.iter):
            os.kill(os.getpid(), self.number)

    def before_train(self) -> None:
        self._at("before training")

    def before_step(self) -> None:
        self._at("step")

    def after_step(self) -> None:
        self._at("hooks")


def trained(cfg, *hooks, kind=Trainer):
    seed_all_rng(0)  # of the initial weights
    trainer = kind(cfg)
    trainer.register_hooks(hooks)
    trainer.resume_or_load(resume=True)
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("number", "status", "where", "done"),
    [
        (signal.SIGINT, 130, "step", 1),
        (signal.SIGTERM, 143, "step", 1),
        (signal.SIGHUP, 143, "step", 1),
        (signal.SIGTERM, 143, "before training", 0),
        (signal.SIGTERM, 143, "hooks", 2),
    ],
)
def test_what_was_trained_is_kept(tmp_path, number, status, where, done):
    """A signal while the hooks run, as while a checkpoint is written, is answered after the next step."""
    cfg = tiny_config(tmp_path / "run", SOLVER__MAX_ITER=5, SOLVER__CHECKPOINT_PERIOD=100, **FAST)
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    iteration = 0 if where == "before training" else 1
    with pytest.raises(Stopped) as stop:
        trained(cfg, Signal(where, iteration, number))
    assert stop.value.code == status and stop.value.told
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers
    assert not (tmp_path / "run" / ".running").exists()
    assert load(tmp_path / "run" / last_tag(tmp_path / "run"))["iteration"] == done
    again = trained(cfg)
    assert again.start_iter == done + 1
    trained(tiny_config(tmp_path / "unbroken", SOLVER__MAX_ITER=5, SOLVER__CHECKPOINT_PERIOD=100, **FAST))
    assert not differences(tmp_path / "unbroken", tmp_path / "run"), "and no checkpoint more"


def test_a_regular_checkpoint_needs_no_second_one(tmp_path):
    cfg = tiny_config(tmp_path, SOLVER__MAX_ITER=4, SOLVER__CHECKPOINT_PERIOD=2, **FAST)
    with pytest.raises(Stopped):
        trained(cfg, Signal("step", 1))
    assert last_tag(tmp_path) == "model_0000001.pth" and not (tmp_path / "model_stopped.pth").exists()
    with pytest.raises(Stopped):
        trained(cfg, Signal("step", 2))
    assert last_tag(tmp_path) == "model_stopped.pth"
    with pytest.raises(Stopped):
        trained(cfg, Signal("step", 3))
    assert last_tag(tmp_path) == "model_final.pth", "the last step was done"
    names = sorted(path.name for path in tmp_path.glob("model_*.pth"))
    assert names == ["model_0000001.pth", "model_0000003.pth", "model_final.pth"]


class InEvaluation(Trainer):
    """Gets a signal when it begins its first evaluation."""

    def evaluate(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return super().evaluate()


def test_an_evaluation_is_cut_and_made_up_for(tmp_path):
    """What was trained since the last checkpoint is kept then, too; EarlyStop looks when its number is there."""
    changes = {"SOLVER__CHECKPOINT_PERIOD": 100, "TEST__EVAL_PERIOD": 2, "SOLVER__EARLY_STOP_PATIENCE": 5}
    cfg = tiny_config(tmp_path / "run", SOLVER__MAX_ITER=4, MODEL__TIMM__NAME="test_resnet", **changes)
    with pytest.raises(Stopped):
        trained(cfg, kind=InEvaluation)
    assert load(tmp_path / "run" / "model_stopped.pth")["iteration"] == 1
    assert not (tmp_path / "run" / "model_best.json").exists()
    with pytest.raises(Stopped):
        trained(cfg, Signal("step", 3))  # of the second evaluation's step
    assert json.loads((tmp_path / "run" / "model_best.json").read_text())["evaluated"] == 1
    trained(cfg)
    other = tiny_config(tmp_path / "unbroken", SOLVER__MAX_ITER=4, MODEL__TIMM__NAME="test_resnet", **changes)
    trained(other)
    assert not differences(tmp_path / "unbroken", tmp_path / "run")


def test_off_the_main_thread_a_training_leaves_signals_alone(tmp_path):
    before, results = signal.getsignal(signal.SIGTERM), []

    class Look(HookBase):
        def after_step(self):
            results.append(signal.getsignal(signal.SIGTERM))

    def work():
        trainer = OneStep(tiny_config(tmp_path, SOLVER__MAX_ITER=1, SOLVER__WARMUP_ITERS=0, **FAST))
        trainer.register_hooks([Look()])
        trainer.train()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == [before]


# ---------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    write_scenes(tmp_path / "datasets")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))


@pytest.mark.slow
def test_the_command_answers_to_all_its_processes_being_told(tmp_path, scenes):
    """Its loader's worker among them, as by Ctrl-C or a scheduler; in a step, and in an evaluation."""
    unbroken = run_unbroken(tmp_path / "unbroken", "float32")
    (tmp_path / "told").mkdir()
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        attempt = Attempt(tmp_path / "told" / "run", arguments(tmp_path / "told" / "run"), watched=True)
        phase = "step" if number == signal.SIGTERM else EVALUATION
        while not attempt.ended() and not (attempt.steps() and phase_of(attempt) == phase):
            time.sleep(0.001)
        attempt.send(number, "group")
        assert attempt.wait(60.0) and attempt.status == status, attempt.log()[-2000:]
        assert f"Stopped by {signal.Signals(number).name}; the same command with --resume goes on" in attempt.log()
        done = attempt.steps()[-1]["iteration"]
        assert load(attempt.output_dir / last_tag(attempt.output_dir))["iteration"] == done < ITERATIONS - 1
        assert not damage(attempt.output_dir) and not step_differences(unbroken.steps, attempt.steps())
    last = Attempt(tmp_path / "told" / "run", arguments(tmp_path / "told" / "run"), watched=True)
    assert last.wait(120.0) and last.status == 0 and start_of(last.log()) == done + 1
    assert not differences(unbroken.output_dir, last.output_dir)


def two(folder: Path, way: str) -> Job:
    """A training of two processes that would take hours."""
    options = {
        **OPTIONS,
        "MODEL.TIMM.NAME": "test_convnext",
        "DATASETS.TEST": (),
        "SOLVER.IMS_PER_BATCH": 4,
        "SOLVER.MAX_ITER": 10**6,
        "OUTPUT_DIR": folder / "run",
    }
    words = ["--resume", "--config-file", str(BASE), *(str(word) for pair in options.items() for word in pair)]
    return Job(commands(way, ["tools/train_net.py"], words), folder)


def start_in(job: Job) -> int:
    """Wait until some steps are done; the id of the process of rank 1."""
    log = job.folder / "run" / "log.txt.rank1"
    until = time.monotonic() + 200
    while "  iter: " not in job.output() and time.monotonic() < until:
        time.sleep(0.05)
    assert log.is_file(), job.output()
    return next(pid for pid in job.pids() if any(log.samefile(path) for path in open_files(pid)))


def open_files(pid: int) -> list[Path]:
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed since
            target = Path(os.readlink(entry))
            found += [target] if target.is_file() else []
    return found


@pytest.fixture
def start(tmp_path):
    """`two` in tmp_path, and an end to what it has started."""
    jobs = []
    yield lambda way: jobs.append(two(tmp_path, way)) or jobs[-1]
    for job in jobs:
        job.clean_up()


@pytest.mark.slow
@pytest.mark.parametrize("way", [WAYS[0], WAYS[2]])
@pytest.mark.parametrize("to", ["the command", "rank 1", "all"])
def test_all_ranks_end_at_one_step(tmp_path, start, way, to):
    job = start(way)
    rank1 = start_in(job)
    if to == "all":
        os.killpg(job.processes[0].pid, signal.SIGTERM)
    else:
        os.kill(rank1 if to == "rank 1" else job.processes[0].pid, signal.SIGTERM)
    [status] = job.wait(60)
    assert not job.left_over()
    if way == WAYS[0]:
        assert status == 143, job.output()
    else:
        assert status != 0  # torchrun has its own
    checkpoint = load(tmp_path / "run" / last_tag(tmp_path / "run"))
    assert last_tag(tmp_path / "run") == "model_stopped.pth" and checkpoint["iteration"] >= 19
    assert "Stopped by SIGTERM" in (tmp_path / "run" / "log.txt").read_text()
    if to == "rank 1" and way == WAYS[0]:
        again = start(way)
        os.kill(start_in(again), signal.SIGINT)
        assert again.wait(60) == [130]
        assert load(tmp_path / "run" / "model_stopped.pth")["iteration"] > checkpoint["iteration"]
