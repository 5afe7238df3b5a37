"""A model that is only evaluated is folded first. Oracle: the model as it was."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

import scaleeq.segmentor  # noqa: F401  (registers the model)
from scaleeq.engine import SafeCheckpointer
from scaleeq.equalization.calibration import fusions_of
from scaleeq.equalization.folding import fold_for_inference
from scaleeq.layers import ConvNormAct, batch_norm, norm_factory
from scaleeq.training import Recipe, evaluate_only
from scaleeq.training.evaluate import hash_weights
from scaleeq.training.lighten import lighten

from .tiny import tiny_config

HEADS = {"UPerHead": None, "PSPHead": ["res5"], "ASPPHead": ["res5"], "SepASPPHead": ["res2", "res5"]}


def lively(model: nn.Module) -> nn.Module:
    """In eval mode, with statistics that something was seen by."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    for fusion in fusions_of(model).values():
        for index, each in enumerate(fusion.equalizer_of.values()):
            each.set_statistics(torch.tensor(0.1 * index), torch.tensor(0.5 + 0.5 * index), 8)
    return model.eval()


def config(folder, head="UPerHead", **keys):
    if HEADS[head]:
        keys["MODEL__SEM_SEG_HEAD__IN_FEATURES"] = HEADS[head]
        keys["MODEL__SEM_SEG_HEAD__COMMON_STRIDE"] = 4 if "res2" in HEADS[head] else 32
    return tiny_config(
        folder,
        MODEL__TIMM__NAME="test_resnet",
        MODEL__SEM_SEG_HEAD__NAME=head,
        MODEL__SCALE_EQUALIZER__ENABLED=True,
        **keys,
    )


@pytest.mark.parametrize("head", HEADS)
def test_outputs_are_those_of_the_model(tmp_path, head):
    cfg = config(tmp_path, head)
    model = lively(Recipe.build_model(cfg))
    image = 255 * torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.logits((image - model.pixel_mean) / model.pixel_std)
        lighten(cfg, model)
        found = model.logits((image - model.pixel_mean) / model.pixel_std)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert not fusions_of(model)
    assert not any(isinstance(each, nn.BatchNorm2d) for each in model.sem_seg_head.modules())
    weight = model.sem_seg_head.fusion.mix
    last = [p for p in weight.parameters() if p.dim() == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert all(p.is_contiguous(memory_format=torch.channels_last) == ("ASPP" in head) for p in last)


def test_plain_leaves_the_model_as_it_is(tmp_path):
    cfg = config(tmp_path, MODEL__FUSION__EVALUATE="plain")
    model = lively(Recipe.build_model(cfg))
    before = copy.deepcopy(model.state_dict())
    lighten(cfg, model)
    assert list(before) == list(model.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_evaluation_folds_and_its_record_is_of_the_weights_on_disk(tmp_path):
    cfg = config(tmp_path, MODEL__WEIGHTS=str(tmp_path / "weights.pth"))
    model = lively(Recipe.build_model(cfg))
    SafeCheckpointer(model, str(tmp_path)).save("weights")
    file = (tmp_path / "weights.pth").read_bytes()
    folded = evaluate_only(cfg)
    record = json.loads((tmp_path / "inference" / "results.json").read_text())
    cfg.defrost()
    cfg.MODEL.FUSION.EVALUATE = "plain"
    assert folded["sem_seg"] == pytest.approx(evaluate_only(cfg)["sem_seg"], abs=0.1, nan_ok=True)
    plain = json.loads((tmp_path / "inference" / "results.json").read_text())
    for key in ("weights_sha256", "parameters", "multiply_adds"):
        assert record[key] == plain[key]
    assert record["weights_sha256"] == hash_weights(model.state_dict())
    assert (tmp_path / "weights.pth").read_bytes() == file


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_norm_folds_exactly(groups, affine):
    block = ConvNormAct(4, 6, kernel_size=3, groups=groups, norm=lambda width: nn.BatchNorm2d(width, affine=affine))
    block = lively(block.double()) if affine else block.double().eval()
    block.norm.running_mean.normal_()
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    expected = block(x)
    block.fold_norm()
    assert isinstance(block.norm, nn.Identity)
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-13)


def test_what_does_not_fold_stays():
    blocks = {
        "training": ConvNormAct(4, 32).train(),
        "group norm": ConvNormAct(4, 32, norm=norm_factory("GN")).eval(),
        "half": ConvNormAct(4, 32).half().eval(),
        "without statistics": ConvNormAct(4, 32, norm=lambda c: nn.BatchNorm2d(c, track_running_stats=False)).eval(),
        "watched": ConvNormAct(4, 32, norm=batch_norm).eval(),
    }
    blocks["watched"].norm.register_forward_hook(lambda *_: None)
    for name, block in blocks.items():
        norm = block.norm
        block.fold_norm()
        assert block.norm is norm, name


def test_an_uncalibrated_model_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match="not calibrated"):
        fold_for_inference(Recipe.build_model(config(tmp_path)))
