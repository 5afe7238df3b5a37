"""A convolution of resized and concatenated maps, each evaluated at its own resolution; exact.

A k x k convolution is a sum over its taps of a 1x1 convolution and a shift that fills with zeros. A 1x1 convolution
commutes with a resize. So the convolution of a map that was resized is one 1x1 convolution of the small map, to
k * k * C_out channels, and then a fixed linear map, separable into rows and columns. Zero padding, any size and any
linear mode are reproduced, because the shift comes after the resize:

    z = x W           (k, h * w, k * C_out)    the taps' 1x1 convolutions, ordered (tap row | pixel | tap column, C_out)
    t = R z           (H, w * k * C_out)       rows resized and shifted, R: (H, k * h)
    y = y + C t       (H, W, C_out)            the same with columns, C: (W, w * k)

The order of z is what lets each step read the one before it without a copy. Both matrices are bands: the result is made
in tiles, which read the rows and columns of z that they need, so that nothing large but the result is ever held.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from .resize import resize

ROWS, COLUMNS = 64, 128  # of a tile at most, about


class ResizedMap(NamedTuple):
    """A map (N, C, h, w) that counts as resized to the result's size. mode: of RESIZE_MODES; "": it has that size."""

    x: torch.Tensor
    mode: str = ""


def resized_conv2d(
    maps: Sequence[ResizedMap],
    weight: torch.Tensor | Sequence[torch.Tensor],
    bias: torch.Tensor | None = None,
    *,
    size: tuple[int, int],
    dilation: int = 1,
    scales: Sequence[torch.Tensor | None] = (),
) -> torch.Tensor:
    """conv2d(concatenation of the maps resized to `size`), with the zero padding that keeps the size.

    Gradients are those of the definition; second derivatives are refused. For backward the maps themselves and the
    weight are kept.

    Args:
        maps: n maps (N, C_i, h_i, w_i).
        weight: (C_out, sum of C_i, k, k), k odd; or its part (C_out, C_i, k, k) for each map.
        bias: (C_out,).
        size: (H, W).
        dilation: of the convolution.
        scales: what the part of the weight for each map is multiplied with, (C_i,), or None for ones; none at all: ().

    Returns:
        (N, C_out, H, W), in the memory format of the maps that have this size.

    Raises:
        ValueError: maps and a weight that do not belong together.
    """
    size = (int(size[0]), int(size[1]))
    _refuse(maps, [weight] if isinstance(weight, torch.Tensor) else weight, size)
    weights = weight.split([m.x.shape[1] for m in maps], 1) if isinstance(weight, torch.Tensor) else weight
    maps, weights, bias = _autocast(maps, weights, bias)
    scales = scales or (None,) * len(maps)
    kernel = weights[0].shape[-1]
    full = [i for i, m in enumerate(maps) if tuple(m.x.shape[-2:]) == size]
    small = [i for i in range(len(maps)) if i not in full]
    # Maps of full size: an ordinary convolution.
    result = None
    if full:
        x = maps[full[0]].x if len(full) == 1 else torch.cat([maps[i].x for i in full], 1)
        parts = [_scaled(weights[i], scales[i]) for i in full]
        part = parts[0] if len(full) == 1 else torch.cat(parts, 1)
        result = F.conv2d(x, part, bias, padding=dilation * (kernel // 2), dilation=dilation)
        del part, parts  # a scaled copy, which the result does not need any more
    weights = [_scaled(weights[i], scales[i]) if i in small else weights[i] for i in range(len(maps))]
    if not small:
        assert result is not None
        return result
    if kernel == 1:
        return _pointwise([(maps[i], weights[i]) for i in small], result, bias, size)
    # The others: added tile by tile.
    if result is None:
        result = _constant(maps[0].x, weights[0].shape[0], bias, size)
    modes = tuple(maps[i].mode for i in small)
    return _AddResized.apply(result, modes, dilation, *(maps[i].x for i in small), *(weights[i] for i in small))


def _refuse(maps: Sequence[ResizedMap], weights: Sequence[torch.Tensor], size: tuple[int, int]) -> None:
    widths, read = [m.x.shape[1] for m in maps], [weight.shape[1] for weight in weights]
    if not maps or read not in (widths, [sum(widths)]):
        raise ValueError(f"the maps have {widths} channels, and the weight reads {read}")
    kernel = tuple(weights[0].shape[2:])
    if kernel[0] != kernel[1] or kernel[0] % 2 == 0:
        raise ValueError(f"the kernel is {kernel}; only square ones of odd size keep the size of a map")
    for m in maps:
        if not m.mode and tuple(m.x.shape[-2:]) != size:
            raise ValueError(f"a map of size {tuple(m.x.shape[-2:])} has no mode to be resized to {size} by")


def _scaled(weight: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """weight: (C_out, C, k, k); scale: (C,) -> multiplied in the scale's precision, in the weight's."""
    return weight if scale is None else (weight * scale.view(1, -1, 1, 1)).to(weight.dtype)


def _autocast(
    maps: Sequence[ResizedMap], weights: Sequence[torch.Tensor], bias: torch.Tensor | None
) -> tuple[Sequence[ResizedMap], Sequence[torch.Tensor], torch.Tensor | None]:
    """All in the dtype of autocast, where that is on, as F.conv2d has it."""
    kind = weights[0].device.type
    if not torch.is_autocast_enabled(kind):
        return maps, weights, bias
    dtype = torch.get_autocast_dtype(kind)
    maps = [ResizedMap(m.x.to(dtype), m.mode) for m in maps]
    return maps, [weight.to(dtype) for weight in weights], None if bias is None else bias.to(dtype)


def _constant(x: torch.Tensor, channels: int, bias: torch.Tensor | None, size: tuple[int, int]) -> torch.Tensor:
    """(N, channels, *size), zeros or the bias, in the memory format of x."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    zeros = x.new_zeros(x.shape[0], channels, *size).contiguous(memory_format=layout)
    return zeros if bias is None else zeros + bias.view(-1, 1, 1)


def _pointwise(
    small: Sequence[tuple[ResizedMap, torch.Tensor]],
    result: torch.Tensor | None,
    bias: torch.Tensor | None,
    size: tuple[int, int],
) -> torch.Tensor:
    """A 1x1 convolution: each map's own, then its resize."""
    for m, weight in small:
        part = resize(F.conv2d(m.x, weight, None if result is not None else bias), size, m.mode)
        result = part if result is None else result + part
    assert result is not None
    return result


class _AddResized(torch.autograd.Function):
    """y + the convolutions of resized maps, in place; keeps the maps and the weights as they are, and no copy."""

    @staticmethod
    def forward(ctx: Any, y: torch.Tensor, modes: tuple[str, ...], dilation: int, *tensors: torch.Tensor) -> Any:
        """y: (N, C_out, H, W); tensors: the maps (N, C_i, h_i, w_i), then the weights (C_out, C_i, k, k)."""
        maps, weights = tensors[: len(modes)], tensors[len(modes) :]
        ctx.save_for_backward(*tensors)
        ctx.modes, ctx.dilation = modes, dilation
        ctx.mark_dirty(y)
        plan = _Plan(y, maps, modes, weights[0].shape[-1], dilation)
        taps = [_tap_major(weight) for weight in weights]
        for tile in plan.tiles():
            _add_tile(y, tile, maps, taps)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        """grad: (N, C_out, H, W)."""
        count = len(ctx.modes)
        maps, weights = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        plan = _Plan(grad, maps, ctx.modes, weights[0].shape[-1], ctx.dilation)
        needs_map, needs_weight = ctx.needs_input_grad[3 : 3 + count], ctx.needs_input_grad[3 + count :]
        taps = [_tap_major(w) if needed else None for w, needed in zip(weights, needs_map, strict=True)]
        # Tiles overlap in what they read, so gradients add up.
        map_grads = [torch.zeros_like(x) if needed else None for x, needed in zip(maps, needs_map, strict=True)]
        tap_grads = [
            torch.zeros((*_tap_shape(w),), dtype=w.dtype, device=w.device) if needed else None
            for w, needed in zip(weights, needs_weight, strict=True)
        ]
        for tile in plan.tiles():
            _tile_gradients(grad, tile, maps, taps, map_grads, tap_grads)
        weight_grads = [
            None if g is None else g.view(w.shape[2], w.shape[3], w.shape[0], w.shape[1]).permute(2, 3, 0, 1)
            for g, w in zip(tap_grads, weights, strict=True)
        ]
        return (grad, None, None, *map_grads, *weight_grads)


def _tap_shape(weight: torch.Tensor) -> tuple[int, int, int]:
    return weight.shape[2], weight.shape[3] * weight.shape[0], weight.shape[1]


def _tap_major(weight: torch.Tensor) -> torch.Tensor:
    """weight: (C_out, C, k, k) -> (k, k * C_out, C)."""
    return weight.permute(2, 3, 0, 1).reshape(_tap_shape(weight))


class _Tile(NamedTuple):
    """Rows [top, bottom) and columns [left, right) of one image's result, and what they read.

    row_bands: for each map its rows [first, last) and the matrix (rows, k * (last - first)).
    column_spans: for each map its columns [first, last).
    columns: (right - left, sum over maps of (last - first) * k).
    """

    image: int
    top: int
    bottom: int
    left: int
    right: int
    row_bands: tuple[tuple[int, int, torch.Tensor], ...]
    column_spans: tuple[tuple[int, int], ...]
    columns: torch.Tensor


class _Plan:
    """The tiles of a result like y: (N, C_out, H, W)."""

    def __init__(
        self, y: torch.Tensor, maps: Sequence[torch.Tensor], modes: tuple[str, ...], kernel: int, dilation: int
    ):
        self.images, _, height, width = y.shape
        key = (kernel, dilation, y.dtype, y.device)
        self.rows = [_bands(x.shape[-2], height, mode, ROWS, True, *key) for x, mode in zip(maps, modes, strict=True)]
        sources = tuple((x.shape[-1], mode) for x, mode in zip(maps, modes, strict=True))
        self.columns = _joint_columns(sources, width, *key)

    def tiles(self) -> Iterator[_Tile]:
        for image in range(self.images):
            for bands in zip(*self.rows, strict=True):
                for left, right, spans, columns in self.columns:
                    rows = tuple((band.first, band.last, band.matrix) for band in bands)
                    yield _Tile(image, bands[0].start, bands[0].stop, left, right, rows, spans, columns)


def _add_tile(y: torch.Tensor, tile: _Tile, maps: Sequence[torch.Tensor], taps: Sequence[torch.Tensor]) -> None:
    """Add one tile's part of the convolutions to y, in place."""
    channels, height, kernel = y.shape[1], tile.bottom - tile.top, taps[0].shape[0]
    # Rows: (height, columns of all maps and their taps, C_out).
    half = y.new_empty(height, tile.columns.shape[1], channels)
    start = 0
    for x, tap, (first, last, rows), span in zip(maps, taps, tile.row_bands, tile.column_spans, strict=True):
        window = _pixels(x, tile.image, first, last, span)
        small = torch.bmm(window.expand(kernel, -1, -1), tap.transpose(1, 2))  # (k, pixels, k * C_out)
        width = (span[1] - span[0]) * kernel
        into, small = half[:, start : start + width].view(height, -1), small.view(rows.shape[1], -1)
        torch.mm(rows, small, out=into)
        start += width
    # Columns: into the result.
    target = y[tile.image].permute(1, 2, 0)[tile.top : tile.bottom, tile.left : tile.right]  # (height, width, C_out)
    columns = tile.columns.expand(height, -1, -1)
    if target.is_contiguous():
        target.baddbmm_(columns, half)
    elif target.stride(2) == 1:
        target.add_(torch.bmm(columns, half))
    else:
        target.transpose(1, 2).add_(torch.bmm(half.transpose(1, 2), columns.transpose(1, 2)))


def _tile_gradients(
    grad: torch.Tensor,
    tile: _Tile,
    maps: Sequence[torch.Tensor],
    taps: Sequence[torch.Tensor | None],
    map_grads: Sequence[torch.Tensor | None],
    tap_grads: Sequence[torch.Tensor | None],
) -> None:
    """Add what one tile's gradient means for maps and taps, in place: _add_tile, transposed."""
    channels, height = grad.shape[1], tile.bottom - tile.top
    source = grad[tile.image].permute(1, 2, 0)[tile.top : tile.bottom, tile.left : tile.right]
    half = torch.bmm(tile.columns.t().expand(height, -1, -1), source)  # (height, columns of all maps and taps, C_out)
    start = 0
    for i, ((first, last, rows), span) in enumerate(zip(tile.row_bands, tile.column_spans, strict=True)):
        kernel = rows.shape[1] // (last - first)
        width = (span[1] - span[0]) * kernel
        part = half[:, start : start + width].view(height, width * channels)
        start += width
        small = torch.mm(rows.t(), part).view(kernel, -1, kernel * channels)  # (k, pixels, k * C_out)
        map_grad, tap, tap_grad = map_grads[i], taps[i], tap_grads[i]
        if tap_grad is not None:
            window = _pixels(maps[i], tile.image, first, last, span)
            tap_grad.baddbmm_(small.transpose(1, 2), window.expand(kernel, -1, -1))
        if map_grad is not None and tap is not None:
            pixels = torch.mm(small[0], tap[0])
            for row in range(1, kernel):
                pixels.addmm_(small[row], tap[row])
            window = map_grad[tile.image, :, first:last, span[0] : span[1]]
            window += pixels.t().view_as(window)


def _pixels(x: torch.Tensor, image: int, first: int, last: int, span: tuple[int, int]) -> torch.Tensor:
    """Rows [first, last) and columns `span` of one of the maps (N, C, h, w) -> (1, pixels, C)."""
    return x[image, :, first:last, span[0] : span[1]].flatten(1).t()[None]


class _Band(NamedTuple):
    """Outputs [start, stop) of one axis, what they read, [first, last), and how: (stop - start, k * (last - first))."""

    start: int
    stop: int
    first: int
    last: int
    matrix: torch.Tensor


@lru_cache(maxsize=256)
def _bands(
    n_in: int,
    n_out: int,
    mode: str,
    length: int,
    rows: bool,
    kernel: int,
    dilation: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[_Band, ...]:
    """One axis of a resize and of the taps' shifts after it, in bands of about `length` outputs.

    rows: matrices with tap-major inputs, as the rows of z are; otherwise with tap-minor ones, as its columns are.
    Never inference tensors: a later backward pass could not read them.
    """
    with torch.inference_mode(False), torch.no_grad():
        taps = _shifted(n_in, n_out, mode, kernel, dilation)
        count = max(1, round(n_out / length))
        edges = [n_out * i // count for i in range(count + 1)]
        bands = []
        for start, stop in itertools.pairwise(edges):
            read = taps[:, start:stop].abs().sum((0, 1)).nonzero()
            first, last = int(read.min()), int(read.max()) + 1
            matrix = taps[:, start:stop, first:last].permute((1, 0, 2) if rows else (1, 2, 0)).reshape(stop - start, -1)
            bands.append(_Band(start, stop, first, last, matrix.to(dtype).to(device)))
        return tuple(bands)


@lru_cache(maxsize=256)
def _joint_columns(
    sources: tuple[tuple[int, str], ...],
    n_out: int,
    kernel: int,
    dilation: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[tuple[int, int, tuple[tuple[int, int], ...], torch.Tensor], ...]:
    """The bands of the columns of several maps, side by side: start, stop, what is read of each map, and how."""
    with torch.inference_mode(False), torch.no_grad():
        separate = [_bands(n, n_out, mode, COLUMNS, False, kernel, dilation, dtype, device) for n, mode in sources]
        return tuple(
            (
                bands[0].start,
                bands[0].stop,
                tuple((band.first, band.last) for band in bands),
                torch.cat([band.matrix for band in bands], 1),
            )
            for bands in zip(*separate, strict=True)
        )


def _shifted(n_in: int, n_out: int, mode: str, kernel: int, dilation: int) -> torch.Tensor:
    """(k, n_out, n_in) in float64: one axis of the resize, shifted by each tap and filled with zeros."""
    impulses = torch.eye(n_in, dtype=torch.float64, device="cpu")[None, None]
    matrix = resize(impulses, (n_out, n_in), mode)[0, 0]
    taps = torch.zeros(kernel, n_out, n_in, dtype=torch.float64, device="cpu")
    for tap in range(kernel):
        shift = (tap - kernel // 2) * dilation
        first, last = max(0, -shift), min(n_out, n_out - shift)
        if first < last:
            taps[tap, first:last] = matrix[first + shift : last + shift]
    return taps
