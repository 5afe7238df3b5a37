"""A bilinear resize of maps a strip of rows at a time, and its transpose, so that the whole result never exists.

Along each axis the resize is a banded matrix; a block of outputs reads a short range of inputs. The matrices' entries
are those of F.interpolate in the maps' own type, whose rounding of the coordinates they have, too.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F

COLUMNS = 128  # of a block: a longer one multiplies more zeros, a shorter one has more calls
# A strip stays in a core's cache. Elsewhere it is large enough to fill the device, and small beside its memory.
STRIP_BYTES = {"cpu": 2 << 20}
STRIP_BYTES_ELSEWHERE = 64 << 20


class Block(NamedTuple):
    """A range of outputs of one axis of a resize, the range of inputs that they read, and (outputs, inputs) weights."""

    outputs: slice
    inputs: slice
    weights: torch.Tensor


class StripResize:
    """The bilinear resize (align_corners False) of maps (K, h, w) to (K, H, W), in strips of rows.

    rows: the strips. columns: the blocks of columns that a strip is computed in.
    """

    def __init__(self, rows: tuple[Block, ...], columns: tuple[Block, ...]) -> None:
        self.rows = rows
        self.columns = columns
        self.width = columns[-1].outputs.stop

    @classmethod
    def of(cls, x: torch.Tensor, size: tuple[int, int]) -> StripResize:
        """x: (N, K, h, w) in float32 or float64; size: (H, W) -> the resize of each of its maps."""
        budget = STRIP_BYTES.get(x.device.type, STRIP_BYTES_ELSEWHERE)
        num_rows = max(1, min(size[0], budget // (x.shape[1] * size[1] * x.dtype.itemsize)))
        rows = axis_blocks(x.shape[2], size[0], num_rows, dtype=x.dtype, device=x.device)
        return cls(rows, axis_blocks(x.shape[3], size[1], COLUMNS, dtype=x.dtype, device=x.device))

    def strip(self, x: torch.Tensor, rows: Block) -> torch.Tensor:
        """x: (K, h, w) -> (K, rows, W), those rows of the resized maps."""
        narrow = torch.matmul(rows.weights, x[:, rows.inputs])  # (K, rows, w)
        flat = narrow.view(-1, x.shape[-1])
        result = x.new_empty(len(flat), self.width)
        for block in self.columns:
            torch.mm(flat[:, block.inputs], block.weights.t(), out=result[:, block.outputs])
        return result.view(len(x), -1, self.width)

    def add_transposed(self, strip: torch.Tensor, rows: Block, total: torch.Tensor) -> None:
        """strip: (K, rows, W), a gradient of `strip`'s result; adds to total: (K, h, w) that of its argument."""
        flat = strip.view(-1, self.width)
        narrow = strip.new_zeros(len(flat), total.shape[-1])
        for block in self.columns:
            narrow[:, block.inputs].addmm_(flat[:, block.outputs], block.weights)
        narrow = narrow.view(len(strip), -1, total.shape[-1])
        total[:, rows.inputs] += torch.matmul(rows.weights.t(), narrow)


@functools.lru_cache(256)
def axis_blocks(
    num_inputs: int, num_outputs: int, length: int, *, dtype: torch.dtype, device: torch.device
) -> tuple[Block, ...]:
    """One axis of a bilinear resize, in blocks of `length` outputs; the last one may be shorter."""
    with torch.inference_mode(False), torch.no_grad():  # a training may find what an inference has cached
        matrix = resize_matrix(num_inputs, num_outputs, dtype=dtype, device=device)
        blocks = []
        for start in range(0, num_outputs, length):
            stop = min(num_outputs, start + length)
            inputs = window(start, stop, num_inputs, num_outputs)
            blocks.append(Block(slice(start, stop), inputs, matrix[start:stop, inputs].contiguous()))
    return tuple(blocks)


def resize_matrix(num_inputs: int, num_outputs: int, *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """(num_outputs, num_inputs): one axis of a bilinear resize, as F.interpolate has it in this type."""
    identity = torch.eye(num_inputs, dtype=dtype, device=device)[None, :, :, None]
    resized = F.interpolate(identity, size=(num_outputs, 1), mode="bilinear", align_corners=False)
    return resized[0, :, :, 0].t()


def window(start: int, stop: int, num_inputs: int, num_outputs: int) -> slice:
    """The inputs that outputs start..stop of a bilinear resize read; one more at each end, for the rounding."""
    scale = num_inputs / num_outputs
    first, last = (start + 0.5) * scale - 0.5, (stop - 0.5) * scale - 0.5
    return slice(max(0, int(first) - 1), min(num_inputs, int(last) + 3))


@contextlib.contextmanager
def precise_products(device_type: str) -> Iterator[None]:
    """Inside, matrix products are in the precision of their factors: neither autocast nor TF32 lowers them."""
    precision = torch.get_float32_matmul_precision()
    with torch.autocast(device_type, enabled=False):
        if precision == "highest":
            yield
            return
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
