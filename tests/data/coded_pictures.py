"""Picture files written byte by byte, in codings that no library writes on request."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6  # PNG's colour types


def packed(values: np.ndarray, bits: int) -> bytes:
    """values: (H, W) or (H, W, C), as rows of `bits` a value, the first one in the highest bits, 16 bits big-endian."""
    rows = values.reshape(len(values), -1).astype(np.uint16)
    ones = (rows[..., None] >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8)
    return np.packbits(ones.reshape(len(rows), -1), axis=1).tobytes()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def write_png(path: Path, values: np.ndarray, bits: int, kind: int = GREY, *chunks: bytes) -> Path:
    """values: (H, W) or (H, W, C), as they are stored. chunks: before the pixels."""
    height, width = values.shape[:2]
    data = packed(values, bits)
    size = len(data) // height
    rows = b"".join(b"\0" + data[start : start + size] for start in range(0, len(data), size))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    parts = [b"\x89PNG\r\n\x1a\n", header, *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"".join(parts))
    return path


def palette_chunk(size: int) -> bytes:
    """Colours that do not tell the index."""
    return chunk(b"PLTE", np.random.default_rng(0).integers(0, 256, 3 * size, np.uint8).tobytes())


def write_tiff(path: Path, data: bytes, shape: tuple[int, int], bits: tuple[int, ...], **tags: int) -> Path:
    """A little-endian TIFF of one strip.

    data: the rows. bits: of each channel. tags: photometric (0: white is 0, 1: black is 0), format (1: without sign,
    2: with, 3: float), extra (what a second channel is, 0: not said).
    """
    height, width = shape
    values = {
        256: (width,),
        257: (height,),
        258: bits,
        259: (1,),
        262: (tags.get("photometric", 1),),
        277: (len(bits),),
    }
    values |= {273: (8,), 278: (height,), 279: (len(data),), 339: (tags.get("format", 1),) * len(bits)}
    if "extra" in tags:
        values[338] = (tags["extra"],)
    entries = b""
    for tag, numbers in sorted(values.items()):
        assert len(numbers) <= 2
        entries += struct.pack("<HHI4s", tag, 3, len(numbers), struct.pack(f"<{len(numbers)}H", *numbers))
    directory = struct.pack("<H", len(values)) + entries + struct.pack("<I", 0)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory)
    return path
