"""Pictures of records for Detectron2's own DatasetMapper and SemSegEvaluator, which read them as files.

Source: iopath's PathHandler, by which Detectron2 itself opens "detectron2://" and "https://". Deviation: a path has its
prefix by its type (RecordFile), so that it stays a path for all others.
"""

from __future__ import annotations

import io
import os

import numpy as np
from iopath.common.file_io import PathHandler

from .reading import read_image, read_labels
from .record_file import PREFIX, RecordFile


class RecordFileHandler(PathHandler):
    """Opens a RecordFile as the picture that it stands for: an image of RGB, or labels 0..K-1 and 255 in grey."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: object) -> io.BytesIO:
        if not isinstance(path, RecordFile) or mode != "rb":
            raise ValueError(f"{path} can be read as a picture alone, by the path that a record of scaleeq.data has")
        read = read_image if path.what == "image" else read_labels
        return io.BytesIO(portable_picture(read(path.record)))

    def _isfile(self, path: str, **kwargs: object) -> bool:
        return os.path.isfile(path)

    def _exists(self, path: str, **kwargs: object) -> bool:
        return os.path.exists(path)

    def _get_local_path(self, path: str, force: bool = False, **kwargs: object) -> str:
        return str(path)


def portable_picture(pixels: np.ndarray) -> bytes:
    """(H, W) or (H, W, 3) uint8 as a file of the Netpbm format: a header and the bytes, nothing is compressed."""
    height, width = pixels.shape[:2]
    kind = "P6" if pixels.ndim == 3 else "P5"
    return f"{kind}\n{width} {height}\n255\n".encode() + np.ascontiguousarray(pixels).tobytes()
