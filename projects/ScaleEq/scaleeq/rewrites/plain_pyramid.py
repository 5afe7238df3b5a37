"""fold_into_plain: an equalized feature pyramid as a plain one, whose sums have neither coefficients nor offsets.

`fold_equalizers` leaves sums with one coefficient per branch and an offset, m = a * lateral + b * transfer(above) + o.
These go on into the weights beside them; all exact, "branch" or "channel" (a, b and o may be numbers of each channel):

- transfers without weights (FPN's resizing): the map of a level is handed on k times as large, k = k above / b, so that
  the coefficient of the transfer is 1. The lateral takes k a and its bias k o, the output convolution divides by k.
- aligned transfers (FaPN's): b > 0 goes through the ReLU into the deformable convolution, a into the lateral, and the
  weights that read the lateral for the offsets are divided by a. Maps keep their size.
- a pyramid whose sums are smoothed at once (MaskFormer's): lateral and offset are divided by b, and the convolution
  that reads the sum is multiplied with it.

An offset needs a bias. FaPN's selecting laterals have none, and one would move what its deformable convolutions look
at, so there it stays, one number per channel and level. STATISTIC "rms" has none: then the pyramid is the authors' own.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from scaleeq.decoders import FPN
from scaleeq.equalization.folding import fold_equalizers
from scaleeq.fusion import Aligned, Fusion, Resize, Sum, WeightedSum
from scaleeq.fusion.aligned import AlignedRealtime
from scaleeq.fusion.laterals import Select
from scaleeq.fusion.ports import Summing
from scaleeq.layers import ConvNormAct

Model = TypeVar("Model", bound=nn.Module)


class Terms(NamedTuple):
    """Of a sum: coefficients of the lateral and of the top-down branch, and an offset; each (C,), float64."""

    lateral: torch.Tensor
    top_down: torch.Tensor
    offset: torch.Tensor


def fold_into_plain(model: Model) -> Model:
    """A copy of a model with equalized FPNs or FaPNs inside, which are plain there; the same function.

    model: a pyramid, a backbone with one, a detector. Fusions elsewhere are folded as fold_equalizers does.

    RuntimeError: an equalizer is not calibrated. ValueError: no FPN or FaPN in it; a part whose weights cannot take a
    coefficient.
    """
    plain = fold_equalizers(model)
    pyramids = {name: module for name, module in plain.named_modules() if isinstance(module, FPN)}
    if not pyramids:
        raise ValueError(
            f"{type(model).__name__} has no FPN or FaPN, whose sums could be plain ones; fold_equalizers folds others "
            "(a BiFPN keeps the weights that it has learnt)"
        )
    for name, pyramid in pyramids.items():
        try:
            make_plain(pyramid)
        except ValueError as error:
            raise ValueError(f"{name or 'the pyramid'} cannot be made plain: {error}") from error
    return plain


@torch.no_grad()
def make_plain(pyramid: FPN) -> None:
    """fold_into_plain of one pyramid without equalizers, in place."""
    merges: dict[str, Any] = dict(pyramid.merges.items())
    terms = {level: terms_of(fusion) for level, fusion in merges.items()}
    above: torch.Tensor = torch.ones(())  # how many times as large the map of the level above is
    for level, fusion in merges.items():
        a, b, o = terms[level]
        if bool((b <= 0).any()):
            raise ValueError(f"level {level!r} has a top-down coefficient that is not positive")
        transfer = fusion.branches["top_down"].transfer
        if isinstance(transfer, (Aligned, AlignedRealtime)):  # it looks at the lateral, which so takes no offset
            scale_aligned(transfer, b, a)
            scale_lateral(fusion, a, torch.zeros_like(o))
        elif not isinstance(transfer, Resize):
            raise ValueError(f"{type(transfer).__name__}, the transfer of level {level!r}, takes no factor")
        elif not isinstance(fusion.mix, nn.Identity):
            scale_inputs(fusion.mix, b)
            o = scale_lateral(fusion, a / b, o / b)
        else:
            above = above / b
            o = scale_lateral(fusion, above * a, above * o)
            scale_output(pyramid, level, 1 / above)
        fusion.combine = _sum(o, like=fusion.combine)


def scale_output(pyramid: FPN, level: str, scale: torch.Tensor) -> None:
    """Let what leaves a level be made of scale * its map, (C,)."""
    if level in pyramid.outputs:
        output: Any = pyramid.outputs[level]
        scale_inputs(output[0] if isinstance(output, nn.Sequential) else output, scale)
    elif level in pyramid.out_channels and not bool((scale == 1).all()):
        raise ValueError(f"level {level!r} has no output convolution that could take its factor")


def terms_of(fusion: Fusion) -> Terms:
    """What a sum without equalizers multiplies its branches with, and adds."""
    if not isinstance(fusion.combine, Summing):
        raise ValueError(f"{type(fusion.combine).__name__} is no sum")
    names = ["lateral", "top_down"]
    assert list(fusion.branches) == names
    channels = fusion.branches["lateral"].channels
    weights = fusion.combine.weights()
    if weights is None:
        ones = torch.ones(channels, dtype=torch.float64)
        return Terms(ones, ones, torch.zeros_like(ones))
    a, b = weights.double().cpu().reshape(2, -1).expand(2, channels)
    offset = getattr(fusion.combine, "offset", torch.zeros(channels))
    return Terms(a, b, offset.double().cpu().reshape(-1).expand(channels))


def _sum(offset: torch.Tensor, *, like: Any) -> Sum | WeightedSum:
    """A plain sum, or one with what is left of an offset (C,)."""
    if not bool(offset.any()):
        return Sum()
    kept = like.coefficients if isinstance(like, WeightedSum) else torch.ones(())
    shape = (len(offset), 1, 1)
    return WeightedSum(torch.ones(2, *shape).to(kept), offset.reshape(shape).to(kept))


def scale_lateral(fusion: Fusion, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Let the lateral give scale * x + shift, each (C,); returns what it could not take of the shift."""
    lateral: Any = fusion.branches["lateral"].lateral
    nothing = torch.zeros_like(shift)
    if isinstance(lateral, Select):
        multiply(lateral.conv.weight, scale)
        return shift
    if not isinstance(lateral, ConvNormAct):
        raise ValueError(f"{type(lateral).__name__}, a lateral, takes no factor")
    if not isinstance(lateral.activation, nn.Identity):
        if bool((scale <= 0).any()):
            raise ValueError("a lateral with an activation takes no factor that is not positive")
        scale_conv(lateral, scale, nothing)
        return shift
    scale_conv(lateral, scale, shift)
    return nothing


def scale_conv(block: ConvNormAct, scale: torch.Tensor, shift: torch.Tensor) -> None:
    """Let what stands before the activation be scale * x + shift, each (C_out,): in its norm, or its convolution."""
    if isinstance(block.norm, nn.Identity):
        target: Any = block.conv
    else:
        target = block.norm
        if getattr(target, "weight", None) is None:
            raise ValueError(f"{type(target).__name__} has no weights that could take a factor")
    multiply(target.weight, scale)
    if target.bias is not None:
        target.bias.copy_((target.bias.double().cpu() * scale + shift).to(target.bias))


def scale_inputs(block: nn.Module, scale: torch.Tensor) -> None:
    """Let a block's convolution read scale * x, (C_in,)."""
    if not isinstance(block, ConvNormAct) or block.conv.groups != 1:
        raise ValueError(f"{type(block).__name__}, which reads a sum, takes no factor")
    multiply(block.conv.weight, scale, dim=1)


def scale_aligned(transfer: Aligned | AlignedRealtime, scale: torch.Tensor, of_reference: torch.Tensor) -> None:
    """Let an aligned transfer give scale * what it gave, (C,), of a reference that is of_reference times as large."""
    aligned = transfer.aligned if isinstance(transfer, AlignedRealtime) else transfer
    if aligned.mix is not None:  # it reads (reference, 2 * upsampled)
        weight: Any = aligned.mix.get_submodule("0").weight
        multiply(weight[:, : len(of_reference)], 1 / of_reference, dim=1)
    if isinstance(transfer, AlignedRealtime):
        scale_conv(transfer.expand, scale, torch.zeros_like(scale))
        return
    multiply(transfer.weight, scale)
    multiply(transfer.bias, scale)


def multiply(weight: torch.Tensor, factor: torch.Tensor, *, dim: int = 0) -> None:
    """Multiply along a dimension, in place; rounded once."""
    shape = [1] * weight.dim()
    shape[dim] = -1
    weight.copy_((weight.double().cpu() * factor.reshape(shape)).to(weight))
