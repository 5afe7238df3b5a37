"""The pixel decoder of mask transformers. Oracles: MaskFormer's BasePixelDecoder written out in torch's functions, and
its published sizes (7.540 M; with FaPN's alignment 11.199 M).
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import scaleeq
from scaleeq.decoders import PyramidOptions
from scaleeq.detection.pixel_decoder import ScaleEqPixelDecoder
from scaleeq.engine import SEM_SEG_HEADS_REGISTRY, CfgNode, ShapeSpec, get_cfg
from scaleeq.equalization.calibration import calibrate, fusions_of
from scaleeq.equalization.folding import fold_equalizers
from scaleeq.layers import Level, norm_factory

R50 = {"res2": (256, 4), "res3": (512, 8), "res4": (1024, 16), "res5": (2048, 32)}
NARROW = {"res2": (4, 4), "res3": (6, 8), "res4": (8, 16), "res5": (10, 32)}


def levels(shapes=NARROW) -> dict[str, Level]:
    return {name: Level(*shape) for name, shape in shapes.items()}


def features(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(2, w, 128 // s, 96 // s, generator=generator) for name, (w, s) in NARROW.items()}


def decoder_of(name: str = "fpn", *, multi_scale: bool = True, shapes=NARROW, channels: int = 32, **options):
    pyramid = PyramidOptions(name=name, channels=channels, recursion="smoothed", **options)
    return ScaleEqPixelDecoder(
        levels(shapes), pyramid=pyramid, mask_channels=channels, norm=norm_factory("GN"), multi_scale=multi_scale
    )


def maskformers(w: dict[str, torch.Tensor], x: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Its maps, coarsest first, on our weights."""

    def norm(y: torch.Tensor, name: str) -> torch.Tensor:
        return F.group_norm(y, 32, w[f"{name}.norm.weight"], w[f"{name}.norm.bias"])

    running = F.relu(norm(F.conv2d(x["res5"], w["pyramid.top_lateral.conv.weight"], padding=1), "pyramid.top_lateral"))
    maps = [running]
    for level in ("res4", "res3", "res2"):
        lateral = f"pyramid.merges.{level}.branches.lateral.lateral"
        smooth = f"pyramid.merges.{level}.mix"
        summed = norm(F.conv2d(x[level], w[f"{lateral}.conv.weight"]), lateral)
        summed = summed + F.interpolate(running, size=x[level].shape[-2:], mode="nearest")
        running = F.relu(norm(F.conv2d(summed, w[f"{smooth}.conv.weight"], padding=1), smooth))
        maps.append(running)
    return maps


def test_it_is_maskformers_and_speaks_both_protocols():
    torch.manual_seed(0)
    decoder = decoder_of()
    maps = maskformers(decoder.state_dict(), features())
    masks, encoded, scales = decoder.forward_features(features())
    torch.testing.assert_close(masks, F.conv2d(maps[-1], *decoder.mask_features.parameters(), padding=1))
    assert encoded is None and len(scales) == 3
    for ours, theirs in zip(scales, maps, strict=False):
        torch.testing.assert_close(ours, theirs)
    decoder.multi_scale = False
    two = decoder(features())
    assert len(two) == 2 and two[1] is None and torch.equal(two[0], masks)
    assert decoder.mask_dim == 32 and decoder.in_features == list(NARROW)


@pytest.mark.parametrize(("name", "total"), [("fpn", 7_540_480), ("fapn", 11_199_112)])
def test_sizes(name, total):
    with torch.device("meta"):
        decoder = decoder_of(name, shapes=R50, channels=256)
    assert sum(parameter.numel() for parameter in decoder.parameters()) == total


def config(**keys: object):
    """As Mask2Former's config has it, with our pixel decoder."""
    cfg = get_cfg()
    scaleeq.add_scaleeq_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.MASK_DIM = 16
    cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME = "ScaleEqPixelDecoder"
    cfg.MODEL.MASK_FORMER = CfgNode({"TRANSFORMER_IN_FEATURE": "multi_scale_pixel_decoder"})
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = list(NARROW)
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 32
    for key, value in keys.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def build(cfg):
    shapes = {name: ShapeSpec(channels=w, stride=s) for name, (w, s) in NARROW.items()}
    return SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME)(cfg, shapes)


@pytest.mark.parametrize("pyramid", ["", "fapn", "bifpn"])
def test_it_is_built_of_a_config_equalized_and_folded(pyramid):
    torch.manual_seed(0)
    equalized = {"MODEL__SCALE_EQUALIZER__ENABLED": True, "MODEL__SCALE_EQUALIZER__SCOPE": "all"}
    decoder = build(config(MODEL__PYRAMID__NAME=pyramid, **equalized))
    assert fusions_of(decoder)
    calibrate(decoder, [features()], num_images=2)
    folded = fold_equalizers(decoder)
    masks, _, scales = decoder.eval().forward_features(features(1))
    others, _, other_scales = folded.eval().forward_features(features(1))
    assert masks.shape == (2, 16, 32, 24) and [x.shape[-1] for x in scales] == [3, 6, 12]
    for ours, theirs in zip([masks, *scales], [others, *other_scales], strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


def test_maskformers_config_gets_two_values():
    cfg = config()
    cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE = "res5"
    assert len(build(cfg).forward_features(features())) == 2
    del cfg.MODEL["MASK_FORMER"], cfg.MODEL.SEM_SEG_HEAD["MASK_DIM"]
    assert build(cfg).mask_dim == 32


def test_too_few_levels_are_refused():
    with pytest.raises(ValueError, match="IN_FEATURES has res4, res5; Mask2Former reads the 3 coarsest"):
        decoder_of(shapes={name: NARROW[name] for name in ("res4", "res5")})
