"""What a sample is trained and scored on: the protocol of one target, and that of semantic segmentation.

Tasks are such targets; the mapper gets them as arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from scaleeq.geometry import Geometry

from .reading import has_labels, read_labels
from .sets.catalog import IGNORE_LABEL, Record

if TYPE_CHECKING:
    from scaleeq.engine import CfgNode


class Target(Protocol):
    """One kind of truth: where it is in a sample, how it is read and how it follows its image.

    target_key: its key in a sample; in testing "<key>_truth", what was read, at the image's original size.
    dtype: of the map in a training sample.
    """

    @property
    def target_key(self) -> str: ...

    @property
    def geometry(self) -> Geometry: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def read(self, record: Record, image: np.ndarray) -> np.ndarray | None:
        """The record's map: (H, W) or (H, W, C); None: it has none. image: (H, W, 3) uint8 in RGB, as it was read."""
        ...


class Labels:
    """The labels of semantic segmentation: (H, W) uint8; int64 in training samples, as Detectron2 has them."""

    target_key = "sem_seg"
    dtype = torch.int64

    def __init__(self, *, num_classes: int, ignore_label: int = IGNORE_LABEL) -> None:
        """num_classes, ignore_label: other labels are refused where they are read.

        ValueError: the ignore label is one of the classes.
        """
        if not 0 <= ignore_label <= 255 or ignore_label < num_classes:
            raise ValueError(f"the ignore label {ignore_label} must be in {num_classes}..255, outside the classes")
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.geometry = Geometry(padding=ignore_label, labels=True)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Labels:
        keys = cfg.MODEL.SEM_SEG_HEAD
        return cls(num_classes=keys.NUM_CLASSES, ignore_label=keys.IGNORE_VALUE)

    def read(self, record: Record, image: np.ndarray | None = None) -> np.ndarray | None:
        """(H, W) uint8; None without labels, as of a test server. ValueError, naming the file, for other labels."""
        if not has_labels(record):
            return None
        return read_labels(record, num_classes=self.num_classes, ignore_label=self.ignore_label)
