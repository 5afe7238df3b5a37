"""FaPN. Oracle: the released model's graph (arXiv 2108.07058) written out on weights that have the released names."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import deform_conv2d

from scaleeq.converters import convert_fapn_weights
from scaleeq.decoders import fapn
from scaleeq.decoders.fapn import fapn_realtime
from scaleeq.decoders.plain import smoothed_fpn
from scaleeq.equalization import EqualizerSpec
from scaleeq.fusion import Aligned, SoftmaxSum
from scaleeq.layers import batch_norm, norm_factory
from tests.equalized import equalized

CHANNELS = {"res2": 4, "res3": 6, "res4": 8, "res5": 10}
SIZES = {"res2": (11, 9), "res3": (6, 5), "res4": (3, 3), "res5": (2, 2)}
R50 = {"res2": 256, "res3": 512, "res4": 1024, "res5": 2048}
WIDTH = 8


def features(channels=CHANNELS) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        level: torch.randn(2, channels[level], *SIZES[level], generator=generator, dtype=torch.float64)
        for level in channels
    }


def released_checkpoint(prefix="backbone.") -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return 0.3 * torch.randn(*shape, generator=generator, dtype=torch.float64)

    state = {"backbone.bottom_up.stem.conv1.weight": draw(3), "sem_seg_head.predictor.weight": draw(2)}
    for index, width in enumerate(list(CHANNELS.values())[:3], start=2):
        align = f"{prefix}fan_align{index}"
        state[f"{align}.lateral_conv.conv_atten.weight"] = draw(width, width, 1, 1)
        state[f"{align}.lateral_conv.conv.weight"] = draw(WIDTH, width, 1, 1)
        state[f"{align}.offset.weight"] = draw(WIDTH, 2 * WIDTH, 1, 1)
        state[f"{align}.dcpack_L2.weight"] = draw(WIDTH, WIDTH, 3, 3)
        state[f"{align}.dcpack_L2.bias"] = draw(WIDTH)
        state[f"{align}.dcpack_L2.conv_offset_mask.weight"] = draw(216, WIDTH, 3, 3)
        state[f"{align}.dcpack_L2.conv_offset_mask.bias"] = draw(216)
        state[f"{prefix}fpn_output{index}.weight"] = draw(WIDTH, WIDTH, 3, 3)
        state[f"{prefix}fpn_output{index}.bias"] = draw(WIDTH)
    state[f"{prefix}fan_align5.weight"] = draw(WIDTH, CHANNELS["res5"], 1, 1)
    state[f"{prefix}fan_align5.bias"] = draw(WIDTH)
    return state


def released_forward(state: dict[str, torch.Tensor], x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """FaPN's forward in torch's functions, on a checkpoint of the released names."""
    w = {name.removeprefix("backbone."): value for name, value in state.items()}
    running = F.conv2d(x["res5"], w["fan_align5.weight"], w["fan_align5.bias"])
    results = {"res5": running}
    for index in (4, 3, 2):
        align, fine = f"fan_align{index}", x[f"res{index}"]
        weight = torch.sigmoid(F.conv2d(fine.mean((2, 3), keepdim=True), w[f"{align}.lateral_conv.conv_atten.weight"]))
        selected = F.conv2d(fine + fine * weight, w[f"{align}.lateral_conv.conv.weight"])
        up = F.interpolate(running, fine.shape[-2:], mode="bilinear", align_corners=False)
        offset = F.conv2d(torch.cat([selected, up * 2], 1), w[f"{align}.offset.weight"])
        conv = f"{align}.dcpack_L2"
        predicted = F.conv2d(
            offset, w[f"{conv}.conv_offset_mask.weight"], w[f"{conv}.conv_offset_mask.bias"], padding=1
        )
        first, second, mask = predicted.chunk(3, 1)
        aligned = deform_conv2d(
            up, torch.cat([first, second], 1), w[f"{conv}.weight"], w[f"{conv}.bias"], padding=1, mask=mask.sigmoid()
        )
        running = aligned.relu() + selected
        output = f"fpn_output{index}"
        results[f"res{index}"] = F.conv2d(running, w[f"{output}.weight"], w[f"{output}.bias"], padding=1)
    return results


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone."])
def test_released_weights_give_the_released_model(prefix):
    pyramid = fapn(CHANNELS, WIDTH).double()
    pyramid.load_state_dict(convert_fapn_weights(released_checkpoint(prefix)))  # strict: every weight has its place
    expected = released_forward(released_checkpoint(), features())
    outputs = pyramid(features())
    assert list(outputs) == list(CHANNELS)
    for level, y in outputs.items():
        torch.testing.assert_close(y, expected[level], rtol=1e-10, atol=1e-10)


def test_released_weights_with_a_norm_have_a_place_too():
    pyramid = fapn(CHANNELS, WIDTH, norm=batch_norm)
    ours = pyramid.state_dict()
    theirs = {}
    for name, value in released_checkpoint().items():
        if name.endswith(".bias") and ("fpn_output" in name or name.endswith("fan_align5.bias")):
            continue  # the convolution has a norm instead
        theirs[name] = value
    norms = ["fan_align5"]
    for index in (2, 3, 4):
        norms += [f"fan_align{index}.offset", f"fpn_output{index}"]
    for name in norms:
        for key, value in batch_norm(WIDTH).state_dict().items():
            theirs[f"backbone.{name}.norm.{key}"] = value
    assert convert_fapn_weights(theirs).keys() == ours.keys()


def test_a_foreign_checkpoint_is_refused():
    with pytest.raises(ValueError, match=r"no 'fan_align' in the checkpoint, whose names start with .*'conv1\.weight'"):
        convert_fapn_weights({"conv1.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"'backbone\.fan_align3\.lateral_conv\.gate' is not a name of FaPN"):
        convert_fapn_weights({"backbone.fan_align3.lateral_conv.gate": torch.zeros(1)})


def test_it_starts_as_the_released_code_does():
    """The top's lateral in torch's own initialisation (weight and bias), everything else in Caffe2's Xavier fill."""
    torch.manual_seed(0)
    pyramid = fapn({"res2": 100, "res3": 400}, 64)
    assert pyramid.top_lateral.conv.bias.any()
    assert 0.8 / 20 < pyramid.top_lateral.conv.weight.abs().max() <= 1 / 20  # uniform, 1 / sqrt(fan-in)
    output = pyramid.outputs["res2"].conv
    assert not output.bias.any()
    bound = (3 / (64 * 9)) ** 0.5
    assert 0.8 * bound < output.weight.abs().max() <= bound


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_sizes_of_the_specified_models():
    assert count(fapn(R50, 256)) == 7_786_888
    for width, level in ((256, 1_219_032), (128, 429_400), (64, 169_752)):
        pyramid = fapn(R50, width)
        for merge in pyramid.merges.values():
            assert count(merge.branches["top_down"]) == level
        selections = [count(merge.branches["lateral"]) for merge in pyramid.merges.values()]
        assert selections == [c * c + c * width for c in (1024, 512, 256)]


def test_alignment_in_maskformers_decoder_adds_what_was_published():
    """7.540 M parameters become 11.198 M for ResNet-50, 6.246 M become 9.903 M for Swin-L, mask features included."""
    norm = norm_factory("GN")
    swin = dict(zip(R50, (192, 384, 768, 1536), strict=True))
    for channels, plain, aligned in ((R50, 7.540, 11.198), (swin, 6.246, 9.903)):
        mask_features = 9 * 256 * 256 + 256
        base = count(smoothed_fpn(channels, 256, norm=norm)) + mask_features
        fam = count(smoothed_fpn(channels, 256, transfer=lambda: Aligned(256, norm=norm), norm=norm)) + mask_features
        assert round(base / 1e6, 3) == plain
        # The released code shares one norm between offset and output convolution of a level, we do not.
        assert round((fam - 3 * 512) / 1e6, 3) == aligned


def test_the_realtime_pyramid_has_the_size_of_the_authors_file():
    """ResNet-18 at strides 8 to 32, width 128: 12.10 M with backbone and the head's 3x3 to 64 and classifier."""
    width, half = 128, 64
    lateral = sum(c * width + 2 * width for c in (128, 256, 512))
    offsets = 2 * width * width + 2 * width + 9 * width * 216 + 216
    level = offsets + 9 * width * half + half + half * width + 2 * width
    pyramid = fapn_realtime({"res3": 128, "res4": 256, "res5": 512}, width)
    assert count(pyramid) == lateral + 2 * level == 844_080
    assert round((11_176_512 + count(pyramid) + 9 * width * half + 2 * half + half * 19) / 1e6, 2) == 12.10


@pytest.mark.parametrize("build", [fapn, fapn_realtime, smoothed_fpn])
def test_options_of_every_fusion_reach_it(build):
    pyramid = equalized(build(CHANNELS, WIDTH, combine="softmax"), EqualizerSpec(granularity="channel"))
    merges = list(pyramid.merges.values())
    assert len(merges) == 3 and all(isinstance(merge.combine, SoftmaxSum) for merge in merges)
    assert {equalizer.granularity for merge in merges for equalizer in merge.equalizer_of.values()} == {"channel"}
    assert isinstance(build(CHANNELS | {"res5": WIDTH}, WIDTH, ready_top=True).top_lateral, nn.Identity)


def test_the_realtime_pyramid():
    """Ungated laterals with norm and ReLU and no output convolution: all of a level's map is its merge."""
    pyramid = fapn_realtime({"res3": 6, "res4": 8, "res5": 10}, 16).eval()
    x = {level: y.float() for level, y in features().items() if level != "res2"}
    outputs = pyramid(x)
    assert not pyramid.outputs and {level: y.shape[1] for level, y in outputs.items()} == dict.fromkeys(x, 16)
    assert all((y >= 0).all() for y in outputs.values())  # sums of two ReLUs


def test_the_recursion_of_maskformer_goes_on_behind_the_convolutions():
    pyramid = smoothed_fpn(CHANNELS, WIDTH, norm=batch_norm).double().eval()
    x = features()
    running = pyramid.top_lateral(x["res5"])
    assert pyramid.top_lateral.conv.kernel_size == (3, 3) and (running >= 0).all()
    outputs = pyramid(x)
    for level in ("res4", "res3", "res2"):
        fusion = pyramid.merges[level]
        up = F.interpolate(running, SIZES[level], mode="nearest")
        running = fusion.mix(fusion.branches["lateral"].lateral(x[level]) + up)
        torch.testing.assert_close(outputs[level], running, rtol=0, atol=1e-12)
