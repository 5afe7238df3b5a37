"""A copy of a model whose graph is one for every size of image: what an export records.

Two habits that save time in eager mode would be recorded as facts about the traced size: nothing is resized where two
sizes are equal, and adaptive pooling has windows of whole numbers. Here a map is always interpolated, and the windows
are matrices that the graph makes of the size that it meets; checks of sizes, which a graph cannot make, are left out.
Values are those of the plain model, up to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import nn
from torchvision.ops import deform_conv2d

from scaleeq.backbones import ViTBackbone
from scaleeq.backbones.timm import TimmBackbone
from scaleeq.fusion import Aligned, Gated, Keep, Pool, Progressive, Resize
from scaleeq.fusion.transfers import Deconv
from scaleeq.layers import ConvNormAct, LogitsGate
from scaleeq.ops import pool_half
from scaleeq.ops.deform_conv import sampled_deform_conv3x3
from scaleeq.ops.resize import INTERPOLATIONS

Forward = Callable[..., Any]


def of_any_size(model: nn.Module, *, operator: bool = False) -> nn.Module:
    """A copy in eval mode, on the CPU and in float32, whose modules do not look at sizes.

    operator: FaPN's deformable convolutions are torchvision's operator, which ONNX has as one node; else they are
        samplings and products of torch alone.
    """
    copied = copy.deepcopy(model).eval().cpu().float()
    forwards = FORWARDS | ({Aligned: aligned_by_operator} if operator else {})
    for module in copied.modules():
        if isinstance(module, ConvNormAct):
            module.fold_norm()
        for kind, forward in forwards.items():
            # A subclass with a forward of its own keeps it.
            if isinstance(module, kind) and type(module).forward is kind.forward and suits(module):
                module.forward = partial(forward, module)  # type: ignore[method-assign]
                break
    return copied


def interpolated(x: torch.Tensor, size: Sequence[int], mode: str = "bilinear") -> torch.Tensor:
    """x: (N, C, h, w) -> (N, C, *size), interpolated where the size is that of x, too; that changes nothing."""
    interpolation, align_corners = INTERPOLATIONS[mode]
    return F.interpolate(x, size=tuple(size), mode=interpolation, align_corners=align_corners)


def keep(module: Keep, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """x: (N, C, H, W) -> x."""
    return x


def resized(module: Resize, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """x: (N, C, h, w); reference: (N, C', H, W) -> (N, C, H, W)."""
    return interpolated(x, reference.shape[-2:], module.mode)


def deconvolved(module: Deconv, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """x: (N, C, h, w); reference: (N, C', H, W) -> (N, C, H, W)."""
    return module.conv(x)[..., : reference.shape[-2], : reference.shape[-1]]


def progressive(module: Progressive, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """x: (N, C_in, h, w); reference: (N, C', H, W) -> (N, channels, H, W)."""
    for index, conv in enumerate(module.convs):
        x = conv(x)
        if index < len(module.convs) - 1:
            x = interpolated(x, (x.shape[-2] * 2, x.shape[-1] * 2))
    return interpolated(x, reference.shape[-2:])


def gated(module: Gated, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """x: (N, C, h, w); reference: (N, C', H, W) -> (N, C, H, W)."""
    return interpolated(module.gate(x), reference.shape[-2:])


def gated_by_logits(module: LogitsGate, x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """x: (N, C, H, W); logits: (N, num_classes, h, w) -> (N, C, H, W)."""
    if module.resizes:
        logits = interpolated(logits, x.shape[-2:])
    return x * module.map(logits)


def pooled(module: Pool, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """x: (N, C, h, w); reference: (N, C', ceil(h / 2), ceil(w / 2)) -> (N, C, H, W)."""
    return pool_half(x, module.kind)


def aligned(module: Aligned, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """x: (N, C, h, w); reference: (N, C, H, W) -> (N, C_out, H, W)."""
    upsampled = interpolated(x, reference.shape[-2:], module.mode)
    offset, mask = module.offsets(upsampled, reference)
    return sampled_deform_conv3x3(upsampled, offset, mask, module.weight, module.bias).relu()


def aligned_by_operator(module: Aligned, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """x: (N, C, h, w); reference: (N, C, H, W) -> (N, C_out, H, W)."""
    upsampled = interpolated(x, reference.shape[-2:], module.mode)
    offset, mask = module.offsets(upsampled, reference)
    return deform_conv2d(upsampled, offset, module.weight, module.bias, padding=1, mask=mask).relu()


def averaged(module: nn.AdaptiveAvgPool2d, x: torch.Tensor) -> torch.Tensor:
    """x: (N, C, H, W) -> (N, C, *output_size): the windows of each axis are the rows of a matrix."""
    size = module.output_size
    rows, columns = size if isinstance(size, tuple) else (size, size)
    if rows == columns == 1:
        return x.mean((-2, -1), keepdim=True)
    down, across = windows(x.shape[-2], rows, x), windows(x.shape[-1], columns, x)
    return torch.matmul(torch.matmul(down, x), across.transpose(0, 1))


def windows(size: int, cells: int | None, like: torch.Tensor) -> torch.Tensor:
    """(cells, size): row i is 1 / n on the n pixels of torch's i-th window; cells None: as many as pixels."""
    cells = size if cells is None else cells
    cell = torch.arange(cells, device=like.device).unsqueeze(1)
    pixel = torch.arange(size, device=like.device).unsqueeze(0)
    # From floor(i * size / cells) to ceil((i + 1) * size / cells).
    start = torch.div(cell * size, cells, rounding_mode="floor")
    end = torch.div((cell + 1) * size + cells - 1, cells, rounding_mode="floor")
    inside = ((pixel >= start) & (pixel < end)).to(like.dtype)
    return inside / (end - start).to(like.dtype)


def convolved_same(module: Conv2dSame, x: torch.Tensor) -> torch.Tensor:
    """x: (N, C, H, W) -> (N, C', ceil(H / 2), ceil(W / 2)), of stride 2 and with an odd kernel (`pads_by_parity`).

    TensorFlow's padding, which its own formula writes with maxima and quotients of sizes: torch.export does not come to
    an end with those. Only whether a side is even matters here.
    """
    height, width = x.shape[-2:]
    padding: list[int] = []
    for size, kernel in ((width, module.kernel_size[1]), (height, module.kernel_size[0])):
        padding += [(kernel - 3) // 2 + size % 2, (kernel - 1) // 2]
    return F.conv2d(F.pad(x, padding), module.weight, module.bias, module.stride, 0, 1, module.groups)


def pads_by_parity(module: Conv2dSame) -> bool:
    """Whether `convolved_same` knows the padding of this convolution, as all of timm's tf_ models have it."""
    odd = all(side % 2 and side > 1 for side in module.kernel_size)
    return odd and module.stride == (2, 2) and module.dilation == (1, 1)


def levels_of(module: TimmBackbone, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """image: (N, C, H, W) -> level -> (N, channels, ceil(H / stride), ceil(W / stride))."""
    multiple, features = module._padded_multiple, {}
    for level, stride, feature in module.maps(padded(image, multiple)):
        features[level] = (
            module.cropped(feature, image, stride) if multiple > 1 else feature
        )  # the model itself rounds up
    return features


def vit_levels_of(module: ViTBackbone, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """image: (N, C, H, W) -> level -> (N, channels, ceil(H / stride), ceil(W / stride))."""
    found = module.maps(padded(image, module.patch))
    return {level: module.cropped(feature, image, module.levels()[level].stride) for level, feature in found.items()}


def padded(image: torch.Tensor, multiple: int) -> torch.Tensor:
    """As PlainBackbone.padded, which looks at the size. image: (N, C, H, W) -> with zeros at bottom and right."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple)) if multiple > 1 else image


def suits(module: nn.Module) -> bool:
    """Whether a module's forward may be replaced by that of its kind."""
    return not isinstance(module, Conv2dSame) or pads_by_parity(module)


FORWARDS: dict[type[nn.Module], Forward] = {
    Aligned: aligned,
    Conv2dSame: convolved_same,
    Deconv: deconvolved,
    Gated: gated,
    Keep: keep,
    LogitsGate: gated_by_logits,
    Pool: pooled,
    Progressive: progressive,
    Resize: resized,
    TimmBackbone: levels_of,
    ViTBackbone: vit_levels_of,
    nn.AdaptiveAvgPool2d: averaged,
}
