"""fold_into_plain. Oracles: the equalized pyramid itself; stock models in a process that has no scaleeq."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from scaleeq import engine
from scaleeq.converters import convert_detector, stock_state_dict
from scaleeq.decoders import PyramidOptions, build_pyramid
from scaleeq.detection import PyramidBackbone, measured_part
from scaleeq.equalization import EqualizerSpec, equalize_fusions
from scaleeq.equalization.calibration import calibrate
from scaleeq.fusion import Sum, WeightedSum
from scaleeq.layers import norm_factory
from scaleeq.rewrites.plain_pyramid import fold_into_plain
from tests.decoders.test_fapn import released_checkpoint
from tests.detection.test_backbone import Pools

WIDTHS = {"res2": 4, "res3": 6, "res4": 8, "res5": 10}
SIZES = ((96, 160), (64, 224))  # odd multiples of 32
needs_detectron2 = pytest.mark.skipif(engine.NAME != "detectron2", reason="the models of the real Detectron2")


def features(size: tuple[int, int], seed: int = 0, scale: float = 1.0, dtype=torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sides = {level: [side // 2 ** int(level[3:]) for side in size] for level in WIDTHS}
    draws = {level: torch.randn(2, w, *sides[level], generator=generator) for level, w in WIDTHS.items()}
    return {level: scale * x.to(dtype) for level, x in draws.items()}


def pyramid_of(options: PyramidOptions, spec: EqualizerSpec, norm: str = "", dtype=torch.float32) -> nn.Module:
    """A calibrated pyramid whose weights are all trained: offsets, biases, norms."""
    torch.manual_seed(0)
    pyramid = build_pyramid(WIDTHS, options, norm=norm_factory(norm))
    for name, parameter in pyramid.named_parameters():
        if parameter.dim() == 1 or "predictor" in name:
            parameter.data += (0.02 if "predictor" in name else 0.2) * torch.randn_like(parameter)
    equalize_fusions(nn.ModuleDict({"pyramid": pyramid.to(dtype)}), spec, "all")
    loader = [features(SIZES[0], seed=s, scale=3.0, dtype=dtype) for s in range(2)]
    calibrate(pyramid.eval(), loader, num_images=4)
    return pyramid.eval()


VARIANTS = {
    "fpn": (PyramidOptions(name="fpn", channels=32), ""),
    "fpn with GN": (PyramidOptions(name="fpn", channels=32), "GN"),
    "fpn with two convolutions": (PyramidOptions(name="fpn", channels=32, output_convs=(2, 2, 2, 0)), ""),
    "fpn with softmax": (PyramidOptions(name="fpn", channels=32, combine="softmax"), ""),
    "fpn with selection": (PyramidOptions(name="fpn", channels=32, lateral="select"), ""),
    "smoothed": (PyramidOptions(name="fpn", channels=32, recursion="smoothed"), "GN"),
    "fapn": (PyramidOptions(name="fapn", channels=32), ""),
    "fapn with GN": (PyramidOptions(name="fapn", channels=32), "GN"),
    "fapn without selection": (PyramidOptions(name="fapn", channels=32, lateral="conv"), ""),
    "fapn, offsets from itself": (PyramidOptions(name="fapn", channels=32, transfer="aligned_self"), ""),
    "fapn, smoothed": (PyramidOptions(name="fapn", channels=32, recursion="smoothed"), "GN"),
    "fapn in real time": (PyramidOptions(name="fapn", channels=32, transfer="aligned_realtime"), "BN"),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("granularity", ["branch", "channel"])
@pytest.mark.parametrize("statistic", ["std", "rms"])
def test_the_same_function_without_coefficients(variant, granularity, statistic):
    options, norm = VARIANTS[variant]
    spec = EqualizerSpec(granularity=granularity, statistic=statistic)
    pyramid = pyramid_of(options, spec, norm, torch.float64)
    before = {name: value.clone() for name, value in pyramid.state_dict().items()}
    plain = fold_into_plain(pyramid)
    for size in SIZES:
        inputs = features(size, seed=9, dtype=torch.float64)
        expected = pyramid(inputs)
        for level, x in plain(inputs).items():
            torch.testing.assert_close(x, expected[level], rtol=1e-9, atol=1e-9)
    combines = [fusion.combine for fusion in plain.merges.values()]
    if statistic == "rms" or variant in ("fpn", "fpn with GN", "fpn with two convolutions", "smoothed"):
        assert all(type(combine) is Sum for combine in combines)
        assert not [name for name in plain.state_dict() if "combine" in name or "equalizer" in name]
    else:  # an offset without a place is what is left
        for combine in combines:
            assert type(combine) is Sum or (isinstance(combine, WeightedSum) and (combine.coefficients == 1).all())
    after = pyramid.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in before.items())


def test_refusals():
    spec = EqualizerSpec()
    with pytest.raises(ValueError, match="BiFPN has no FPN or FaPN, whose sums could be plain ones"):
        fold_into_plain(build_pyramid(WIDTHS, PyramidOptions(name="bifpn", channels=8), norm=None))
    with pytest.raises(ValueError, match=r"the pyramid cannot be made plain: level 'res4' has no output convolution"):
        fold_into_plain(pyramid_of(PyramidOptions(name="fpn", channels=8, output_convs=(0, 0, 0, 0)), spec))
    with pytest.raises(ValueError, match="the transfer of level 'res4', takes no factor"):
        fold_into_plain(pyramid_of(PyramidOptions(name="fpn", channels=8, transfer="deconv"), spec))
    pyramid = build_pyramid(WIDTHS, PyramidOptions(name="fpn", channels=8, combine="fast_normalized"), norm=None)
    pyramid.merges["res3"].combine.raw_weights.data[1] = -1.0
    with pytest.raises(ValueError, match="level 'res3' has a top-down coefficient that is not positive"):
        fold_into_plain(pyramid)
    equalized = build_pyramid(WIDTHS, PyramidOptions(name="fpn", channels=8), norm=None)
    equalize_fusions(nn.ModuleDict({"pyramid": equalized}), spec, "all")
    with pytest.raises(RuntimeError, match="not calibrated"):
        fold_into_plain(equalized)


# --- stock models, in a process that has no scaleeq ---


def run_stock(folder: Path, content: dict) -> list[dict[str, torch.Tensor]]:
    """What the stock model of `content` computes."""
    torch.save(content, folder / "delivered.pth")
    script = Path(__file__).with_name("stock_models.py")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-W", "ignore", str(script), str(folder / "delivered.pth"), str(folder / "out.pth")]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "out.pth", weights_only=True)


def backbone_of(pyramid: nn.Module, extra: str = "max_pool") -> PyramidBackbone:
    """Around a pyramid, with a bottom-up without weights: features in, features out."""
    backbone = PyramidBackbone.of(Pools(), "fpn", channels=32, extra=extra)
    backbone.pyramid, backbone.bottom_up = pyramid, nn.Identity()
    return backbone.eval()


@pytest.mark.parametrize(
    ("kind", "norm", "extra", "statistic", "granularity"),
    [
        pytest.param("fpn", "", "max_pool", "std", "branch", marks=needs_detectron2),
        pytest.param("fpn", "GN", "convs_from_res5", "std", "channel", marks=[needs_detectron2, pytest.mark.slow]),
        ("fan", "", "max_pool", "rms", "channel"),
    ],
)
def test_a_stock_pyramid_computes_the_same(tmp_path, kind, norm, extra, statistic, granularity):
    options = PyramidOptions(name="fapn" if kind == "fan" else "fpn", channels=32)
    spec = EqualizerSpec(granularity=granularity, statistic=statistic)
    equalized = backbone_of(pyramid_of(options, spec, norm), extra)
    inputs = [features(size, seed=4) for size in SIZES]
    expected = [equalized(x) for x in inputs]
    content = {"kind": kind, "state": stock_state_dict(fold_into_plain(equalized)), "inputs": inputs}
    found = run_stock(tmp_path, content | {"widths": WIDTHS, "channels": 32, "norm": norm, "extra": extra})
    for ours, theirs in zip(expected, found, strict=True):
        assert ours.keys() == theirs.keys()
        for level, x in ours.items():
            assert float(((x - theirs[level]).abs().max() / x.abs().max()).detach()) < 1e-5, level


@pytest.mark.slow
@needs_detectron2
def test_a_stock_detector_computes_the_same(tmp_path):
    """Faster R-CNN as a whole. Raw outputs: boxes after NMS of an untrained head depend on ties."""
    from tests.detection.small import SMALL, batch_of, config, model_of

    cfg = config("coco/faster_rcnn_r50+scale_equalizer")
    detector = model_of(cfg)
    calibrate(measured_part(detector), [batch_of((64, 96), (96, 64))], num_images=2)
    keys = {key: value for key, value in SMALL.items() if "POINT_HEAD" not in key}
    for part in ("RPN.IN_FEATURES", "ROI_HEADS.IN_FEATURES", "ROI_HEADS.NAME", "ANCHOR_GENERATOR.SIZES"):
        section, name = part.split(".")
        keys[f"MODEL.{part}"] = cfg.MODEL[section][name]
    for part in ("NAME", "NUM_FC", "POOLER_RESOLUTION"):
        keys[f"MODEL.ROI_BOX_HEAD.{part}"] = cfg.MODEL.ROI_BOX_HEAD[part]
    keys |= {"MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone", "MODEL.MASK_ON": False}
    keys |= {"MODEL.RESNETS.OUT_FEATURES": list(WIDTHS), "MODEL.FPN.IN_FEATURES": list(WIDTHS)}
    images = [torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(3)) for size in SIZES]
    state = stock_state_dict(fold_into_plain(detector))
    words = [word for pair in keys.items() for word in pair]
    found = run_stock(tmp_path, {"kind": "detector", "keys": words, "state": state, "inputs": images})
    detector.eval()
    for image, theirs in zip(images, found, strict=True):
        levels = detector.backbone(image)
        raw = detector.proposal_generator.rpn_head([levels[f] for f in detector.proposal_generator.in_features])
        ours = {f"{k}.{i}": x for k, maps in enumerate(raw) for i, x in enumerate(maps)}
        assert ours.keys() == theirs.keys() and len(ours) == 10
        for name, x in ours.items():
            torch.testing.assert_close(theirs[name], x, rtol=1e-4, atol=1e-6)


# --- names ---


def test_names_come_back():
    for name, extra in (("fpn", "max_pool"), ("fpn", "convs_from_res5"), ("fapn", "convs_from_p5")):
        torch.manual_seed(0)
        model = nn.ModuleDict({"backbone": PyramidBackbone.of(Pools(), name, channels=16, extra=extra)})
        model["head"] = nn.Linear(2, 2)
        stock = stock_state_dict(model)
        assert "backbone.fpn_output2.weight" in stock and "backbone.bottom_up.convs.res2.weight" in stock
        assert not [key for key in stock if "pyramid" in key or "extra" in key]
        back = convert_detector(stock)
        ours = model.state_dict()
        assert back.keys() == ours.keys() and all(torch.equal(value, ours[key]) for key, value in back.items())


def test_fapns_released_detectors_have_a_place():
    state = {key.replace("bottom_up.stem.conv1", "bottom_up.convs.res2"): v for key, v in released_checkpoint().items()}
    converted = convert_detector(state)
    ours = PyramidBackbone.of(Pools(), "fapn", channels=8).state_dict()
    assert {f"backbone.{name}" for name in ours if name.startswith("pyramid.")} <= converted.keys()
    assert "sem_seg_head.predictor.weight" in converted and "backbone.bottom_up.convs.res2.weight" in converted


def test_refusals_of_names():
    with pytest.raises(ValueError, match="Linear has no pyramid backbone"):
        stock_state_dict(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="a BiFPN has no counterpart in Detectron2"):
        stock_state_dict(PyramidBackbone.of(Pools(), "bifpn", channels=16))
    with pytest.raises(ValueError, match=r"no backbone.fpn_lateral and no backbone.fan_align in it; .*'weight'"):
        convert_detector(nn.Linear(1, 1).state_dict())
    with pytest.raises(ValueError, match=r"backbone.fpn_gate2.weight is no name of Detectron2's FPN"):
        convert_detector({"backbone.fpn_gate2.weight": torch.ones(1)})
    for options in (
        PyramidOptions(name="fpn", channels=16, transfer="bilinear"),
        PyramidOptions(name="fapn", channels=16, lateral="conv"),
    ):
        with pytest.raises(ValueError, match=r"neither Detectron2's FPN .* nor FaPN"):
            stock_state_dict(PyramidBackbone.of(Pools(), options))
    several = PyramidOptions(name="fpn", channels=16, output_convs=(2, 1, 1, 1))
    with pytest.raises(ValueError, match="a level has one output convolution there"):
        stock_state_dict(PyramidBackbone.of(Pools(), several))
    backbone = PyramidBackbone.of(Pools(), "fapn", channels=16)
    equalize_fusions(backbone, EqualizerSpec(), "all")
    calibrate(backbone, [torch.randn(2, 3, 64, 64)], num_images=2)
    with pytest.raises(ValueError, match=r"take fold_into_plain\(model\) first.*STATISTIC 'rms'"):
        stock_state_dict(backbone)
    with pytest.raises(ValueError, match="STATISTIC 'rms'"):
        stock_state_dict(fold_into_plain(backbone))
