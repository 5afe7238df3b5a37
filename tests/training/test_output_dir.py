"""A folder that holds another run, a run that is resumed with another config, a disk that is too small."""

from __future__ import annotations

import logging
import os
import shutil

import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from scaleeq.data.sets.toy import CLASSES, render_scene
from scaleeq.engine import DatasetCatalog, SafeCheckpointer
from scaleeq.training.output_dir import (
    check_disk_space,
    check_output_dir,
    checkpoint_bytes,
    evaluation_config,
    log_changes,
)

from .tiny import OneStep, tiny_config


@pytest.fixture
def log(caplog):
    """The messages, whether or not another test has set up the loggers of a run."""
    logger = logging.getLogger("scaleeq.training.output_dir")
    logger.addHandler(caplog.handler)
    propagate, logger.propagate = logger.propagate, False
    yield caplog
    logger.propagate = propagate
    logger.removeHandler(caplog.handler)


def run_of(cfg, *files):
    """The folder of a run with that config and these empty files."""
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    with open(os.path.join(cfg.OUTPUT_DIR, "config.yaml"), "w") as file:
        file.write(cfg.dump())
    for name in files:
        with open(os.path.join(cfg.OUTPUT_DIR, name), "w"):
            pass
    return cfg


@pytest.mark.parametrize("file", ["last_checkpoint", "model_0000009.pth", "model_final.pth", "model_best.pth"])
def test_a_fresh_run_does_not_overwrite_another(tmp_path, file):
    cfg = run_of(tiny_config(tmp_path / "run"), file, "metrics.json")
    before = sorted(os.listdir(tmp_path / "run"))
    with pytest.raises(ValueError, match=rf"OUTPUT_DIR .*run holds .*{file}.*--resume.*OUTPUT_DIR.*delete"):
        check_output_dir(cfg, resume=False)
    assert sorted(os.listdir(tmp_path / "run")) == before
    assert check_output_dir(cfg, resume=True) == []
    assert check_output_dir(cfg, resume=False, eval_only=True) == []


def test_a_folder_without_checkpoints_is_free(tmp_path):
    assert check_output_dir(tiny_config(tmp_path / "new"), resume=False) == []
    assert not (tmp_path / "new").exists()
    cfg = run_of(tiny_config(tmp_path), "metrics.json", "log.txt", ".model_final.pth.part")
    assert check_output_dir(cfg, resume=False) == []
    another = tiny_config(tmp_path, MODEL__SEM_SEG_HEAD__CONVS_DIM=16)
    assert check_output_dir(another, resume=True) == []  # nothing to resume: it starts from the beginning


def test_a_resumed_run_may_be_longer_and_says_so(tmp_path, log):
    run_of(tiny_config(tmp_path), "last_checkpoint")
    longer = tiny_config(
        tmp_path / ".", SOLVER__MAX_ITER=9, SOLVER__BASE_LR=0.5, DATALOADER__NUM_WORKERS=7, MODEL__COMPILE=True
    )
    changes = check_output_dir(longer, resume=True)
    expected = ["MODEL.COMPILE: False -> True", "SOLVER.BASE_LR: 0.002 -> 0.5", "SOLVER.MAX_ITER: 3 -> 9"]
    assert changes == expected
    log_changes(changes)
    log_changes([])
    assert len(log.records) == 1
    assert all(line in log.text for line in expected)


def test_a_resumed_run_is_of_the_same_model(tmp_path):
    run_of(tiny_config(tmp_path), "last_checkpoint")
    other = tiny_config(
        tmp_path,
        MODEL__SEM_SEG_HEAD__CONVS_DIM=16,
        MODEL__TIMM__NAME="resnet34",
        SOLVER__MAX_ITER=9,
        MODEL__WEIGHTS="a",
    )
    with pytest.raises(ValueError, match="--resume") as error:
        check_output_dir(other, resume=True)
    assert "MODEL.SEM_SEG_HEAD.CONVS_DIM: 8 -> 16" in str(error.value)
    assert "MODEL.TIMM.NAME: 'resnet18' -> 'resnet34'" in str(error.value)
    assert "WEIGHTS" not in str(error.value) and "MAX_ITER" not in str(error.value)


@pytest.mark.parametrize("known", [True, False])
def test_a_resumed_run_computes_as_it_began(tmp_path, known):
    """A run that began before there were the keys computed plainly."""
    plain = tiny_config(tmp_path, SOLVER__FUSED=False, MODEL__FUSION__EVALUATE="plain")
    run_of(plain, "last_checkpoint")
    if not known:
        tree = yaml.safe_load(plain.dump())
        del tree["SOLVER"]["FUSED"], tree["MODEL"]["FUSION"]["EVALUATE"]
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    assert check_output_dir(plain, resume=True) == []
    with pytest.raises(ValueError, match="--resume") as error:
        check_output_dir(tiny_config(tmp_path), resume=True)
    assert "SOLVER.FUSED: False -> True" in str(error.value)
    assert "MODEL.FUSION.EVALUATE: 'plain' -> ''" in str(error.value)


def test_a_config_that_a_kill_cut_short_is_not_compared(tmp_path):
    cfg = run_of(tiny_config(tmp_path), "last_checkpoint")
    text = (tmp_path / "config.yaml").read_text()
    for end in (*range(0, len(text), 211), len(text) - 2):  # the last one in the middle of a value
        (tmp_path / "config.yaml").write_text(text[:end])
        assert all(line.startswith("config.yaml: not compared") for line in check_output_dir(cfg, resume=True)), end


def test_a_config_that_would_run_code_is_not_read(tmp_path):
    cfg = run_of(tiny_config(tmp_path), "last_checkpoint")
    (tmp_path / "config.yaml").write_text(f"A: !!python/object/apply:os.mkdir [{tmp_path / 'made'}]\n")
    assert "not compared" in check_output_dir(cfg, resume=True)[0]
    assert not (tmp_path / "made").exists()


def test_a_config_of_an_older_version_is_compared_in_what_both_have(tmp_path):
    cfg = run_of(tiny_config(tmp_path), "last_checkpoint")
    tree = yaml.safe_load(cfg.dump())
    del tree["MODEL"]["CHANNELS_LAST"], tree["MODEL"]["LOSS"]["OHEM"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    assert check_output_dir(cfg, resume=True) == []


# ---------------------------------------------------------------------------------------------------- data


def trained_on_files(folder, name=""):
    """A run of one step on toy scenes as files; its config, and the data sets' folder. name: of the data set."""
    base = folder / "first" / "moving"
    name = name or f"folder:{base}"
    for split, count in (("train", 6), ("val", 3)):
        for kind in ("images", "labels"):
            (base / kind / split).mkdir(parents=True)
        for index in range(count):
            image, labels = render_scene(split, index)
            Image.fromarray(image).save(base / "images" / split / f"{index}.png")
            Image.fromarray(labels).save(base / "labels" / split / f"{index}.png")
    (base / "classes.txt").write_text("\n".join(CLASSES))
    sets = {"DATASETS__TRAIN": (f"{name}/train",), "DATASETS__TEST": (f"{name}/val",)}
    short = {"SOLVER__MAX_ITER": 1, "SOLVER__WARMUP_ITERS": 0, "MODEL__TIMM__NAME": "test_resnet"}
    cfg = tiny_config(folder / "run", **sets, **short)
    trainer = OneStep(cfg)
    trainer.train()
    trainer.checkpointer.save("model_0000000", iteration=0)
    (folder / "run" / "config.yaml").write_text(cfg.dump())
    return cfg, base


@pytest.mark.parametrize(("split", "key"), [("train", "DATASETS.TRAIN"), ("val", "DATASETS.TEST")])
def test_a_run_is_not_resumed_on_other_data(tmp_path, split, key):
    cfg, base = trained_on_files(tmp_path)
    assert check_output_dir(cfg, resume=True) == []
    OneStep(cfg).resume_or_load()
    for kind in ("images", "labels"):
        os.unlink(base / kind / split / "1.png")
    count = {"train": 6, "val": 3}[split]
    words = (
        rf"--resume in .*run, but its data have changed: {key} folder:.*/{split} has {count - 1} images, the run began "
    )
    words += rf"with {count}: they differ from image 2 on, now 2.png\. Put .* OUTPUT_DIR"
    for refused in (lambda: check_output_dir(cfg, resume=True), OneStep(cfg).resume_or_load):
        with pytest.raises(ValueError, match=words) as refusal:
            refused()
        assert "\n" not in str(refusal.value)
    assert check_output_dir(tiny_config(tmp_path / "new"), resume=False) == []


def test_data_that_have_moved_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "first"))
    cfg, base = trained_on_files(tmp_path, name="folder:moving")
    shutil.copytree(base, tmp_path / "second" / "moving")
    shutil.rmtree(base)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "second"))
    DatasetCatalog.remove("folder:moving/train")  # a process looks for a folder once
    DatasetCatalog.remove("folder:moving/val")
    assert check_output_dir(cfg, resume=True) == []


def test_a_checkpoint_of_an_older_version_is_resumed_with_a_warning(tmp_path, caplog):
    cfg, base = trained_on_files(tmp_path)
    content = torch.load(tmp_path / "run" / "model_0000000.pth", weights_only=True)
    assert len(content["trainer"].pop("data")["DATASETS.TRAIN"][f"folder:{base}/train"]) == 6
    torch.save(content, tmp_path / "run" / "model_0000000.pth")
    for kind in ("images", "labels"):
        os.unlink(base / kind / "train" / "1.png")
    assert check_output_dir(cfg, resume=True) == []
    OneStep(cfg).resume_or_load()
    assert caplog.text.count("does not say on which images the run began") == 1


def test_an_evaluation_writes_into_its_own_folder(tmp_path):
    cfg = tiny_config(tmp_path)
    evaluation, training = evaluation_config(cfg).OUTPUT_DIR, cfg.OUTPUT_DIR
    assert (evaluation, training) == (str(tmp_path / "inference"), str(tmp_path))


# ---------------------------------------------------------------------------------------------------- disk


def small_model():
    """Some thousand weights and a buffer; a part of the weights does not train."""
    model = nn.Sequential(nn.Linear(300, 300), nn.BatchNorm1d(300), nn.Linear(300, 100))
    model[0].requires_grad_(False)
    return model


OPTIMIZERS = {
    "ADAMW": (2, lambda parameters: torch.optim.AdamW(parameters)),
    "SGD": (1, lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("average", [False, True])
def test_the_estimate_is_the_file_that_is_written(tmp_path, name, average):
    """Oracle: a checkpoint."""
    states, build = OPTIMIZERS[name]
    model = small_model()
    optimizer = build([parameter for parameter in model.parameters() if parameter.requires_grad])
    model(torch.randn(4, 300)).sum().backward()
    optimizer.step()
    extra = {"ema": {k: v.clone() for k, v in model.state_dict().items()}} if average else {}
    SafeCheckpointer(model, str(tmp_path), optimizer=optimizer).save("model", **extra)
    written = (tmp_path / "model.pth").stat().st_size
    assert checkpoint_bytes(model, optimizer_states=states, average=average) == pytest.approx(written, abs=20_000)


@pytest.mark.parametrize("momentum, states", [(0.9, 1), (0.0, 0)])
def test_sgd_without_momentum_keeps_no_state(tmp_path, momentum, states):
    model = small_model()
    size = checkpoint_bytes(model, optimizer_states=states, average=False)
    cfg = tiny_config(tmp_path, SOLVER__OPTIMIZER="SGD", SOLVER__NESTEROV=False, SOLVER__MOMENTUM=momentum)
    check_disk_space(cfg, model, free_bytes=size)
    with pytest.raises(OSError, match="a checkpoint of this run takes"):
        check_disk_space(cfg, model, free_bytes=size - 1)


def test_one_checkpoint_must_fit_and_all_should(tmp_path, log):
    model = small_model()
    size = checkpoint_bytes(model, optimizer_states=2, average=True)
    cfg = tiny_config(
        tmp_path / "new" / "run", SOLVER__EMA_DECAY=0.9, SOLVER__MAX_ITER=100, SOLVER__CHECKPOINT_PERIOD=10
    )
    with pytest.raises(OSError, match=rf"about 1 MB.*OUTPUT_DIR {tmp_path}/new/run has 1 MB"):
        check_disk_space(cfg, model, free_bytes=size - 1)
    check_disk_space(cfg, model, free_bytes=6 * size)  # three kept, best, final, and one beside them
    assert not log.records
    check_disk_space(cfg, model, free_bytes=6 * size - 1)
    assert "Little disk space" in log.text and "up to 5 will be kept" in log.text
    check_disk_space(cfg, model)  # asks the file system
    assert not (tmp_path / "new").exists()


def test_what_an_earlier_part_of_the_run_left_is_not_needed_again(tmp_path, log):
    model = small_model()
    size = checkpoint_bytes(model, optimizer_states=2, average=False)
    cfg = tiny_config(tmp_path, SOLVER__KEEP_CHECKPOINTS=0, SOLVER__MAX_ITER=30, SOLVER__CHECKPOINT_PERIOD=10)
    for index in range(4):
        (tmp_path / f"model_{index:07}.pth").write_bytes(bytes(size))
    check_disk_space(cfg, model, free_bytes=2 * size)
    assert not log.records
    check_disk_space(cfg, model, free_bytes=2 * size - 1)
    assert "Little disk space" in log.text


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="no file system in memory to fill")
def test_a_file_system_that_is_really_too_small(tmp_path):
    free = shutil.disk_usage("/dev/shm").free
    model = nn.Module()
    with torch.device("meta"):  # counted, never allocated
        model.weight = nn.Parameter(torch.empty(free // 4 // 3 + 10**6))
    with pytest.raises(OSError, match="/dev/shm/run"):
        check_disk_space(tiny_config("/dev/shm/run"), model)
