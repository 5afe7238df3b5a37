"""Aligned transfers. Oracle: FaPN's alignment (arXiv 2108.07058, section 3.1) written out on torchvision's operator."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import deform_conv2d

from scaleeq.fusion import Aligned, Branch, Fusion, Sum, make_transfer
from scaleeq.fusion.aligned import AlignedRealtime
from scaleeq.fusion.laterals import Select
from scaleeq.layers import batch_norm


def maps(channels=8, fine=(5, 7), coarse=(3, 4)) -> tuple[torch.Tensor, torch.Tensor]:
    """The coarse map and the reference, of odd size."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, channels, *coarse), (2, channels, *fine)]
    coarse_map, reference = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return coarse_map, reference


def trained(transfer: nn.Module) -> nn.Module:
    """With offsets that are not zero, in float64."""
    torch.manual_seed(1)
    for module in transfer.modules():
        if isinstance(module, Aligned):
            nn.init.normal_(module.predictor.weight, std=0.3)
            nn.init.normal_(module.predictor.bias, std=0.3)
            nn.init.normal_(module.bias)
    return transfer.double()


def alignment(transfer: Aligned, mixed: torch.Tensor, upsampled: torch.Tensor) -> torch.Tensor:
    """From the map that predicts the offsets and the one that is sampled to the result, by torchvision."""
    predicted = F.conv2d(mixed, transfer.predictor.weight, transfer.predictor.bias, padding=1)
    offset, mask = predicted[:, : 2 * 8 * 9], predicted[:, 2 * 8 * 9 :]
    mask = 1 / (1 + torch.exp(-mask))
    return F.relu(deform_conv2d(upsampled, offset, transfer.weight, transfer.bias, padding=1, mask=mask))


@pytest.mark.parametrize("fine", [(5, 7), (6, 8), (3, 4)])
def test_alignment_is_the_papers_formula(fine):
    transfer = trained(Aligned(8))
    x, reference = maps(fine=fine)
    upsampled = F.interpolate(x, fine, mode="bilinear", align_corners=False)
    mixed = F.conv2d(torch.cat([reference, 2 * upsampled], 1), transfer.mix[0].weight)
    expected = alignment(transfer, mixed, upsampled)
    torch.testing.assert_close(transfer(x, reference), expected, rtol=0, atol=1e-11)
    halved = F.conv2d(torch.cat([reference, upsampled], 1), transfer.mix[0].weight)  # without the factor 2
    assert (alignment(transfer, halved, upsampled) - expected).abs().max() > 1e-2


def test_offsets_from_the_upsampled_map_alone_ignore_the_reference():
    transfer = trained(make_transfer("aligned_self", 8))
    x, reference = maps()
    upsampled = F.interpolate(x, reference.shape[-2:], mode="bilinear", align_corners=False)
    expected = alignment(transfer, upsampled, upsampled)
    torch.testing.assert_close(transfer(x, reference), expected, rtol=0, atol=1e-11)
    assert transfer.mix is None


def test_the_realtime_variant_is_narrow_nearest_and_normed():
    transfer = trained(AlignedRealtime(16, norm=batch_norm)).eval()
    x, reference = maps(16)
    upsampled = F.interpolate(x, reference.shape[-2:], mode="nearest")
    narrow = transfer.aligned
    scale = (1 + 1e-5) ** -0.5  # batch norms at their start, in eval mode
    mixed = F.relu(F.conv2d(torch.cat([reference, 2 * upsampled], 1), narrow.mix[0].weight) * scale)
    sampled = alignment(narrow, mixed, upsampled)
    assert sampled.shape[1] == 8
    expected = F.relu(F.conv2d(sampled, transfer.expand.conv.weight) * scale)
    torch.testing.assert_close(transfer(x, reference), expected, rtol=0, atol=1e-11)


def level() -> Fusion:
    """One level of FaPN: a + ReLU(deformable convolution), a the selected detail."""
    torch.manual_seed(0)
    branches = {"lateral": Branch(8, lateral=Select(8, 8)), "top_down": Branch(8, transfer=Aligned(8))}
    return Fusion(branches, combine=Sum()).double()


def test_a_level_starts_as_the_selection_plus_half_a_convolution():
    fusion = level()
    x, detail = maps()
    aligned = fusion.branches["top_down"].transfer
    upsampled = F.interpolate(x, detail.shape[-2:], mode="bilinear", align_corners=False)
    expected = fusion.branches["lateral"].lateral(detail) + F.relu(0.5 * F.conv2d(upsampled, aligned.weight, padding=1))
    torch.testing.assert_close(fusion({"lateral": detail, "top_down": x}), expected, rtol=0, atol=1e-12)
    assert not aligned.bias.any() and aligned.weight.abs().max() <= (8 * 9) ** -0.5


def test_the_offset_convolution_learns_from_the_second_step_on():
    fusion = level()
    x, detail = maps()
    aligned = fusion.branches["top_down"].transfer
    optimizer = torch.optim.SGD(fusion.parameters(), lr=0.1)
    gradients = []
    for _ in range(2):
        optimizer.zero_grad()
        fusion({"lateral": detail, "top_down": x}).square().mean().backward()
        gradients.append((aligned.mix[0].weight.grad.abs().max(), aligned.predictor.weight.grad.abs().max()))
        optimizer.step()
    assert gradients[0][0] == 0 and gradients[0][1] > 0
    assert gradients[1][0] > 0


def test_gradients_of_a_whole_level():
    fusion = level()
    trained(fusion)
    x, detail = (tensor[:1] for tensor in maps(fine=(3, 2), coarse=(2, 1)))
    inputs = (x.clone().requires_grad_(), detail.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: fusion({"lateral": b, "top_down": a}), inputs)


def test_norm_and_width_are_checked_and_counted():
    assert isinstance(Aligned(8, norm=batch_norm).mix[1], nn.BatchNorm2d)
    with pytest.raises(ValueError, match="12 channels cannot be split into 8 offset groups"):
        Aligned(12)
    # 2 C^2 + (9 C^2 + C) + (9 * 216 C + 216)
    for channels, expected in ((64, 169_752), (128, 429_400), (256, 1_219_032)):
        assert sum(p.numel() for p in Aligned(channels).parameters()) == expected


def test_bf16_autocast_keeps_the_dtype_of_the_map():
    transfer = trained(Aligned(8)).float()
    x, reference = (tensor.float() for tensor in maps())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = transfer(x.bfloat16(), reference.bfloat16())
    assert y.dtype == torch.bfloat16
    exact = transfer(x, reference)
    assert (y.float() - exact).abs().mean() < 0.05 * exact.abs().mean()
