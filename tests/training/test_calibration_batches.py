"""A run calibrates on what one forward pass of its steps sees. Oracle: the maps of the first step, measured by hand."""

from __future__ import annotations

import logging

import pytest
import torch

from scaleeq.equalization.calibration import calibrate
from scaleeq.reports.scales_analysis import analyze_scales
from scaleeq.training import Trainer
from scaleeq.training.norms import single_value_norms
from scaleeq.training.scale_hooks import CalibrationHook

from .tiny import tiny_config

SMALL = {
    "MODEL__TIMM__NAME": "test_resnet",
    "MODEL__SCALE_EQUALIZER__ENABLED": True,
    "DATASETS__TEST": (),
    "SOLVER__MAX_ITER": 1,
    "SOLVER__WARMUP_ITERS": 0,
}
POOL_NORM = "sem_seg_head.context.branches.pool1.lateral.1.norm"


def calibrated(cfg):
    """The trainer, calibrated as before its first step, and the numbers of images of each forward pass of that."""
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    sizes = []
    trainer.checkpointer.model.backbone.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    (hook,) = (hook for hook in trainer._hooks if isinstance(hook, CalibrationHook))
    hook.before_train()
    return trainer, sizes


@pytest.mark.parametrize("statistic", ["std", "grad"])
def test_every_forward_has_the_size_of_a_micro_batch(tmp_path, statistic):
    cfg = tiny_config(
        tmp_path,
        **SMALL,
        SOLVER__IMS_PER_BATCH=8,
        SOLVER__ACCUMULATE=4,
        MODEL__SCALE_EQUALIZER__STATISTIC=statistic,
        MODEL__SCALE_EQUALIZER__NUM_IMAGES=6,
    )
    trainer, sizes = calibrated(cfg)
    assert set(sizes) == {2}
    head = trainer.checkpointer.model.sem_seg_head
    assert {int(e.num_images) for fusion in (head.context, head.fusion) for e in fusion.equalizer_of.values()} == {6}


@pytest.mark.parametrize("passes", [1, 4])
def test_pooled_branches_have_a_std_of_one_in_the_first_step(tmp_path, passes):
    """pool1's norm sees one value an image and channel, so its scale depends on how many images there are."""
    cfg = tiny_config(
        tmp_path,
        **SMALL,
        SOLVER__IMS_PER_BATCH=8,
        SOLVER__ACCUMULATE=passes,
        MODEL__SCALE_EQUALIZER__NUM_IMAGES=32,
        MODEL__SCALE_EQUALIZER__IMPLEMENTATION="module",
    )
    trainer, _ = calibrated(cfg)
    context = trainer.checkpointer.model.sem_seg_head.context
    seen = []
    context.equalizers["pool1"].register_forward_hook(lambda _, args, out: seen.append(out.detach()))
    for batch in list(zip(range(4), trainer.build_train_loader(trainer.seeded_config()), strict=False)):
        trainer.step.backward(batch[1], 0)
    assert {len(out) for out in seen} == {8 // passes}
    assert float(torch.cat(seen).std()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("passes", [1, 4])
def test_one_value_a_channel_is_refused_before_the_first_step(tmp_path, passes):
    cfg = tiny_config(tmp_path, **SMALL, SOLVER__IMS_PER_BATCH=passes, SOLVER__ACCUMULATE=passes)
    trainer = Trainer(cfg)
    before = {name: tensor.clone() for name, tensor in trainer.checkpointer.model.state_dict().items()}
    with pytest.raises(ValueError, match=rf"{POOL_NORM}.*one value per channel.*SOLVER\.IMS_PER_BATCH.*'GN' or 'LN'"):
        trainer.train()
    after = trainer.checkpointer.model.state_dict()
    assert trainer.iter == 0
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not any(m._forward_pre_hooks for m in trainer.checkpointer.model.sem_seg_head.modules())


@pytest.mark.parametrize("changes", [{"MODEL__SEM_SEG_HEAD__NORM": "LN"}, {"MODEL__SEM_SEG_HEAD__POOL_SCALES": [2, 3]}])
def test_other_norms_and_larger_maps_of_one_image_are_fine(tmp_path, changes):
    trainer, sizes = calibrated(tiny_config(tmp_path, **SMALL, **changes, SOLVER__IMS_PER_BATCH=1))
    assert set(sizes) == {1}
    assert single_value_norms(trainer.model, micro_batch=1) == []


@pytest.mark.parametrize("head", ["UPerHead", "PSPHead", "ASPPHead"])
def test_a_plain_model_is_told_which_norm_has_nothing_to_normalise(tmp_path, caplog, head):
    changes = {"MODEL__SEM_SEG_HEAD__NAME": head, "MODEL__SCALE_EQUALIZER__ENABLED": False}
    if head != "UPerHead":
        changes |= {"MODEL__SEM_SEG_HEAD__IN_FEATURES": ["res5"], "MODEL__SEM_SEG_HEAD__COMMON_STRIDE": 32}
    for batch, told in ((1, 1), (2, 0)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            trainer = Trainer(tiny_config(tmp_path, **{**SMALL, **changes}, SOLVER__IMS_PER_BATCH=batch))
        messages = [r.getMessage() for r in caplog.records if "one value a channel" in r.getMessage()]
        names = single_value_norms(trainer.model, micro_batch=batch)
        assert len(messages) == len(names) == told
        assert not told or (names[0] in messages[0] and "SOLVER.IMS_PER_BATCH" in messages[0])
        for name in names:
            assert "pool" in name and isinstance(trainer.model.get_submodule(name), torch.nn.BatchNorm2d)


def test_the_library_refuses_single_images_too(tmp_path):
    cfg = tiny_config(tmp_path, **SMALL)
    model = Trainer.build_model(cfg)
    batch = next(iter(Trainer.build_train_loader(cfg)))
    with pytest.raises(ValueError, match=POOL_NORM):
        calibrate(model, [batch[:1]])
    calibrate(model, [batch])


def test_scales_are_analyzed_on_micro_batches(tmp_path):
    cfg = tiny_config(tmp_path, **SMALL, SOLVER__IMS_PER_BATCH=4, SOLVER__ACCUMULATE=2)
    about = analyze_scales(cfg, num_batches=1)["about"]
    assert (about["batches"], about["batch"]) == (2, 2)
