"""What is wrong with a run is told before its first line and its first file. Oracle: the folder, and the words."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from scaleeq.training import Trainer
from scaleeq.training.rehearsal import rehearse

from .fuzz_config import campaign, meaningless
from .tiny import tiny_config

SMALL = {"MODEL__TIMM__NAME": "test_resnet"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MODEL__TIMM__NAME": "resnet81"}, "MODEL.TIMM.NAME is 'resnet81'.*resnet18"),
        ({"MODEL__TIMM__PRETRAINED_FILE": "nowhere.pth"}, "MODEL.TIMM.PRETRAINED_FILE.*nowhere.pth"),
        ({"MODEL__SEM_SEG_HEAD__NAME": "PSPHead"}, "PSPHead reads 1 level"),
        ({"MODEL__PYRAMID__OUTPUT_CONVS": [1]}, "MODEL.PYRAMID.OUTPUT_CONVS is .*one number per level"),
        ({"MODEL__SEM_SEG_HEAD__NORM": "GN"}, "32 groups.*MODEL.SEM_SEG_HEAD.NORM"),
        ({"SOLVER__LAYER_DECAY": 0.9, "SOLVER__LAYER_DECAY_LAYERS": 2}, "SOLVER.LAYER_DECAY_LAYERS is 2"),
        ({"SOLVER__LR_SCHEDULER_NAME": "WarmupMultiStepLR", "SOLVER__STEPS": (3,)}, "SOLVER.STEPS"),
        ({"MODEL__WEIGHTS": "nowhere.pth"}, "MODEL.WEIGHTS: there is no checkpoint nowhere.pth"),
        ({"INPUT__MIN_SIZE_TRAIN_SAMPLING": "range", "INPUT__MIN_SIZE_TRAIN": (9, 8)}, "MIN_SIZE_TRAIN as a range"),
    ],
)  # fmt: skip
def test_a_run_that_would_fail(tmp_path, capfd, changes, message):
    folder = tmp_path / "run"
    with pytest.raises((ValueError, OSError), match=message):
        rehearse(tiny_config(folder, **{**SMALL, **changes}))
    assert not folder.exists()
    assert capfd.readouterr() == ("", "")


def test_a_norm_without_anything_to_normalise_over(tmp_path):
    one = {**SMALL, "SOLVER__IMS_PER_BATCH": 1, "MODEL__SCALE_EQUALIZER__ENABLED": True}
    with pytest.raises(ValueError, match=r"sem_seg_head\.context\.branches\.pool1.* one value per channel"):
        rehearse(tiny_config(tmp_path / "run", **one))
    rehearse(tiny_config(tmp_path / "run", **{**one, "MODEL__SCALE_EQUALIZER__ENABLED": False}))
    rehearse(tiny_config(tmp_path / "run", **{**one, "SOLVER__IMS_PER_BATCH": 2}))
    with pytest.raises(ValueError, match="one value per channel"):
        rehearse(tiny_config(tmp_path / "run", **{**one, "SOLVER__IMS_PER_BATCH": 2, "SOLVER__ACCUMULATE": 2}))


def test_a_run_that_would_not(tmp_path, capfd):
    folder = tmp_path / "run"
    cfg = tiny_config(folder, **SMALL)
    with pytest.raises(ValueError, match="3 processes"):
        rehearse(cfg, num_processes=3)
    rehearse(cfg, num_processes=2)
    assert not folder.exists() and cfg.is_frozen()
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET


def test_weights_that_do_not_fit(tmp_path):
    model = Trainer.build_model(tiny_config(tmp_path / "a", **SMALL))
    file = tmp_path / "weights.pth"
    torch.save({"model": model.state_dict()}, file)
    for eval_only in (False, True):
        rehearse(tiny_config(tmp_path / "run", **SMALL, MODEL__WEIGHTS=str(file)), eval_only=eval_only)
        with pytest.raises(ValueError, match=r"MODEL.WEIGHTS: .*does not fit.*\n.*sem_seg_head"):
            wider = {**SMALL, "MODEL__SEM_SEG_HEAD__CONVS_DIM": 16, "MODEL__WEIGHTS": str(file)}
            rehearse(tiny_config(tmp_path / "run", **wider), eval_only=eval_only)
    with pytest.raises(ValueError, match="refusing to score a model without weights"):
        rehearse(tiny_config(tmp_path / "run", **SMALL), eval_only=True)
    with pytest.raises(ValueError, match=r"DATASETS\.TEST is empty"):
        rehearse(tiny_config(tmp_path / "run", **SMALL, DATASETS__TEST=(), MODEL__WEIGHTS=str(file)), eval_only=True)
    assert not (tmp_path / "run").exists()


def test_an_output_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"OUTPUT_DIR is .*file/run, but .*file is a file"):
        rehearse(tiny_config(tmp_path / "file" / "run", **SMALL))


def test_the_folder_of_another_run(tmp_path):
    (tmp_path / "model_final.pth").touch()
    with pytest.raises(ValueError, match=r"OUTPUT_DIR .* holds .*model_final\.pth"):
        rehearse(tiny_config(tmp_path, **SMALL))


def test_the_model_has_the_weights_that_it_has_without(tmp_path):
    """The rehearsal comes before the seed; a generator that it draws from, or a tensor that it leaves, would show."""
    weights = []
    for rehearses in (False, True):
        cfg = tiny_config(tmp_path / "run", MODEL__SCALE_EQUALIZER__ENABLED=True)
        if rehearses:
            rehearse(cfg)
        torch.manual_seed(0)
        np.random.seed(0)
        weights.append(Trainer.build_model(cfg).state_dict())
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_values_of_all_kinds_are_refused_in_words_or_can_be_meant(tmp_path):
    outcomes = campaign(60, 7, tmp_path)
    assert [outcome for outcome in outcomes if outcome.is_fault] == []
    kinds = [outcome.kind for outcome in outcomes]
    assert kinds.count("refused") > 30 and kinds.count("taken") > 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_campaign_of_values(tmp_path, seed):
    assert [outcome for outcome in campaign(500, seed, tmp_path) if outcome.is_fault] == []


def test_the_oracle_of_the_campaign_finds_what_no_table_refuses(tmp_path):
    """With the ranges taken away, meaningless values are found by what they do."""
    for changes, found in (
        ({"SOLVER__BACKBONE_MULTIPLIER": -1.0}, "learning rate"),
        ({"SOLVER__WARMUP_FACTOR": -1.0, "SOLVER__WARMUP_ITERS": 1}, "learning rate is multiplied"),
        ({"SOLVER__WEIGHT_DECAY": 1e12}, "weight decay"),
        ({"SOLVER__BASE_LR": 0.0}, "nothing is learned"),
        ({"MODEL__SEM_SEG_HEAD__LOSS_WEIGHT": -1.0}, "losses are"),
        ({"MODEL__SEM_SEG_HEAD__DROPOUT": 1.0}, "the classifier learns nothing"),
        ({"MODEL__PIXEL_STD": [0.0, 1.0, 1.0]}, "standard deviation"),
        ({"MODEL__TIMM__BN_MOMENTUM": 3.0}, "running_var"),
    ):
        cfg = tiny_config(tmp_path, **SMALL).clone()
        cfg.defrost()
        for key, value in changes.items():
            cfg.merge_from_list([key.replace("__", "."), value])
        assert found in meaningless(cfg), changes
