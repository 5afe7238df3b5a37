"""Exports: every decoder in every format against the plain model, and what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import nn

import scaleeq
from scaleeq import EqualizerSpec, calibrate, create_model, equalize_fusions
from scaleeq.backbones import ViTBackbone
from scaleeq.decoders import PyramidOptions
from scaleeq.rewrites.any_size import averaged, convolved_same, of_any_size, pads_by_parity
from scaleeq.rewrites.export import CHECKED, TRACED, Deployed

FAPN = {"pyramid": PyramidOptions(name="fapn", channels=8)}
CASES = {
    "uper": ("uper", {}),
    "psp": ("psp", {}),
    "aspp": ("aspp", {}),
    "sep_aspp": ("sep_aspp", {}),
    "fcn": ("fcn", {}),
    "semantic_fpn": ("semantic_fpn", {"norm": None}),
    "eseg": ("eseg", {}),
    "uper_fapn": ("uper", FAPN),
}
slow = (pytest.mark.slow, pytest.mark.timeout(900))


def model_of(case: str) -> nn.Module:
    """Small, with weights and statistics that no fold can hide."""
    decoder, options = CASES[case]
    torch.manual_seed(0)
    model = create_model(decoder, "test_resnet", num_classes=3, channels=8, options=options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
    return model


def equalized(model: nn.Module) -> nn.Module:
    equalize_fusions(model, EqualizerSpec())
    calibrate(model, [torch.randn(2, 3, 96, 64) for _ in range(2)])
    return model.eval()


@pytest.mark.parametrize("case", CASES)
def test_the_copy_computes_the_same_at_any_size(case):
    model = model_of(case)
    for operator in (False, True):
        copied = of_any_size(Deployed(model), operator=operator)
        for size in ((61, 97), (64, 64), (130, 33)):
            images = torch.randn(1, 3, *size)
            with torch.no_grad():
                torch.testing.assert_close(copied(images), model(images), rtol=1e-4, atol=1e-5)
    assert "forward" not in vars(model)  # the model itself is as it was


@pytest.mark.parametrize("case", ["psp", *(pytest.param(case, marks=slow) for case in CASES if case != "psp")])
def test_torchscript(case, tmp_path):
    model = model_of(case)
    result = scaleeq.export(model, tmp_path / "model.ts")
    assert not result.refused and result.difference < 1e-5
    again, images = torch.jit.load(str(tmp_path / "model.ts")), torch.randn(1, 3, 45, 77)
    with torch.no_grad():
        torch.testing.assert_close(again(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["fcn", *(pytest.param(case, marks=slow) for case in CASES if case != "fcn")])
def test_onnx(case, tmp_path):
    import onnx
    import onnxruntime

    model = equalized(model_of(case))
    result = scaleeq.export(model, tmp_path / "model.onnx")
    assert result.path == tmp_path / "model.onnx" and result.difference < 1e-4
    assert len(result.sizes) == len(CHECKED)
    session = onnxruntime.InferenceSession(str(result.path), providers=["CPUExecutionProvider"])
    images = torch.randn(2, 3, 77, 141)
    (found,) = session.run(["logits"], {"images": images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), model(images), rtol=1e-3, atol=1e-4)
    nodes = [node.op_type for node in onnx.load(result.path).graph.node]
    assert ("DeformConv" in nodes) == (case == "uper_fapn")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("case", [pytest.param(case, marks=slow) for case in CASES])
def test_pt2(case, tmp_path):
    model = model_of(case)
    result = scaleeq.export(model, tmp_path / "model.pt2")
    assert (672, 704) in result.sizes
    # Its coarsest level has one pixel there, which torch's guards refuse.
    assert bool(result.refused) == (case == "eseg")


def vit_model(**options) -> nn.Module:
    """A linear classifier of the last block's map, or a UPer on the simple pyramid."""
    torch.manual_seed(0)
    backbone = ViTBackbone(name="test_vit", **options)
    decoder, levels = ("uper", ()) if backbone.pyramid is not None else ("fcn", list(backbone.levels())[-1:])
    return create_model(decoder, backbone, num_classes=3, channels=8, levels=levels).eval()


@pytest.mark.parametrize("pyramid", ["", "simple"])
def test_a_vits_positions_are_those_of_the_size_it_meets(pyramid, tmp_path):
    """The table of positions is resampled in the graph; images are padded and maps cropped there."""
    model = vit_model(pyramid=pyramid)
    copied = of_any_size(Deployed(model))
    scaleeq.export(model, tmp_path / "model.ts")
    again = torch.jit.load(str(tmp_path / "model.ts"))
    for size in ((61, 97), (160, 160), (33, 208)):
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            expected = model(images)
            torch.testing.assert_close(copied(images), expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(again(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("ending", "pyramid"), [(".onnx", ""), (".onnx", "simple"), (".pt2", "")])
def test_a_vit_is_exported_for_any_size(ending, pyramid, tmp_path):
    result = scaleeq.export(vit_model(pyramid=pyramid), tmp_path / f"model{ending}")
    assert len(result.sizes) == len(CHECKED) and result.difference < 1e-4


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_vits_pyramid_is_refused_as_a_pt2_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"^model\.pt2 is not written: it takes no size but the traced one") as refused:
        scaleeq.export(vit_model(pyramid="simple"), tmp_path / "model.pt2")
    assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [(13, 7), (6, 12), (2, 5), (1, 1)])
@pytest.mark.parametrize("cells", [1, 2, 3, 6, (2, 3)])
def test_averaging_matrices_are_torchs_windows(size, cells):
    x = torch.randn(2, 4, *size)
    module = nn.AdaptiveAvgPool2d(cells)
    torch.testing.assert_close(averaged(module, x), module(x))


@pytest.mark.parametrize("kernel", [3, 5, (3, 7)])
def test_padding_by_parity_is_tensorflows(kernel):
    convolution = Conv2dSame(4, 4, kernel, stride=2, groups=4)
    assert pads_by_parity(convolution) and not pads_by_parity(Conv2dSame(4, 4, 2, stride=2))
    for size in ((8, 9), (9, 8), (7, 7), (1, 2)):
        x = torch.randn(2, 4, *size)
        torch.testing.assert_close(convolved_same(convolution, x), convolution(x))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("ending", [".onnx", ".pt2"])
def test_a_backbone_with_tensorflows_padding(ending, tmp_path):
    model = create_model("fcn", "tf_efficientnet_lite0", num_classes=2, channels=8).eval()
    result = scaleeq.export(model, tmp_path / f"model{ending}")
    assert len(result.sizes) == len(CHECKED) and result.difference < 1e-4


class KeepsTheSize(nn.Module):
    """Specialised on the traced size: its windows are whole numbers of pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = (int(size) // 3 for size in x.shape[-2:])
        return F.interpolate(F.avg_pool2d(x, (height, width)), size=x.shape[-2:])


def test_a_graph_that_keeps_the_traced_size_is_refused(tmp_path):
    (tmp_path / "model.ts").write_text("before")
    with pytest.raises(ValueError, match=f"the traced size {TRACED[0]}x{TRACED[1]}|where the model gives|does not run"):
        scaleeq.export(KeepsTheSize(), tmp_path / "model.ts")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def test_what_is_refused(tmp_path):
    model = model_of("fcn")
    with pytest.raises(ValueError, match=r"the ending of an exported file is '.onx'; .*did you mean .onnx"):
        scaleeq.export(model, tmp_path / "model.onx")
    equalize_fusions(model, EqualizerSpec())
    with pytest.raises(ValueError, match="are not calibrated"):
        scaleeq.export(model, tmp_path / "model.ts")
    of_stride_3 = nn.Sequential(Conv2dSame(3, 2, 3, stride=3))  # no timm model has one
    with pytest.raises(ValueError, match=r"export it as \.ts"):
        scaleeq.export(of_stride_3, tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())
