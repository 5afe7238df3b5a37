"""Frozen features, computed once: every level of a pretrained backbone, as small as the backbone leaves it.

Of CamVid; or of the toy 3-D scenes, which have exact depth: DEPTH_MM is a "network" whose one level is depth in
millimetres, a modality in raw units.

A folder holds, for each network and split, one array a level, (N, h, w, C) in float16, and the labels, (N, H / 4,
W / 4) in uint8, at the centres of cells of 4 x 4 pixels; 11 is void. A pixel's features are interpolated where they are
asked for (bilinear, align_corners False), as upsampling the whole map would have them: 1 MB an image instead of 11.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from scaleeq.backbones.timm import TimmBackbone
from scaleeq.data import read_image, read_labels
from scaleeq.data.sets.camvid import CLASSES, load_camvid
from scaleeq.data.sets.toy3d import load_toy3d
from scaleeq.files import replacing

NUM_CLASSES = len(CLASSES)
VOID = NUM_CLASSES
STRIDE = 4  # pixels, of the grid on which branches are fused
NORMALIZED_BY = {"tf_efficientnet": (127.5, 127.5)}  # beginning of a timm model's name -> mean and std of grey levels
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
VIT_LAYERS = (2, 5, 8, 11)
IMAGES = 4  # in a forward of the backbone
CAMVID, TOY3D = "camvid", "toy3d"
DEPTH_MM = "depth_mm"
MILLIMETRES = 1000.0  # in a metre


class VitLayers(nn.Module):
    """Maps of four blocks of a ViT, all of its patches' stride: sources of one width that no pyramid has made."""

    def __init__(self, name: str, *, pretrained: bool = True) -> None:
        import timm  # a second, which no other use of this module needs

        super().__init__()
        self.body = timm.create_model(
            name, pretrained=pretrained, features_only=True, out_indices=VIT_LAYERS, dynamic_img_size=True
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """image: (N, 3, H, W), sides multiples of the patch -> layer name -> (N, C, H / patch, W / patch)."""
        return {f"layer{index}": each for index, each in zip(VIT_LAYERS, self.body(image), strict=True)}


def frozen_backbone(network: str, *, pretrained: bool = True) -> nn.Module:
    """A pretrained timm model that gives name -> map; OSError where its weights cannot be had."""
    make = VitLayers if network.startswith("vit") else TimmBackbone
    return make(name=network, pretrained=pretrained).eval()


def normalized(images: Sequence[np.ndarray], network: str) -> Tensor:
    """n images (H, W, 3) uint8 in RGB -> (n, 3, H, W), as the network's pretraining had them."""
    start = next((key for key in NORMALIZED_BY if network.startswith(key)), "")
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (NORMALIZED_BY[start] if start else IMAGENET))
    return (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() - mean) / std


@torch.inference_mode()
def extract(
    network: str, split: str, folder: Path, *, data: str = CAMVID, root: str | None = None, images: int = 0
) -> list[Path]:
    """Write a split's features, and its labels, where they are not there yet; returns the files of the levels.

    network: of timm, or DEPTH_MM. data: CAMVID or TOY3D; root: holds CamVid/, default $DETECTRON2_DATASETS. images: the
    first so many; 0: all.
    """
    records = (load_toy3d(split) if data == TOY3D else load_camvid(split, root))[: images or None]
    folder = place_of(folder, data)
    found = sorted(folder.glob(f"{network}.{split}.*.npy"))
    if not (folder / f"labels.{split}.npy").is_file():
        maps = [read_labels(record) for record in records]
        labels = np.stack([np.where(each == 255, VOID, each) for each in maps])
        _write(folder / f"labels.{split}.npy", at_stride(labels).astype(np.uint8))
    if found:
        return found
    if network == DEPTH_MM:
        depth = np.stack([record["read_depth"]() for record in records])
        path = folder / f"{network}.{split}.0_depth.npy"
        _write(path, (MILLIMETRES * at_stride(depth))[..., None].astype(np.float16))
        return [path]
    backbone = frozen_backbone(network)
    levels: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(records), IMAGES):
        pixels = normalized([read_image(record) for record in records[start : start + IMAGES]], network)
        for name, level in backbone(pixels).items():
            levels.setdefault(name, []).append(level.permute(0, 2, 3, 1).half().numpy())
    paths = [folder / f"{network}.{split}.{index}_{name}.npy" for index, name in enumerate(levels)]
    for path, parts in zip(paths, levels.values(), strict=True):
        _write(path, np.concatenate(parts))
    return paths


def place_of(folder: Path, data: str) -> Path:
    """Where the features of a data set are: CamVid's in the folder itself."""
    place = folder if data == CAMVID else folder / data
    place.mkdir(parents=True, exist_ok=True)
    return place


def at_stride(maps: np.ndarray) -> np.ndarray:
    """maps: (N, H, W) -> (N, H / 4, W / 4), at the centres of cells."""
    return maps[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]


def _write(path: Path, array: np.ndarray) -> None:
    with replacing(path) as part, part.open("wb") as file:
        np.save(file, array)


class Features:
    """The cached features and labels of a split.

    levels: name -> (N, h, w, C), float16; of several networks, all levels of the first, then of the next.
    labels: (N, H, W) uint8. taps: 1, or 9: the 3 x 3 neighbours of a pixel one after the other, the border repeated.
    """

    def __init__(self, folder: Path, split: str, networks: Sequence[str], taps: int = 1) -> None:
        self.levels: dict[str, Tensor] = {}
        for network in networks:
            files = sorted(folder.glob(f"{network}.{split}.*.npy"))
            if not files:
                raise FileNotFoundError(
                    f"{folder} has no features of {network}, {split}: python -m evidence.probe features"
                )
            for file in files:
                name = file.name.split(".")[-2].partition("_")[2]
                self.levels[f"{network}/{name}"] = torch.from_numpy(np.load(file))
        self.labels = torch.from_numpy(np.load(folder / f"labels.{split}.npy"))
        self.taps = taps

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the grid."""
        return int(self.labels.shape[1]), int(self.labels.shape[2])

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(int(level.shape[-1]) for level in self.levels.values())

    def targets(self, pixels: Pixels) -> Tensor:
        """(P,) classes, VOID among them."""
        return self.labels[pixels.image, pixels.row, pixels.column].long()

    def rows(self, pixels: Pixels) -> Tensor:
        """(P, taps * sum of the widths) float32."""
        if self.taps == 1:
            return self._interpolated(pixels)
        height, width = self.size
        neighbours = (
            Pixels(pixels.image, (pixels.row + y).clamp(0, height - 1), (pixels.column + x).clamp(0, width - 1))
            for y in (-1, 0, 1)
            for x in (-1, 0, 1)
        )
        return torch.cat([self._interpolated(each) for each in neighbours], 1)

    def _interpolated(self, pixels: Pixels) -> Tensor:
        return torch.cat([interpolate(level, pixels, self.size) for level in self.levels.values()], 1)


class Pixels:
    """P pixels of the grid: image, row and column of each, (P,)."""

    def __init__(self, image: Tensor, row: Tensor, column: Tensor) -> None:
        self.image, self.row, self.column = image, row, column

    @classmethod
    def drawn(cls, images: Tensor, each: int, size: tuple[int, int], generator: torch.Generator) -> Pixels:
        """`each` random pixels of every image."""
        image = images.repeat_interleave(each)
        row, column = (torch.randint(side, image.shape, generator=generator) for side in size)
        return cls(image, row, column)

    def __len__(self) -> int:
        return len(self.image)

    def chunks(self, length: int) -> Iterator[Pixels]:
        parts = (each.split(length) for each in (self.image, self.row, self.column))
        return (Pixels(*part) for part in zip(*parts, strict=True))


def interpolate(level: Tensor, pixels: Pixels, size: tuple[int, int]) -> Tensor:
    """level: (N, h, w, C), upsampled to `size` (bilinear, align_corners False), at P pixels -> (P, C) float32."""
    height, width = level.shape[1:3]
    if (height, width) == size:
        return level[pixels.image, pixels.row, pixels.column].float()
    (top, bottom, down), (left, right, across) = (
        _neighbours(position, inside, outside)
        for position, inside, outside in ((pixels.row, height, size[0]), (pixels.column, width, size[1]))
    )

    def between(row: Tensor) -> Tensor:
        beside = (level[pixels.image, row, column].float() for column in (left, right))
        return torch.lerp(next(beside), next(beside), across[:, None])

    return torch.lerp(between(top), between(bottom), down[:, None])


def _neighbours(position: Tensor, inside: int, outside: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of a position on an axis of `outside` pixels: the two of `inside` pixels beside it, and the second's weight."""
    exact = ((position.float() + 0.5) * (inside / outside) - 0.5).clamp(0)
    first = exact.long().clamp(max=inside - 1)
    return first, (first + 1).clamp(max=inside - 1), exact - first
