"""A backbone's own class logits in ScaleEqSegmentor: GSTO-HRNet. Oracles: torch's cross entropy; Detectron2."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F

import scaleeq.data  # noqa: F401  (registers the data sets)
from scaleeq.engine import FEATURES, LRScheduler, build_model, launch, load_config
from scaleeq.equalization.calibration import calibrate
from scaleeq.training import Trainer
from tests.aux_logits_rank import CONFIG, TINY, make_batch, run_rank, train
from tests.training.tiny import TOY_STEP

LOSSES = {"loss_sem_seg", "loss_aux_stage2", "loss_aux_stage3"}


def make_model(*options: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(load_config(CONFIG, [*TINY, *options]))


def test_the_logits_are_trained_with_their_weights():
    model, batch = make_model(), make_batch(2)
    losses = model(batch)
    assert set(losses) == LOSSES
    features = model.backbone(model.preprocess(batch).tensor)
    logits = {"loss_sem_seg": (model.sem_seg_head.logits(features), 1.0)}
    for stage, weight in (("stage2", 0.3), ("stage3", 0.5)):
        logits[f"loss_aux_{stage}"] = (features["aux_logits"][stage], weight)
    targets = torch.stack([sample["sem_seg"] for sample in batch])
    for name, (coarse, weight) in logits.items():
        upsampled = F.interpolate(coarse, size=(64, 96), mode="bilinear", align_corners=False)
        torch.testing.assert_close(losses[name], weight * F.cross_entropy(upsampled, targets))


def test_weights_are_read_from_the_config_and_ohem_is_the_main_heads_alone():
    batch = make_batch(2)
    valid = ("MODEL.LOSS.AVERAGE_OVER", "valid")
    ohem = ("MODEL.LOSS.OHEM", "top_k", "MODEL.LOSS.OHEM_TOP_K", "0.1")
    plain = make_model(*valid)(batch)
    hard = make_model(*valid, *ohem, "MODEL.HRNET.AUX_LOSS_WEIGHTS", "[0.6, 0.0]")(batch)
    torch.testing.assert_close(hard["loss_aux_stage2"], 2 * plain["loss_aux_stage2"])
    assert hard["loss_aux_stage3"] == 0 and hard["loss_sem_seg"] > plain["loss_sem_seg"]


def test_heads_see_levels_alone():
    model, seen = make_model(), []
    model.sem_seg_head.register_forward_pre_hook(lambda head, inputs: seen.append(set(inputs[0])))
    model(make_batch(2))
    assert seen == [{"res2", "res3", "res4", "res5"}]


@pytest.mark.parametrize("gates", ["unsupervised", "none"])
def test_without_supervised_gates_there_is_nothing_to_add(gates):
    model = make_model("MODEL.HRNET.GATES", gates)
    assert set(model(make_batch(2))) == {"loss_sem_seg"}


def test_every_parameter_is_trained_and_a_copy_is_equal():
    model, batch = make_model(), make_batch(2)
    sum(model(batch).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    loaded = make_model()
    loaded.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = model.eval()(make_batch(1, size=(61, 97)))[0]["sem_seg"]
        assert expected.shape == (5, 61, 97)
        for twin in (copy.deepcopy(model), loaded.eval()):
            assert torch.equal(twin(make_batch(1, size=(61, 97)))[0]["sem_seg"], expected)


def test_scale_equalizers_stay_in_the_head():
    model = make_model("MODEL.SCALE_EQUALIZER.ENABLED", "True")
    report = calibrate(model, [make_batch(2)] * 2, num_images=-1)
    assert {name: list(branches) for name, branches in report.fusions.items()} == {
        "sem_seg_head.fusion": ["res2", "res3", "res4", "res5"]
    }


def test_a_frozen_backbone_leaves_the_head_to_train():
    model = make_model("MODEL.BACKBONE.FREEZE_AT", "5")
    sum(model(make_batch(2)).values()).backward()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None} == {"sem_seg_head"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["MODEL.TIMM.LEVEL_NORM", "True"], ValueError, r"MODEL\.TIMM\.LEVEL_NORM is True, but an HRNet has no such"),
        (["MODEL.TIMM.DROP_PATH_RATE", "0.1"], ValueError, r"MODEL\.TIMM\.DROP_PATH_RATE is 0\.1, but an HRNet has"),
        (["MODEL.TIMM.PRETRAINED_FILE", "none.pth"], FileNotFoundError, r"MODEL\.TIMM\.PRETRAINED_FILE.*'none\.pth'"),
        (["MODEL.HRNET.TRANSFER", "cubic"], ValueError, "MODEL.HRNET.TRANSFER is 'cubic'; choose one of"),
        (["MODEL.GATE", "soft"], ValueError, r"MODEL\.GATE is 'soft'"),
    ],
)
def test_wrong_values_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        make_model(*options)


class OneStep(Trainer):
    """The trainer without what evaluates or writes."""

    def build_hooks(self):
        return [hook for hook in super().build_hooks() if isinstance(hook, LRScheduler)]


@pytest.mark.parametrize("recipe", ["hrnet_w48", "gsto_hrnet_w48"])
def test_a_training_step_on_toy_scenes(recipe, tmp_path):
    options = {**TOY_STEP, "OUTPUT_DIR": str(tmp_path)}
    words = [word for pair in options.items() for word in pair]
    trainer = OneStep(load_config(CONFIG.parent / f"{recipe}.yaml", [*TINY, *words]))
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    assert (trainer.storage.latest().keys() >= LOSSES) == (recipe == "gsto_hrnet_w48")
    unchanged = [name for name, p in trainer.model.named_parameters() if torch.equal(p, before[name])]
    # A "reference" gate that is one half everywhere has no gradient in this step.
    assert not [name for name in unchanged if ".gate." not in name]
    assert len(unchanged) < 0.2 * len(before)


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path, monkeypatch):
    """Synchronised batch norms everywhere, the gates' included; no search for unused parameters."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    launch(run_rank, 2, dist_url=f"file://{tmp_path}/rendezvous", args=(str(tmp_path),))
    records = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    alone = make_model()
    norms = sum("BatchNorm" in type(module).__name__ for module in alone.modules())
    numbers = [train(alone, make_batch(2)) for _ in range(2)]
    for record in records:
        assert record["norms"] == {"NaiveSyncBatchNorm": norms}
        assert record["wrapper"] == "DistributedDataParallel"
    for step, (loss, gradient) in enumerate(numbers):
        assert sum(record["numbers"][step][0] for record in records) / 2 == pytest.approx(loss, rel=1e-4)
        assert [record["numbers"][step][1] for record in records] == pytest.approx([gradient] * 2, rel=1e-3)


@pytest.mark.skipif(not FEATURES.detection, reason="needs the Detectron2 engine")
def test_detectron2s_own_segmentor_runs_the_backbone_without_these_losses():
    model = make_model("MODEL.META_ARCHITECTURE", "SemanticSegmentor")
    assert type(model).__module__.startswith("detectron2.")
    ours = make_model()
    model.backbone.load_state_dict(ours.backbone.state_dict())
    model.sem_seg_head.load_state_dict(ours.sem_seg_head.state_dict())
    assert set(model(make_batch(2))) == {"loss_sem_seg"}
    with torch.no_grad():
        one, other = (m.eval()(make_batch(1))[0]["sem_seg"] for m in (make_model(), model))
    assert one.shape == other.shape == (5, 64, 96)
