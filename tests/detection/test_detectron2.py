"""Detectron2's detectors on our pyramid backbones. Oracles: Detectron2's own FPN with the same weights, and its counts.

Sizes of FaPN's detectors are the authors' (41.70 M -> 46.14 M, README).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scaleeq import engine
from scaleeq.detection import measured_part
from scaleeq.engine import build_model
from scaleeq.equalization.calibration import calibrate, fusions_of
from scaleeq.equalization.folding import fold_equalizers

from .small import ARCHITECTURES, batch_of, config, losses_of, model_of

pytestmark = pytest.mark.skipif(engine.NAME != "detectron2", reason="detectors of the real Detectron2")

# Parameters of whole models, and with a BiFPN of one cell and without norm.
TOTALS = {
    "faster_rcnn": (41_699_936, 46_142_440, 39_682_414),
    "retinanet": (37_915_572, 41_073_764, 36_417_725),
    "mask_rcnn": (44_343_216, 48_785_720, 42_325_694),
    "panoptic_fpn": (45_973_990, 50_416_494, 43_956_468),
    "pointrend_rcnn": (60_161_792, 64_604_296, 58_144_270),
}
SIZES = ((64, 96), (75, 64))
EQUALIZED = ("MODEL.SCALE_EQUALIZER.ENABLED", True)


def detectron2s(name: str):
    """The same model on Detectron2's own FPN."""
    cfg = config(f"coco/{name}_r50")
    retinanet = "retinanet_" if name == "retinanet" else ""
    cfg.MODEL.BACKBONE.NAME = f"build_{retinanet}resnet_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"][bool(retinanet) :]
    return model_of(cfg)


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Detectron2's names of an FPN under ours."""
    rules = (
        (r"backbone\.fpn_lateral5\.", "backbone.pyramid.top_lateral.conv."),
        (r"backbone\.fpn_lateral(\d)\.", r"backbone.pyramid.merges.res\1.branches.lateral.lateral.conv."),
        (r"backbone\.fpn_output(\d)\.", r"backbone.pyramid.outputs.res\1.conv."),
        (r"backbone\.top_block\.p6\.", "backbone.extra.first."),
        (r"backbone\.top_block\.p7\.", "backbone.extra.second."),
    )
    for pattern, ours in rules:
        state = {re.sub(pattern, ours, name): value for name, value in state.items()}
    return state


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_fpn_is_detectron2s_to_the_bit(name):
    theirs, ours = detectron2s(name), model_of(config(f"coco/{name}_r50"), seed=1)
    ours.load_state_dict(renamed(theirs.state_dict()))  # strict: each has its place
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    expected = theirs.eval().backbone(images)
    levels = ours.eval().backbone(images)
    assert list(levels) == list(expected)
    assert all(torch.equal(levels[level], x) for level, x in expected.items())
    assert ours.backbone.output_shape() == theirs.backbone.output_shape()
    batch = batch_of(*SIZES)
    expected = losses_of(theirs, batch)
    losses = losses_of(ours, batch)
    assert losses.keys() == expected.keys() and len(losses) >= 2
    assert all(torch.equal(losses[key], value) for key, value in expected.items())


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("pyramid", ["fpn", "fapn", "bifpn"])
def test_every_detector_trains_and_predicts_equalized_and_folded(name, pyramid):
    overlay = "" if pyramid == "fpn" else f"+{pyramid}"
    model = model_of(config(f"coco/{name}_r50{overlay}+scale_equalizer"))
    batch = batch_of(*SIZES)
    report = calibrate(measured_part(model), [batch], num_images=2)
    per_cell, sums = 2, 3 if name != "retinanet" else 2
    assert len(report.fusions) == len(fusions_of(model)) == (sums * per_cell if pyramid == "bifpn" else sums)
    assert all(fusion.startswith("backbone.pyramid.") for fusion in report.fusions)
    loss = sum(losses_of(model, batch).values())
    loss.backward()
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused, "a process group would wait for these"
    folded = fold_equalizers(model).eval()
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = model.eval().backbone(images)
    for level, x in folded.backbone(images).items():
        torch.testing.assert_close(x, expected[level], rtol=1e-4, atol=1e-5)
    (result,) = folded(batch[:1])
    assert result["instances"].image_size == SIZES[0]


def semantic_pointrend(*options: object, small: bool = True, head: str = "SemSegFPNHead"):
    """PointRend for classes of pixels, as its project's configs of Cityscapes have it."""
    classes = 4 if small else 19
    words = ["MODEL.META_ARCHITECTURE", "SemanticSegmentor", "MODEL.SEM_SEG_HEAD.NAME", "PointRendSemSegHead"]
    words += ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", classes, "MODEL.POINT_HEAD.NUM_CLASSES", classes]
    words += ["MODEL.POINT_HEAD.COARSE_PRED_EACH_LAYER", False, "MODEL.POINT_HEAD.COARSE_SEM_SEG_HEAD_NAME", head]
    words += ["MODEL.POINT_HEAD.SUBDIVISION_STEPS", 2, "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p2", "p3", "p4", "p5"]]
    return config("coco/faster_rcnn_r50", *words, *options, small=small)


@pytest.mark.parametrize("pyramid", ["fpn", "fapn", "bifpn"])
def test_semantic_pointrend_on_our_coarse_head(pyramid):
    model = model_of(semantic_pointrend("MODEL.PYRAMID.NAME", pyramid, *EQUALIZED, head="SemanticFPNHead"))
    batch = batch_of(*SIZES)
    report = calibrate(measured_part(model), [batch], num_images=2)
    assert list(report.fusions)[-1] == "sem_seg_head.coarse_sem_seg_head.fusion"
    losses = losses_of(model, batch)
    assert losses.keys() == {"loss_sem_seg", "loss_sem_seg_point"}
    sum(losses.values()).backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    folded = fold_equalizers(model).eval()
    assert [r["sem_seg"].shape for r in folded(batch)] == [(4, *size) for size in SIZES]
    features = model.eval().backbone(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    head, plain = (m.sem_seg_head.coarse_sem_seg_head for m in (model, folded))
    torch.testing.assert_close(plain.layers(features), head.layers(features), rtol=1e-4, atol=1e-5)


def test_panoptic_fpn_on_our_semantic_head():
    ours = ("MODEL.SEM_SEG_HEAD.NAME", "SemanticFPNHead", "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p2", "p3", "p4", "p5"])
    model = model_of(config("coco/panoptic_fpn_r50+fapn+scale_equalizer", *ours))
    batch = batch_of(*SIZES)
    report = calibrate(measured_part(model), [batch], num_images=2)
    assert list(report.fusions) == [*(f"backbone.pyramid.merges.res{i}" for i in (4, 3, 2)), "sem_seg_head.fusion"]
    losses = losses_of(model, batch)
    assert "loss_sem_seg" in losses and "loss_mask" in losses
    sum(losses.values()).backward()
    folded = fold_equalizers(model).eval()
    assert [r["panoptic_seg"][0].shape for r in folded(batch)] == list(SIZES)
    # The head alone: with equalizers in the head, of SCOPE head, the pyramid is plain.
    model = model_of(config("coco/panoptic_fpn_r50+scale_equalizer", *ours, "MODEL.SCALE_EQUALIZER.SCOPE", "head"))
    assert list(fusions_of(model)) == ["sem_seg_head.fusion"]


WITHOUT_EXTENSION = """
import sys
sys.modules["detectron2._C"] = None  # an import of it fails
from tests.detection.small import batch_of, config, losses_of, model_of
for name in ("mask_rcnn", "retinanet"):
    model, batch = model_of(config(f"coco/{name}_r50+fapn")), batch_of((64, 96))
    sum(losses_of(model, batch).values()).backward()
    print(name, len(model.eval()(batch)))
"""


@pytest.mark.slow
def test_detectron2s_compiled_extension_is_not_needed():
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'projects' / 'ScaleEq'}{os.pathsep}{root}"}
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_EXTENSION]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["mask_rcnn 1", "retinanet 1"]


def test_size_of_semantic_pointrend():
    for pyramid, total in (("fpn", 47_572_582), ("fapn", 52_015_086)):
        options = ["MODEL.PYRAMID.NAME", pyramid, "MODEL.RESNETS.DEPTH", 101, "MODEL.WEIGHTS", ""]
        cfg = semantic_pointrend(*options, small=False)
        cfg.MODEL.DEVICE = "meta"
        with torch.device("meta"):
            model = build_model(cfg)
        assert sum(parameter.numel() for parameter in model.parameters()) == total


@pytest.mark.parametrize(("name", "pyramid"), [(n, i) for n in TOTALS for i in range(3)])
def test_sizes_of_whole_models(name, pyramid):
    overlay = ("", "+fapn", "+bifpn")[pyramid]
    cfg = config(f"coco/{name}_r50{overlay}", "MODEL.WEIGHTS", "", small=False)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    assert sum(parameter.numel() for parameter in model.parameters()) == TOTALS[name][pyramid]
