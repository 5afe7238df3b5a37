"""The configs of the fusion papers: sizes against the papers and their formulas, and one training step of each family.

Oracles: closed forms of FaPN's and GSTO's parts; sizes published in the papers' tables; for ESeg, whose code was never
published, exact counts of an independent reconstruction of it; for the real-time FaPN those of a public reference.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch

import scaleeq.data
import scaleeq.segmentor  # noqa: F401  (registers the model)
from scaleeq.config import list_configs
from scaleeq.engine import load_config
from scaleeq.equalization.calibration import require_calibrated
from scaleeq.probes.counting import Count
from scaleeq.training.on_meta import count_config, image_size
from tests.training.tiny import TOY_STEP, OneStep

ROOT = Path(__file__).parents[1]
FAMILIES = ("semfpn", "fapn", "eseg", "sep_aspp", "psp", "aspp", "fcn", "hrnet", "gsto", "toy/")
TWINS = ("camvid/scales_", "toy/depth", "toy/edges", "toy/multitask", "toy/normals", "toy/sem_seg_3d")  # not counted
OTHERS = (*TWINS, "nyud_mt/", "pascal_mt/")  # of several tasks: tests/test_joint_recipes.py
DETECTORS = ("toy/mask_rcnn", "toy/panoptic", "toy/detectron2_mask_rcnn")  # counted in tests/detection
PLAIN = [
    name
    for name in list_configs()
    if any(part in name for part in FAMILIES)
    and not name.startswith((*OTHERS, *DETECTORS))
    and not name.endswith("/fcn_hrnet18")
]

RECORDED = {
    record["config"]: record
    for record in json.loads((ROOT / "docs" / "results" / "counts.json").read_text())["configs"]
}


@functools.cache
def counted(name: str, size: tuple[int, int] | None = None) -> Count:
    cfg = load_config(name)
    return count_config(cfg, size or image_size(cfg))


def semfpn(name: str) -> Count:
    return counted(f"cityscapes/semfpn_{name}")


# --- all ---


def test_the_configs_are_there():
    assert len(PLAIN) == 46


@pytest.mark.parametrize("name", PLAIN)
def test_it_builds_and_counts_at_its_size(name):
    found = counted(name)
    assert found.params == sum(found.params_by_part.values()) > 500_000
    assert found.macs == sum(found.macs_by_kind.values()) > 10**9
    assert found.macs_by_kind["conv"] > 0.7 * found.macs
    assert RECORDED[f"configs/{name}.yaml"].items() >= found.as_dict().items(), "docs/results/counts.json is older"


# --- FaPN: C channels, levels of C_i channels, 8 groups of 9 taps with 3 numbers each ---

C, LEVELS, PREDICTED = 256, (256, 512, 1024), 3 * 8 * 9
PIXELS = {size: 1024 * 2048 // stride**2 for size, stride in zip(LEVELS, (4, 8, 16), strict=True)}
CONV3X3 = 9 * C * C + C
LATERALS = sum(c * C + C for c in LEVELS)
SELECTIONS = sum(c * c + c * C for c in LEVELS)
ALIGNMENTS = 3 * (2 * C * C + CONV3X3 + 9 * PREDICTED * C + PREDICTED)
SIZES = {
    "r50_fpn": 0,
    "r50_fpn_extra3x3": 8 * CONV3X3,
    "r50_fpn_fam": ALIGNMENTS - CONV3X3,
    "r50_fpn_fam_squeeze_excite": ALIGNMENTS - CONV3X3 + SELECTIONS - LATERALS,
    "r50_fapn": ALIGNMENTS - CONV3X3 + SELECTIONS - LATERALS,
    "r50_fapn_no_offset_conv": ALIGNMENTS - 3 * 2 * C * C - CONV3X3 + SELECTIONS - LATERALS,
    "r50_fpn_deconv_fsm": 3 * (16 * C * C + C) - CONV3X3 + SELECTIONS - LATERALS,
}


def test_the_formulas_are_those_of_the_paper():
    assert ALIGNMENTS == 3 * 1_219_032
    assert 3_344_384 + SIZES["r50_fapn"] == 7_786_888


@pytest.mark.parametrize("name", SIZES)
def test_a_neck_differs_from_fpns_by_its_formula(name):
    plain, found = semfpn("r50_fpn"), semfpn(name)
    assert plain.params_by_part["pyramid"] == 3_344_384
    assert found.params_by_part["pyramid"] - plain.params_by_part["pyramid"] == SIZES[name]
    for part in ("backbone", "head"):
        assert found.params_by_part[part] == plain.params_by_part[part]
        assert found.macs_by_part[part] == plain.macs_by_part[part]


def test_the_same_neck_on_another_backbone():
    assert semfpn("r101_fapn").params - semfpn("r101_fpn").params == SIZES["r50_fapn"]


def test_multiply_adds_of_fapn_follow_from_its_formulas():
    """An alignment per pixel of its level, but for biases; the selection's 1x1; no convolution on the top output."""
    pixels = sum(PIXELS.values())
    deformable, mixing = 9 * C * C, 2 * C * C + 9 * PREDICTED * C
    gates = sum(c * c for c in LEVELS)
    top_output = 9 * C * C * 1024 * 2048 // 32**2
    found, plain = semfpn("r50_fapn"), semfpn("r50_fpn")
    assert found.macs_by_kind["deformable"] == deformable * pixels
    assert found.macs - plain.macs == (deformable + mixing) * pixels + gates - top_output


def published(name: str) -> int:
    """The number that FaPN's table counts: with PointRend's point head, without the affine of (frozen) batch norms."""
    point_head = (C + 19) * 256 + 256 + 2 * (256 * 256 + 256) + 256 * 19 + 19
    channels = {"r50": 26_560, "r101": 52_672}[name.split("_")[0]]
    return semfpn(name).params + point_head - 2 * channels


@pytest.mark.parametrize(("name", "millions"), [("r50_fpn", 28.6), ("r50_fpn_extra3x3", 33.4), ("r101_fpn", 47.6)])
def test_published_sizes_of_fpn(name, millions):
    assert round(published(name) / 1e6, 1) == millions
    assert published("r50_fpn") == 28_632_678


@pytest.mark.parametrize(
    ("name", "millions"), [("r50_fapn", 33.1), ("r50_fapn_no_offset_conv", 32.7), ("r50_fpn_deconv_fsm", 32.7)]
)
def test_published_sizes_of_fapn(name, millions):
    assert published(name) / 1e6 == pytest.approx(millions, rel=0.005)


@pytest.mark.parametrize(("name", "giga"), [("r50_fpn", 342.5), ("r50_fapn", 550.9)])
def test_multiply_adds_with_detectron2s_resnet(name, giga):
    """Its ResNet strides in the first 1x1 convolution of a stage, ours in the 3x3 behind it: this much more."""
    stride_in_3x3 = sum(3 * c * c // 2 * (1024 * 2048 // s**2) // 4 for c, s in zip(LEVELS, (4, 8, 16), strict=True))
    assert (semfpn(name).macs - stride_in_3x3) / 1e9 == pytest.approx(giga, abs=0.05)


@pytest.mark.parametrize(
    ("backbone", "million", "giga"),
    [("r18", 12.10, {(512, 1024): 23.5, (768, 1536): 52.9}), ("r34", 22.20, {(512, 1024): 42.9, (1024, 2048): 171.4})],
)
def test_real_time_fapn(backbone, million, giga):
    """Its head is one 3x3 convolution, a norm and a classifier (ours has a bias) on the finest level."""
    for size, expected in giga.items():
        found = counted(f"cityscapes/fapn_realtime_{backbone}", size)
        assert found.params_by_part["head"] == 9 * 128 * 64 + 2 * 64 + 64 * 19 + 19
        assert found.macs / 1e9 == pytest.approx(expected, abs=0.06)
        assert found.params / 1e6 == pytest.approx(million, abs=0.006)


# --- ESeg and DeepLabV3+ ---


@pytest.mark.parametrize(
    ("name", "params", "macs"), [("s", 6_860_643, 33_839_019_520), ("lite_s", 634_455, 5_161_131_584)]
)
def test_eseg_exactly(name, params, macs):
    found = counted(f"cityscapes/eseg_{name}")
    assert found.params == params
    assert found.macs_by_kind["conv"] == found.macs == macs


@pytest.mark.parametrize(("name", "million"), [("s", 6.9), ("m", 20.0), ("l", 70.5)])
def test_published_sizes_of_eseg(name, million):
    assert counted(f"cityscapes/eseg_{name}").params / 1e6 == pytest.approx(million, rel=0.01)


def test_published_multiply_adds_of_eseg():
    """34.5 G in the paper, whose counter takes other operators too: convolutions alone are at most 2 % fewer."""
    assert 0 < 1 - counted("cityscapes/eseg_s").macs / 34.5e9 < 0.02


@pytest.mark.parametrize(("backbone", "eseg"), [("b1", "eseg_s"), ("r50", "eseg_r50")])
def test_bifpn_costs_less_than_deeplab_with_and_without_dilation(backbone, eseg):
    """The order of the paper's decoder ablation."""
    names = (eseg, f"sep_aspp_{backbone}_os32", f"sep_aspp_{backbone}_os16")
    macs = [counted(f"cityscapes/{name}").macs for name in names]
    assert macs == sorted(macs)


# --- GSTO ---


def test_gates_add_little_to_hrnet():
    plain, gated = counted("cityscapes/hrnet_w48"), counted("cityscapes/gsto_hrnet_w48")
    assert gated.params / plain.params - 1 == pytest.approx(0.0024, abs=5e-5)
    assert gated.macs / plain.macs - 1 == pytest.approx(0.0255, abs=5e-5)


# --- one training step of each family ---


REDUCED = {
    **TOY_STEP,
    "MODEL.DEVICE": "cpu",
    "MODEL.TIMM.PRETRAINED": False,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "MODEL.AUX_HEAD.CONVS_DIM": 8,
    "MODEL.SCALE_EQUALIZER.NUM_IMAGES": 2,
    "INPUT.CROP.ENABLED": True,
    "INPUT.CROP.TYPE": "absolute",
    "SOLVER.WARMUP_ITERS": 0,
}
SMALL_PYRAMID = {"MODEL.PYRAMID.CHANNELS": 16, "MODEL.TIMM.NAME": "resnet18", "SOLVER.STEPS": ()}
SMALL_HRNET = {"MODEL.TIMM.NAME": "hrnet_w18_small"}
STEPS = {
    "cityscapes/semfpn_r50_fpn+scale_equalizer": SMALL_PYRAMID,
    "cityscapes/semfpn_r50_fapn+scale_equalizer": SMALL_PYRAMID,
    "cityscapes/semfpn_r50_fpn_deconv_fsm": SMALL_PYRAMID,
    "cityscapes/fapn_realtime_r18+scale_equalizer": {"MODEL.PYRAMID.CHANNELS": 16},
    "cityscapes/eseg_lite_s+scale_equalizer": {},
    "ade20k/eseg_m": {"MODEL.TIMM.NAME": "tf_efficientnet_b0", "MODEL.PYRAMID.REPEATS": 1},
    "cityscapes/sep_aspp_b1_os16+scale_equalizer": {"MODEL.TIMM.NAME": "tf_efficientnet_b0"},
    "cityscapes/gsto_hrnet_w48+scale_equalizer": SMALL_HRNET,
    "voc2012/psp_r50+scale_equalizer": {"MODEL.TIMM.NAME": "resnet18"},
    "ade20k/aspp_r50+scale_equalizer": {"MODEL.TIMM.NAME": "resnet18"},
    "cityscapes/sep_aspp_r50+scale_equalizer": {"MODEL.TIMM.NAME": "resnet18"},
    "voc2012/fcn_r50+scale_equalizer": {"MODEL.TIMM.NAME": "resnet18"},
    "toy/bifpn+scale_equalizer": {},
    "toy/gsto+scale_equalizer": {},
}


@pytest.mark.parametrize("name", STEPS)
def test_one_training_step(name, tmp_path):
    options = REDUCED | STEPS[name] | {"OUTPUT_DIR": str(tmp_path)}
    options = [word for pair in options.items() for word in pair]
    trainer = OneStep(load_config(name, options))
    model = trainer.model
    classifier = model.sem_seg_head.classifier.weight.detach().clone()
    trainer.train()
    assert {"loss_sem_seg", "total_loss"} <= trainer.storage.latest().keys()
    require_calibrated(model)
    without = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    assert not torch.equal(classifier, model.sem_seg_head.classifier.weight)
