"""metrics.json over a resume and a kill, the moment of writing, Weights & Biases offline."""

from __future__ import annotations

import importlib.util
import json
import math
import struct
import sys
import time

import numpy as np
import pytest
from PIL import Image

from scaleeq.commands.train import drawing_trainer
from scaleeq.engine import EvalHook, EventWriter, TrainerBase, default_writers, get_event_storage
from scaleeq.training.writers import EvaluationWriter, MetricsFile, WandbWriter, run_writers

from .tiny import TEST_SET, tiny_config


class Writing(TrainerBase):
    """Puts its iteration as a loss, and as an evaluation every second time; writes every third."""

    def __init__(self, output_dir, eval_period=2):
        super().__init__()
        evaluation = EvalHook(eval_period, lambda: {"sem_seg": {"mIoU": float(self.iter)}})
        writer = EvaluationWriter(default_writers(str(output_dir)), period=3, eval_period=eval_period)
        self.register_hooks([MetricsFile(str(output_dir)), evaluation, writer])

    def run_step(self):
        self.storage.put_scalar("loss", self.iter, smoothing_hint=False)


def lines(output_dir):
    return [json.loads(line) for line in (output_dir / "metrics.json").read_text().splitlines()]


def test_evaluations_are_written_at_once(tmp_path):
    Writing(tmp_path).train(0, 5)
    assert lines(tmp_path) == [
        {"iteration": 1, "loss": 1.0, "sem_seg/mIoU": 1.0},
        {"iteration": 2, "loss": 2.0},
        {"iteration": 3, "loss": 3.0, "sem_seg/mIoU": 3.0},
        {"iteration": 4, "loss": 4.0},
        {"iteration": 5, "sem_seg/mIoU": 5.0},
    ]


def test_both_moments_at_once_are_one(tmp_path):
    Writing(tmp_path, eval_period=3).train(0, 4)
    assert [line["iteration"] for line in lines(tmp_path)] == [2, 3, 4]


def taken(new):
    """The pictures that there are, which are then gone."""
    found = dict(new)
    new.clear()
    return found


def test_pictures_of_an_evaluation_are_written_with_it_in_a_step_or_after_one():
    shown: list[str] = []
    new: dict[str, np.ndarray] = {}

    class Shows(EventWriter):
        def write(self):
            shown.extend(name for name, _, _ in get_event_storage()._vis_data)

    class Evaluated(TrainerBase):
        def run_step(self):
            if self.iter == 1:
                new["in a step"] = np.zeros((2, 3, 3), np.uint8)

        def after_train(self):
            new["after all"] = np.zeros((2, 3, 3), np.uint8)
            writer.evaluated_now()
            assert shown == ["in a step", "after all"]
            super().after_train()

    trainer, writer = Evaluated(), EvaluationWriter([Shows()], period=1, pictures=lambda: taken(new))
    trainer.register_hooks([writer])
    trainer.train(0, 3)
    assert shown == ["in a step", "after all"], "each once"


def test_a_fresh_file_has_no_mark(tmp_path):
    Writing(tmp_path).train(0, 1)
    assert not any("resumed" in line for line in lines(tmp_path))


@pytest.mark.parametrize("torn", ["", "{", '{"iteration": 2, "loss": 2.0}'])
def test_a_resume_is_marked_and_a_torn_line_dropped(tmp_path, torn):
    """The torn text has no end of line: even where it looks whole, what followed may be missing."""
    Writing(tmp_path).train(0, 2)
    before = lines(tmp_path)
    with (tmp_path / "metrics.json").open("a") as file:
        file.write(torn)
    Writing(tmp_path).train(1, 3)
    marked = lines(tmp_path)
    assert marked[: len(before)] == before
    assert marked[len(before)] == {"iteration": 1, "resumed": True}
    assert [line["iteration"] for line in marked[len(before) + 1 :]] == [1, 2, 3]


def test_a_file_with_nothing_but_a_torn_line_is_emptied(tmp_path):
    (tmp_path / "metrics.json").write_text('{"iter')
    Writing(tmp_path).train(0, 3)
    assert [line["iteration"] for line in lines(tmp_path)] == [1, 2, 3]


class Numbers(TrainerBase):
    """Puts numbers that JSON has not, beside one that it has."""

    def __init__(self, writers):
        super().__init__()
        self.register_hooks([EvaluationWriter(writers, period=1)])

    def run_step(self):
        self.storage.put_scalar("loss", 2.0 + self.iter, smoothing_hint=False)
        self.storage.put_scalar("grad_norm", [math.inf, math.nan, -math.inf, 3.0][self.iter], smoothing_hint=False)


def test_metrics_are_json_and_otherwise_those_of_the_engine(tmp_path):
    cfg = tiny_config(tmp_path / "ours")
    Numbers(run_writers(cfg, 4)).train(0, 4)
    ours = (tmp_path / "ours" / "metrics.json").read_text().splitlines()
    Numbers(default_writers(str(tmp_path / "theirs"), 4)).train(0, 4)
    theirs = (tmp_path / "theirs" / "metrics.json").read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail) for line in ours] == [
        {"iteration": 0, "loss": 2.0},
        {"iteration": 1, "loss": 3.0},
        {"iteration": 2, "loss": 4.0},
        {"grad_norm": 3.0, "iteration": 3, "loss": 5.0},
    ]
    assert ours[3] == theirs[3] and "NaN" in theirs[1]


# ---------------------------------------------------------------------------------------------------- wandb


def read_back(file):
    """A .wandb file's run and history: wandb's messages in a log of LevelDB's format, in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    content, position, message = file.read_bytes(), 7, b""  # after the signature
    run, history = None, []
    while len(content) - position >= 7:
        if 32768 - position % 32768 < 7:  # too short for a header: filled with zeros
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        message += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record.FromString(message)
            message = b""
            if record.HasField("run"):
                run = record.run
            if record.HasField("history"):
                items = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
                }
                history.append({key: value for key, value in items.items() if not key.startswith("_")})
    return run, history


class OnWandb(TrainerBase):
    """Two losses, one of them smoothed."""

    def __init__(self, cfg):
        super().__init__()
        self.register_hooks([EvaluationWriter([WandbWriter.from_config(cfg)], period=2)])

    def run_step(self):
        self.storage.put_scalar("loss", [8.0, 1.0, 2.0, 4.0, 5.0, 6.0][self.iter])
        self.storage.put_scalar("lr", 0.1 * self.iter, smoothing_hint=False)


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed: pip install wandb")
def test_wandb_shows_the_scalars_and_one_run_over_a_resume(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    cfg = tiny_config(tmp_path, WANDB__NAME="a name", WANDB__PROJECT="a project")
    OnWandb(cfg).train(0, 4)
    run_id = (tmp_path / "wandb_run_id.txt").read_text()
    time.sleep(1.1)  # the folder of a part is named after the second
    OnWandb(cfg).train(2, 5)  # the iteration 2 comes again, as after a kill
    sys.modules["wandb"].teardown()  # ends its service, which has the files open
    files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    parts = [read_back(file) for file in files]
    assert [run.run_id for run, _ in parts] == [run_id, run_id]
    run, history = parts[0]
    assert (run.project, run.display_name) == ("a project", "a name")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["MODEL"]["TIMM"]["NAME"] == "resnet18"
    assert history == [
        {"iteration": 1, "loss": 4.5, "lr": pytest.approx(0.1)},  # the median of the window
        {"iteration": 3, "loss": 3.0, "lr": pytest.approx(0.3)},
    ]
    assert [line["iteration"] for line in parts[1][1]] == [3, 4]


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed: pip install wandb")
def test_wandb_shows_the_pictures_of_an_evaluation(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    picture = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    new = {"confusion/a set": picture}

    class Evaluated(TrainerBase):
        def run_step(self):
            self.storage.put_scalar("loss", 1.0)

    writer = EvaluationWriter([WandbWriter.from_config(tiny_config(tmp_path))], period=2, pictures=lambda: taken(new))
    trainer = Evaluated()
    trainer.register_hooks([writer])
    trainer.train(0, 2)
    sys.modules["wandb"].teardown()
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    history = read_back(file)[1]
    shown = next(line for line in history if any(key.startswith("confusion") for key in line))
    assert shown["iteration"] == 0 and "loss" not in shown
    (media,) = (tmp_path / "wandb").glob("offline-run-*/files/media/images/**/*.png")
    with Image.open(media) as image:
        assert np.array_equal(np.asarray(image), picture)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed: pip install wandb")
def test_a_training_shows_predictions_scales_and_confusion_on_wandb(tmp_path, monkeypatch):
    """The command's own trainer, for two steps and an evaluation after each; the run's files are read back."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    changes = {"MODEL__TIMM__NAME": "test_resnet", "SOLVER__MAX_ITER": 2, "TEST__EVAL_PERIOD": 1}
    cfg = tiny_config(tmp_path, WANDB__ENABLED=True, MODEL__SCALE_EQUALIZER__ENABLED=True, **changes)
    trainer = drawing_trainer()(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    sys.modules["wandb"].teardown()
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    (file,) = folder.glob("*.wandb")
    _, history = read_back(file)
    assert {line["iteration"] for line in history if "total_loss" in line} == {0, 1}
    evaluated = [line["iteration"] for line in history if "sem_seg/mIoU" in line]
    for name in (f"predictions/{TEST_SET}", f"confusion/{TEST_SET}", "scales"):
        shown = [line["iteration"] for line in history if any(key.startswith(f"{name}/") for key in line)]
        media = sorted((folder / "files" / "media" / "images").glob(f"{name}_*.png"))
        assert shown == evaluated == [0, 2] and len(media) == 2, name  # the last one is after the last step
        with Image.open(media[-1]) as image:
            assert min(image.size) > 100 and len(image.convert("RGB").getcolors(2**24)) > 10
