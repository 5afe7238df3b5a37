"""Small files of ADE20K, VOC 2012 and Cityscapes, written into the layouts that people have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from scaleeq.data.sets import voc2012

VOC, ADE = "VOCdevkit/VOC2012", "ADEChallengeData2016"


def write(path: Path, array: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array)
    if palette:
        picture.putpalette([value for label in range(256) for value in voc2012.voc_color(label)])
    picture.save(path)


def write_list(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names) + "\n")


def image(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def write_ade20k(
    root: Path, folder: str, name: str, labels: np.ndarray, base: str = ADE, annotations: str = "annotations"
) -> None:
    write(root / base / "images" / folder / f"{name}.jpg", image(*labels.shape))
    write(root / base / annotations / folder / f"{name}.png", labels)


def write_voc(
    root: Path, folder: str, split: str, names: dict[str, np.ndarray], palette: bool, base: str = VOC
) -> None:
    """Images, labels in a folder of VOC2012/ (or beside it: "../..."), and the list of the split, unless it is ""."""
    for name, labels in names.items():
        write(root / base / "JPEGImages" / f"{name}.jpg", image(*labels.shape))
        write(root / base / folder / f"{name}.png", labels, palette=palette)
    if split:
        write_list(root / base / "ImageSets" / "Segmentation" / f"{split}.txt", list(names))


def write_cityscapes(
    root: Path, split: str, city: str, number: str, labels: np.ndarray, kind: str = "gtFine", ids: str = "labelIds"
) -> None:
    base, name = root / "cityscapes", f"{city}_{number}_000019"
    write(base / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", image(*labels.shape))
    write(base / kind / split / city / f"{name}_{kind}_{ids}.png", labels)
    write(base / kind / split / city / f"{name}_{kind}_color.png", image(*labels.shape))
