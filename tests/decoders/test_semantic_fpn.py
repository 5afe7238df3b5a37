"""SemanticFPN. Oracle: Detectron2's SemSegFPNHead, with the weights that the decoder's module docstring maps."""

from __future__ import annotations

import re

import pytest
import torch

from scaleeq.decoders.pyramid import PyramidOptions
from scaleeq.decoders.semantic_fpn import SemanticFPN, doublings
from scaleeq.layers import Level, norm_factory
from scaleeq.tasks.head import SegmentationHead
from scaleeq.tasks.losses.segmentation import SegmentationLoss
from tests.decoders.heads import head_of

STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}
WIDTH, CHANNELS = 6, 32


def make_head(norm_name: str = "GN") -> SegmentationHead:
    torch.manual_seed(0)
    return head_of(
        SemanticFPN,
        {level: Level(WIDTH, stride) for level, stride in STRIDES.items()},
        CHANNELS,
        num_classes=5,
        dropout=0.0,
        norm=norm_factory(norm_name),
        loss=SegmentationLoss(ignore_value=255, weight=0.5),
        pyramid=PyramidOptions(name="none", channels=WIDTH),
    )


def make_levels() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {level: torch.randn(2, WIDTH, 64 // stride, 96 // stride) for level, stride in STRIDES.items()}


def detectron2_name(name: str) -> str:
    name = re.sub(
        r"^fusion\.branches\.(p\d)\.transfer\.convs\.(\d)\.(conv\.)?", lambda m: f"{m[1]}.{2 * int(m[2])}.", name
    )
    return re.sub(r"^classifier\.", "predictor.", name)


@pytest.mark.parametrize("norm", ["GN", ""])
def test_logits_and_loss_are_detectron2s_with_mapped_weights(norm):
    pytest.importorskip("detectron2.modeling", reason="needs Detectron2")
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead

    shapes = {level: ShapeSpec(channels=WIDTH, stride=stride) for level, stride in STRIDES.items()}
    theirs = SemSegFPNHead(
        shapes, num_classes=5, conv_dims=CHANNELS, common_stride=4, loss_weight=0.5, norm=norm, ignore_value=255
    )
    ours = make_head(norm)
    weights = {detectron2_name(name): value for name, value in ours.state_dict().items()}
    theirs.load_state_dict(weights, strict=True)
    levels, labels = make_levels(), torch.randint(0, 5, (2, 64, 96))
    labels[:, :, :7] = 255
    torch.testing.assert_close(ours(levels, labels)[1], theirs(levels, labels)[1], rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(levels), theirs.eval()(levels), rtol=1e-5, atol=1e-5)


def test_the_mapping_names_every_weight_of_detectron2s_head():
    """Names as Detectron2 0.6 gives them; its test above needs Detectron2."""
    blocks = ["p2.0", "p3.0", "p4.0", "p4.2", "p5.0", "p5.2", "p5.4"]
    expected = {f"{block}.{tensor}" for block in blocks for tensor in ("weight", "norm.weight", "norm.bias")}
    assert {detectron2_name(name) for name in make_head().state_dict()} == expected | {
        "predictor.weight",
        "predictor.bias",
    }


def test_levels_are_doubled_as_often_as_their_stride_says():
    strides = {"a": 4, "b": 8, "c": 8, "d": 64}
    assert doublings({level: Level(1, stride) for level, stride in strides.items()}) == [0, 1, 1, 4]
    with pytest.raises(ValueError, match="level 'b' has stride 12, which is not 4 doubled"):
        doublings({"a": Level(1, 4), "b": Level(1, 12)})
