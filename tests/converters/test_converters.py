"""Heads of other libraries: logits with their own weights. Oracles: mmsegmentation's recorded logits (the goldens of
tests/decoders), transformers' and Detectron2's heads as installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scaleeq import create_model
from scaleeq.converters import convert_mmseg_head, convert_semantic_fpn_head, convert_upernet_head
from scaleeq.decoders import FCN, PyramidOptions, SemanticFPN, UPer
from scaleeq.layers import Level
from tests.decoders.heads import head_of
from tests.decoders.reference_weights import reference_inputs, reference_state
from tests.decoders.test_mmseg_heads import CASES, GOLDENS, LEVELS, make_head
from tests.decoders.test_semantic_fpn import CHANNELS, STRIDES, WIDTH, make_levels
from tests.decoders.test_semantic_fpn import make_head as semantic_fpn_head

# Wide heads take their time: they are the narrow ones with more channels.
NARROW = [name for name, case in CASES.items() if case["channels"] <= 32 or name == "fcn_hrnet_w18_270"]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.parametrize("output", [output for name in NARROW for output in CASES[name]["outputs"]])
def test_mmsegmentations_checkpoint(output):
    case = CASES[output.rsplit(".", 1)[0]]
    file = {f"decode_head.{name}": value for name, value in reference_state(case["state_dict"]).items()}
    head = make_head(case).eval()
    head.load_state_dict(convert_mmseg_head(head, {"backbone.conv1.weight": torch.zeros(1), **file}))
    inputs = reference_inputs(case["in_channels"], case["outputs"][output]["levels"])
    with torch.no_grad():
        logits = head.logits(dict(zip(LEVELS, inputs, strict=True)))
    torch.testing.assert_close(logits, torch.from_numpy(np.load(GOLDENS / "mmseg_heads.npz")[output]), **CLOSE)


def test_transformers_upernet():
    transformers = pytest.importorskip("transformers")
    widths = [8, 16, 24, 32]
    backbone = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=widths,
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    torch.manual_seed(0)
    config = transformers.UperNetConfig(
        backbone_config=backbone, hidden_size=16, num_labels=5, auxiliary_in_channels=24
    )
    theirs = transformers.UperNetForSemanticSegmentation(config).eval()
    with torch.no_grad():
        for name, value in theirs.state_dict().items():
            if name.endswith("running_mean"):
                value.normal_(0, 0.1)
    levels = {name: Level(width, stride) for name, width, stride in zip(LEVELS, widths, (4, 8, 16, 32), strict=True)}
    head = head_of(UPer, levels, 16, num_classes=5).eval()
    head.load_state_dict(convert_upernet_head(head, theirs.state_dict()))
    maps = [
        torch.randn(2, width, 80 // stride, 112 // stride) for width, stride in zip(widths, (4, 8, 16, 32), strict=True)
    ]
    with torch.no_grad():
        expected = theirs.decode_head(maps)
        found = head.logits(dict(zip(LEVELS, maps, strict=True)))
    assert float(expected.std()) > 0
    torch.testing.assert_close(found, expected, **CLOSE)
    # The auxiliary head, on the third level.
    auxiliary = head_of(FCN, {"res4": levels["res4"]}, 256, num_classes=5, num_convs=1, concat_input=False).eval()
    auxiliary.load_state_dict(convert_upernet_head(auxiliary, theirs.state_dict(), prefix="auxiliary_head."))
    with torch.no_grad():
        torch.testing.assert_close(auxiliary.logits({"res4": maps[2]}), theirs.auxiliary_head(maps), **CLOSE)


@pytest.mark.parametrize("norm", ["GN", ""])
def test_detectron2s_semantic_fpn(norm):
    pytest.importorskip("detectron2.modeling", reason="needs Detectron2")
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead

    shapes = {level: ShapeSpec(channels=WIDTH, stride=stride) for level, stride in STRIDES.items()}
    theirs = SemSegFPNHead(
        shapes, num_classes=5, conv_dims=CHANNELS, common_stride=4, loss_weight=0.5, norm=norm, ignore_value=255
    ).eval()
    file = {f"sem_seg_head.{name}": value for name, value in theirs.state_dict().items()}
    head = semantic_fpn_head(norm).eval()
    head.load_state_dict(convert_semantic_fpn_head(head, file))
    with torch.no_grad():
        torch.testing.assert_close(head.logits(make_levels()), theirs.layers(make_levels()), **CLOSE)


@pytest.fixture
def psp():
    """A head, and a file of mmsegmentation's for it."""
    case = CASES["psp_resnet18_32"]
    return make_head(case), {f"decode_head.{name}": v for name, v in reference_state(case["state_dict"]).items()}


def test_what_has_no_counterpart_is_named(psp):
    head, file = psp
    with pytest.raises(ValueError, match=r"no name begins with 'decode_head\.'; they begin with \['a'\]"):
        convert_mmseg_head(head, {"a": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"decode_head\.extra\.weight has no counterpart in this PSPHead"):
        convert_mmseg_head(head, {**file, "decode_head.extra.weight": torch.zeros(1)})
    less = {name: value for name, value in file.items() if name != "decode_head.conv_seg.bias"}
    with pytest.raises(ValueError, match=r"decode_head\.conv_seg\.bias is not in the file of mmsegmentation"):
        convert_mmseg_head(head, less)
    with pytest.raises(
        ValueError, match=r"decode_head\.conv_seg\.bias is \(7,\), and classifier\.bias of this PSPHead"
    ):
        convert_mmseg_head(head, file | {"decode_head.conv_seg.bias": torch.zeros(7)})
    broken = file["decode_head.conv_seg.bias"] * float("nan")
    with pytest.raises(ValueError, match=r"decode_head\.conv_seg\.bias is not finite"):
        convert_mmseg_head(head, file | {"decode_head.conv_seg.bias": broken})


def test_other_decoders_are_refused(psp):
    head, file = psp
    eseg = create_model("eseg", "test_resnet", num_classes=3, channels=8).sem_seg_head
    with pytest.raises(ValueError, match="ESeg is not a head of mmsegmentation's"):
        convert_mmseg_head(eseg, file)
    with pytest.raises(ValueError, match="PSPHead is not the head of transformers' UperNet"):
        convert_upernet_head(head, file)
    with_pyramid = head_of(
        SemanticFPN, {"p2": Level(8, 4), "p3": Level(8, 8)}, 32, pyramid=PyramidOptions(name="fpn", channels=8)
    )
    with pytest.raises(ValueError, match="SemanticFPN with PyramidOptions"):
        convert_semantic_fpn_head(with_pyramid, file)
