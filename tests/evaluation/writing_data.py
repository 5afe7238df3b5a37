"""Data sets of a test server's family whose images are names alone, and the predictions of a test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from scaleeq.data import register_dataset
from scaleeq.data.sets import ade20k, cityscapes, voc2012
from scaleeq.engine import DatasetCatalog, MetadataCatalog

SIZE = (6, 8)
LIP_CLASSES = [f"part {index}" for index in range(20)]
FAMILIES = {
    "ade20k": (ade20k.CLASSES, ade20k.COLORS, [f"testing/ADE_test_{n:08d}.jpg" for n in (1, 2, 3)]),
    "voc2012": (voc2012.CLASSES, voc2012.COLORS, [f"JPEGImages/2008_00000{n}.jpg" for n in (6, 4, 9)]),
    "lip": (LIP_CLASSES, [(label, 0, 9) for label in range(20)], ["testing_images/7.jpg", "testing_images/10.jpg"]),
    "cityscapes": (
        cityscapes.CLASSES,
        cityscapes.COLORS,
        [f"leftImg8bit/test/{city}/{city}_000000_000019_leftImg8bit.png" for city in ("berlin", "bonn")],
    ),
    "": (["a", "b"], [(255, 0, 0), (0, 0, 255)], ["images/x/1.png", "images/x/2.png", "images/y/1.png"]),
}


@contextlib.contextmanager
def registered(family: str, files: list[str] | None = None) -> Iterator[str]:
    """A data set of the family, named as the test that uses it needs no other."""
    classes, colors, own_files = FAMILIES[family]
    name = f"scaleeq_test_writing_{family or 'none'}"
    records = [{"file_name": file, "image_id": file} for file in files or own_files]
    register_dataset(name, lambda: records, classes=classes, colors=colors, family=family)
    try:
        yield name
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def predictions(name: str, size: tuple[int, int] = SIZE) -> list[tuple[dict, np.ndarray]]:
    """A sample and its predicted labels for each image; all labels of the data set occur."""
    num_classes = len(MetadataCatalog.get(name).stuff_classes)
    pairs = []
    for index, record in enumerate(DatasetCatalog.get(name)):
        rng = np.random.default_rng(index)
        labels = (np.arange(size[0] * size[1]).reshape(size) * 7 + index) % num_classes
        image = torch.from_numpy(rng.integers(0, 256, (3, *size), np.uint8))
        pairs.append((record | {"height": size[0], "width": size[1], "image": image}, labels.astype(np.uint8)))
    return pairs


def output_of(labels: np.ndarray, num_classes: int) -> dict[str, torch.Tensor]:
    """A model's output whose largest scores are the labels."""
    scores = torch.from_numpy(labels)[None] == torch.arange(num_classes, dtype=torch.uint8)[:, None, None]
    return {"sem_seg": scores.to(torch.uint8)}
