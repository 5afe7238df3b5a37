"""The device that a run gets, and what a user types wrong: told before the model is built, with the way out."""

from __future__ import annotations

import logging
import sys
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from scaleeq import console
from scaleeq.data.sets.camvid import load_camvid
from scaleeq.data.sets.catalog import register_dataset
from scaleeq.engine import DatasetCatalog, MetadataCatalog, load_config
from scaleeq.training import Trainer, choose_device
from scaleeq.training.expected import metric_names, require_expected
from scaleeq.training.setup import check_before_evaluation, check_before_training

from .tiny import OTHER_TEST_SET, TEST_SET, tiny_config


@pytest.fixture
def log(caplog):
    """The text of this module's messages, whether or not another test has set up the loggers of a run."""
    logger = logging.getLogger("scaleeq.training.setup")
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, logger.name):
        yield caplog
    logger.removeHandler(caplog.handler)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the CUDA device that the config asks for")
def test_without_cuda_the_cpu_is_chosen_and_the_log_says_so(log):
    cfg = load_config("")
    assert cfg.MODEL.DEVICE == "cuda"
    choose_device(cfg)
    assert cfg.MODEL.DEVICE == "cpu"
    assert "no CUDA device" in log.text


def test_the_cpu_stays_the_cpu(log):
    cfg = load_config("", ["MODEL.DEVICE", "cpu"])
    choose_device(cfg)
    assert cfg.MODEL.DEVICE == "cpu"
    assert not log.text


# ---------------------------------------------------------------------------------------------------- keys


def test_nothing_is_wrong_with_the_tiny_config(tmp_path):
    check_before_training(tiny_config(tmp_path))


@pytest.mark.parametrize("check", [check_before_training, check_before_evaluation])
def test_a_config_that_was_changed_in_python_is_checked_too(tmp_path, check):
    cfg = tiny_config(tmp_path)
    check(cfg)
    cfg.defrost()
    cfg.MODEL.SEM_SEG_HEAD.DROPOUT = 2.0
    with pytest.raises(ValueError, match=r"MODEL.SEM_SEG_HEAD.DROPOUT is 2\.0"):
        check(cfg)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SOLVER__WARMUP_ITERS": 3}, r"WARMUP_ITERS is 3.*MAX_ITER = 3"),
        ({"SOLVER__WARMUP_ITERS": 1500}, r"WARMUP_ITERS is 1500"),
        ({"SOLVER__WARMUP_ITERS": -1}, r"WARMUP_ITERS is -1"),
        ({"SOLVER__MAX_ITER": 0}, r"MAX_ITER is 0"),
        ({"SOLVER__CHECKPOINT_PERIOD": 0}, r"CHECKPOINT_PERIOD is 0"),
        ({"SOLVER__LR_SCHEDULER_NAME": "WarmupMultiStepLR", "SOLVER__STEPS": (1, 3, 9)}, r"at 3, 9.*MAX_ITER = 3"),
        ({"SOLVER__ACCUMULATE": 4}, r"IMS_PER_BATCH.*2 samples.*4 passes"),
        ({"SOLVER__EARLY_STOP_PATIENCE": 2}, r"EARLY_STOP_PATIENCE is 2.*EVAL_PERIOD 0"),
        ({"SOLVER__EARLY_STOP_PATIENCE": 2, "TEST__EVAL_PERIOD": 3}, r"EVAL_PERIOD 3.*MAX_ITER 3"),
        ({"SOLVER__EARLY_STOP_PATIENCE": 2, "TEST__EVAL_PERIOD": 1, "DATASETS__TEST": ()}, r"EARLY_STOP_PATIENCE"),
        ({"TEST__EXPECTED_RESULTS": [["sem_seg", "mIoU", 80.0]]}, r"EXPECTED_RESULTS.*tolerance"),
        ({"TEST__EXPECTED_RESULTS": ["sem_seg", "mIoU", 80.0, 1.0]}, r"EXPECTED_RESULTS.*tolerance"),
        ({"TEST__EXPECTED_RESULTS": [["sem_seg", "mIoU", 80.0, -1.0]]}, r"nothing can meet"),
        (
            {"TEST__EXPECTED_RESULTS": [["sem_seg", "mIoU", 80.0, 1.0]], "DATASETS__TEST": (TEST_SET, OTHER_TEST_SET)},
            r"EXPECTED_RESULTS.*one data set",
        ),
        ({"DATASETS__TRAIN": ()}, r"DATASETS.TRAIN is empty"),
        ({"MODEL__SEM_SEG_HEAD__NUM_CLASSES": 1}, r"NUM_CLASSES is 1, but .* 8 classes; set it to 8"),
        ({"MODEL__META_ARCHITECTURE": "ScaleSegmentor"}, r"MODEL.META_ARCHITECTURE is .*ScaleEqSegmentor"),
        ({"MODEL__BACKBONE__NAME": "build_tim_backbone"}, r"MODEL.BACKBONE.NAME is .*did you mean build_timm_backbone"),
        ({"MODEL__SEM_SEG_HEAD__NAME": "UperHead"}, r"MODEL.SEM_SEG_HEAD.NAME is .*did you mean UPerHead"),
        ({"DATASETS__TEST": ("toy_sem_seg_vla",)}, r"DATASETS.TEST: there is no data set.*toy_sem_seg_val"),
    ],
)
def test_keys_that_do_not_go_together(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        check_before_training(tiny_config(tmp_path, **changes))


EXPECTED = {
    "a value above all": (["sem_seg", "mIoU", 101.0, 1.0], r"mIoU is in \[0, 100\]"),
    "a value below all": (["sem_seg", "mIoU", -1.0, 5.0], r"mIoU is in \[0, 100\]"),
    "a task": (["semseg", "mIoU", 50.0, 1.0], r"'semseg'; choose one of sem_seg"),
    "a metric": (["sem_seg", "miou", 50.0, 1.0], r"'miou'; choose one of mIoU, .*did you mean mIoU"),
    "a class": (["sem_seg", "IoU-skye", 50.0, 1.0], r"'IoU-skye'.*did you mean IoU-sky\?"),
    "no such evaluator": (["validation", "loss", 1.0, 1.0], r"'validation'; choose one of sem_seg"),
    "near boundaries": (["sem_seg", "boundary_IoU", 50.0, 1.0], r"TEST.BOUNDARY is False"),
}


@pytest.mark.parametrize("case", EXPECTED)
def test_results_that_no_run_can_have(tmp_path, case):
    row, message = EXPECTED[case]
    with pytest.raises(ValueError, match=f"TEST.EXPECTED_RESULTS.*{message}|{message}.*TEST.EXPECTED_RESULTS"):
        Trainer.check(tiny_config(tmp_path, TEST__EXPECTED_RESULTS=[row]))


def test_results_that_a_run_can_have(tmp_path):
    rows = [["sem_seg", "IoU-sky", 100, 0.0], ["validation", "loss", 3.0, 1.0], ["sem_seg", "trimap_mIoU_3px", 5, 1]]
    with console.quiet():
        names = metric_names(tiny_config(tmp_path, TEST__BOUNDARY=True), TEST_SET)["sem_seg"]
    rows[2][1] = next(name for name in names if "trimap" in name)
    changes = {"TEST__EXPECTED_RESULTS": rows, "TEST__VALIDATION_LOSS": True, "TEST__BOUNDARY": True}
    Trainer.check(tiny_config(tmp_path, **changes))


def test_keys_that_do_go_together(tmp_path):
    steps = {"SOLVER__LR_SCHEDULER_NAME": "WarmupMultiStepLR", "SOLVER__STEPS": (1, 2)}
    check_before_training(tiny_config(tmp_path, **steps))
    check_before_training(tiny_config(tmp_path, SOLVER__STEPS=(100,)))  # poly does not read them
    stop = {"SOLVER__EARLY_STOP_PATIENCE": 1, "TEST__EVAL_PERIOD": 1}
    check_before_training(tiny_config(tmp_path, TEST__EXPECTED_RESULTS=[["sem_seg", "IoU-sky", 1, 0.5]], **stop))


# ---------------------------------------------------------------------------------------------------- data sets

KEYS = ("DATASETS__TRAIN", "DATASETS__TEST")


@pytest.fixture
def add_set():
    """name, records (or a function that returns them) -> name, registered, with the toy scenes' eight classes."""
    added = []

    def add(name, records, num_classes=8):
        load = records if callable(records) else partial(list, records)
        register_dataset(name, load, classes=list("abcdefgh")[:num_classes], colors=[(0, 0, 0)] * num_classes)
        added.append(name)
        return name

    yield add
    for name in added:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def picture_records(folder, labels, number=6):
    """Records of `number` pictures, whose last but two have the labels, the others nothing but zeros."""
    records = []
    for index in range(number):
        image, truth = folder / f"{index}.png", folder / f"{index}_labels.png"
        Image.fromarray(np.zeros((*labels.shape[:2], 3), np.uint8)).save(image)
        Image.fromarray(labels if index == number - 3 else np.zeros_like(labels)).save(truth)
        records.append({"file_name": str(image), "sem_seg_file_name": str(truth), "image_id": str(index)})
    return records


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_root_is_told_with_name_path_and_variable(tmp_path, monkeypatch, add_set, key):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    name = add_set("rootless_sem_seg", partial(load_camvid, "val"))
    message = (
        rf"(?s){key.replace('__', '.')} names {name}.*nowhere/CamVid/val.*DETECTRON2_DATASETS is .*nowhere \(set\)"
    )
    with pytest.raises(FileNotFoundError, match=message):
        check_before_training(tiny_config(tmp_path, **{key: (name,)}))


@pytest.mark.parametrize("key", KEYS)
def test_an_empty_data_set(tmp_path, monkeypatch, add_set, key):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    cfg = tiny_config(tmp_path, **{key: (add_set("empty_sem_seg", []),)})
    with pytest.raises(FileNotFoundError, match=rf"{key.replace('__', '.')} names empty_sem_seg.*no image.*not set"):
        check_before_training(cfg)


def test_a_loader_that_asserts_as_detectron2s_do(tmp_path, add_set):
    def load():
        raise AssertionError("No annotations found")

    cfg = tiny_config(tmp_path, DATASETS__TEST=(add_set("asserting_sem_seg", load),))
    with pytest.raises(FileNotFoundError, match=r"DATASETS\.TEST names asserting_sem_seg.*No annotations found"):
        check_before_training(cfg)


def test_one_class_is_refused(tmp_path, add_set):
    name = add_set("one_sem_seg", [], num_classes=1)
    sets = dict.fromkeys(KEYS, (name,))
    with pytest.raises(ValueError, match=r"NUM_CLASSES is 1: .*background are two classes"):
        check_before_training(tiny_config(tmp_path, MODEL__SEM_SEG_HEAD__NUM_CLASSES=1, **sets))


@pytest.mark.parametrize("key", KEYS)
def test_wrong_labels_are_found_in_either_data_set(tmp_path, add_set, key):
    labels = np.arange(1, 9, dtype=np.uint8).reshape(2, 4)
    name = add_set("shifted_sem_seg", picture_records(tmp_path, labels))
    with pytest.raises(ValueError, match=rf"{key.replace('__', '.')} names shifted_sem_seg.*3_labels.png.*start at 1"):
        check_before_training(tiny_config(tmp_path, **{key: (name,)}))


@pytest.mark.parametrize("key", KEYS)
def test_records_without_labels(tmp_path, add_set, key):
    records = [{"file_name": "a.png", "image_id": "a"}]
    cfg = tiny_config(tmp_path, **{key: (add_set("unlabelled_sem_seg", records),)})
    with pytest.raises(ValueError, match=r"unlabelled_sem_seg.*a\.png has no labels"):
        check_before_training(cfg)


def test_another_evaluator_may_do_without_labels(tmp_path, add_set):
    name = add_set("submitted_sem_seg", [{"file_name": "a.png", "image_id": "a"}])
    MetadataCatalog.remove(name)
    MetadataCatalog.get(name).set(stuff_classes=list("abcdefgh"), evaluator_type="submission")
    check_before_training(tiny_config(tmp_path, DATASETS__TEST=(name,)))


def test_a_picture_of_another_size(tmp_path, add_set):
    records = picture_records(tmp_path, np.zeros((4, 4), np.uint8))
    Image.fromarray(np.zeros((5, 4, 3), np.uint8)).save(records[1]["file_name"])
    cfg = tiny_config(tmp_path, DATASETS__TEST=(add_set("uneven_sem_seg", records),))
    with pytest.raises(ValueError, match=r"uneven_sem_seg.*1\.png is \(5, 4\).*\(4, 4\)"):
        check_before_training(cfg)


def test_files_that_are_not_there_or_no_pictures(tmp_path, add_set):
    records = picture_records(tmp_path, np.zeros((4, 4), np.uint8))
    cfg = tiny_config(tmp_path, DATASETS__TEST=(add_set("gappy_sem_seg", records),))
    (tmp_path / "2.png").write_text("<html>")
    with pytest.raises(ValueError, match=r"DATASETS.TEST names gappy_sem_seg.*2\.png"):
        check_before_training(cfg)
    (tmp_path / "1_labels.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"DATASETS.TEST names gappy_sem_seg.*1_labels\.png"):
        check_before_training(cfg)


@pytest.mark.parametrize("link", ["", "file", "folder"])
def test_training_images_are_not_tested_on(tmp_path, add_set, link):
    records = picture_records(tmp_path, np.zeros((4, 4), np.uint8))
    train = add_set("train_sem_seg", records)
    other = records[3]["file_name"]
    if link == "file":
        (tmp_path / "linked.png").symlink_to(other)
        other = str(tmp_path / "linked.png")
    elif link == "folder":
        (tmp_path / "linked").symlink_to(tmp_path)
        other = str(tmp_path / "linked" / "3.png")
    test = add_set("test_sem_seg", [*picture_records(make(tmp_path / "test"), np.zeros((4, 4), np.uint8)),
                                    {**records[3], "file_name": other}])  # fmt: skip
    names = {"DATASETS__TRAIN": (train,), "DATASETS__TEST": (test,)}
    with pytest.raises(ValueError, match=r"test_sem_seg, of whose 7 images 1 are in .*ALLOW_OVERLAP True"):
        check_before_training(tiny_config(tmp_path, **names))
    check_before_training(tiny_config(tmp_path, **names, DATASETS__ALLOW_OVERLAP=True))


def make(folder):
    folder.mkdir()
    return folder


def test_expected_results_that_are_not_met_end_in_one_line(tmp_path):
    cfg = tiny_config(tmp_path, TEST__EXPECTED_RESULTS=[["sem_seg", "mIoU", 80.0, 1.0], ["sem_seg", "pACC", 5.0, 1.0]])
    with pytest.raises(SystemExit) as ended:
        require_expected(cfg, {"sem_seg": {"mIoU": 40.0, "pACC": 5.5}})
    assert ended.value.code == "error: TEST.EXPECTED_RESULTS are not met: sem_seg/mIoU is 40, expected 80.0 +- 1.0"


def test_wandb_is_asked_for_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # so Python marks a package that is not to be had
    with pytest.raises(ImportError, match=r"WANDB.ENABLED is set, but .* pip install 'scaleeq\[wandb\]'"):
        check_before_training(tiny_config(tmp_path, WANDB__ENABLED=True))
