"""Random scale, crop, flip and colours as functions of arrays and a numpy Generator.

Sources: the crop's category limit is DeepLab's (mmsegmentation's cat_max_ratio): at most ten tries, void not counted.
The colours are those of SSD (Liu et al., ECCV 2016, its Caffe code). Sizes and types of crops mean what Detectron2's
INPUT keys say. Deviations: images are resized by OpenCV's bilinear filter (Detectron2: Pillow's, which smooths when
shrinking); hue and saturation change in one trip through HSV; an image smaller than an absolute crop is padded
at the right and at the bottom, after its colours have changed: padding stays what it is to the model, zero.

Everywhere image: (H, W, 3) uint8 in RGB, and labels: (H, W) uint8. Maps of other values follow the image by their
geometry (scaleeq.geometry); the image alone gets other colours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from scaleeq.choices import one_of
from scaleeq.geometry import Geometry, Map

if TYPE_CHECKING:
    from scaleeq.engine import CfgNode

IMAGE = Geometry(interpolation="bilinear")
CROP_TYPES = ("absolute", "relative", "relative_range", "absolute_range")
FLIPS = ("horizontal", "vertical", "none")
SAMPLINGS = ("choice", "range")
CROP_TRIES = 10
# SSD's ranges: a shift in grey levels, two factors, a shift of the hue in OpenCV's units of two degrees.
BRIGHTNESS_SHIFT = 32.0
CONTRAST_FACTOR = (0.5, 1.5)
SATURATION_FACTOR = (0.5, 1.5)
HUE_SHIFT = 18


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A random window.

    kind: "absolute": size is (height, width) in pixels; "absolute_range": both sides are drawn from size =
        (smallest, largest) in pixels; "relative": size is the share (of the height, of the width); "relative_range":
        both shares are drawn from size to 1.
    single_category_max_area: largest share of one class in the window, void aside; 1.0: no limit.
    """

    kind: str
    size: Sequence[float]
    single_category_max_area: float = 1.0

    def __post_init__(self) -> None:
        one_of(self.kind, CROP_TYPES, key="INPUT.CROP.TYPE")
        relative = self.kind.startswith("relative")
        if len(self.size) != 2 or not all(side > 0 and (side <= 1 or not relative) for side in self.size):
            valid = "two shares in (0, 1]" if relative else "two sizes in pixels"
            raise ValueError(f"INPUT.CROP.SIZE of the {self.kind!r} type is {valid}, not {tuple(self.size)}")
        if self.kind == "absolute_range" and self.size[0] > self.size[1]:
            raise ValueError(f"INPUT.CROP.SIZE is (smallest, largest), not {tuple(self.size)}")
        if not 0 < self.single_category_max_area <= 1:
            raise ValueError(
                f"INPUT.CROP.SINGLE_CATEGORY_MAX_AREA is a share in (0, 1], not {self.single_category_max_area}"
            )


@dataclass(frozen=True, kw_only=True)
class TrainAugmentation:
    """Scale, crop, colours, padding and flip, in this order.

    short_sides: sizes in pixels of the shorter side: "choice" takes one of them, "range" any from the first to the
        second; 0 keeps the image's size.
    max_side: limit of the longer side in pixels.
    pad_color: RGB of the padding.
    flip_pairs: labels that a horizontal flip exchanges, such as left and right arm.
    """

    short_sides: Sequence[int] = (0,)
    sampling: str = "choice"
    max_side: int = 1 << 30
    crop: Crop | None = None
    flip: str = "horizontal"
    color: bool = False
    pad_color: Sequence[float] = (0, 0, 0)
    flip_pairs: Sequence[tuple[int, int]] = ()

    def __post_init__(self) -> None:
        one_of(self.sampling, SAMPLINGS, key="INPUT.MIN_SIZE_TRAIN_SAMPLING")
        one_of(self.flip, FLIPS, key="INPUT.RANDOM_FLIP")
        sides = tuple(self.short_sides)
        if self.sampling == "range" and (len(sides) != 2 or sides[0] > sides[1]):
            raise ValueError(f"INPUT.MIN_SIZE_TRAIN as a range is (smallest, largest), not {sides}")
        if not sides or min(sides) < 0 or (self.sampling == "range" and min(sides) == 0 < max(sides)):
            raise ValueError(f"INPUT.MIN_SIZE_TRAIN is {sides}; expected sizes in pixels, or 0 for the image's own")
        paired = [label for pair in self.flip_pairs for label in pair]
        if len(set(paired)) != 2 * len(self.flip_pairs):
            raise ValueError(f"flip_pairs are {tuple(self.flip_pairs)}; expected pairs of labels, each label once")

    @classmethod
    def from_config(cls, cfg: CfgNode, flip_pairs: Sequence[tuple[int, int]] = ()) -> TrainAugmentation:
        """The augmentation that INPUT describes. Padding has the colour MODEL.PIXEL_MEAN, hence is 0 to the model.

        flip_pairs: those of the training sets.
        """
        options, mean = cfg.INPUT.CROP, [float(value) for value in cfg.MODEL.PIXEL_MEAN]
        crop = Crop(
            kind=options.TYPE,
            size=tuple(options.SIZE),
            single_category_max_area=options.SINGLE_CATEGORY_MAX_AREA,
        )
        sides = cfg.INPUT.MIN_SIZE_TRAIN
        return cls(
            short_sides=(sides,) if isinstance(sides, int) else tuple(sides),
            sampling=cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING,
            max_side=cfg.INPUT.MAX_SIZE_TRAIN,
            crop=crop if options.ENABLED else None,
            flip=cfg.INPUT.RANDOM_FLIP,
            color=cfg.INPUT.COLOR_AUG_SSD,
            pad_color=tuple(mean if cfg.INPUT.FORMAT == "RGB" else mean[::-1]),
            flip_pairs=flip_pairs,
        )

    def __call__(
        self, image: np.ndarray, maps: Mapping[str, Map], rng: np.random.Generator
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The augmented image and the values of the maps, name -> (H, W) or (H, W, C), whose sizes are the image's.

        They may be views of the arguments, which are never changed. What is drawn depends on the first map of labels
        alone: its classes limit the crop.
        """
        # The image is one more map, before all others.
        color = [round(value) for value in self.pad_color]
        geometries = {"": replace(IMAGE, padding=color), **{name: each.geometry for name, each in maps.items()}}
        values = {"": image, **{name: each.values for name, each in maps.items()}}
        # Scale.
        short_side = draw_short_side(self.short_sides, self.sampling, rng)
        shape = resized_shape(image.shape, short_side, self.max_side)
        values = {name: geometries[name].resized(each, shape) for name, each in values.items()}
        # Crop.
        if self.crop is not None:
            size = shape
            shape = draw_crop_shape(size, self.crop, rng)
            labels = next((Map(values[name], each) for name, each in geometries.items() if each.labels), None)
            top, left = self._draw_place(size, labels, shape, rng)
            window = (slice(top, top + shape[0]), slice(left, left + shape[1]))
            values = {name: each[window] for name, each in values.items()}
        # Colours.
        if self.color:
            values[""] = jitter_colors(values[""], rng)
        if self.crop is not None:
            values = {name: geometries[name].padded(each, shape) for name, each in values.items()}
        # Flip.
        if self.flip != "none" and rng.random() < 0.5:
            values = {name: self._flipped(each, geometries[name]) for name, each in values.items()}
        return values.pop(""), values

    def _draw_place(
        self, size: tuple[int, ...], labels: Map | None, shape: tuple[int, int], rng: np.random.Generator
    ) -> tuple[int, int]:
        """Top and left of a window of the shape in an image of the size."""
        assert self.crop is not None
        if labels is None:  # no classes whose share could be limited
            return draw_place(size, shape, rng)
        ignore_label = int(labels.geometry.padding)  # type: ignore[arg-type]
        return draw_crop(labels.values, shape, self.crop.single_category_max_area, ignore_label, rng)

    def _flipped(self, values: np.ndarray, geometry: Geometry) -> np.ndarray:
        values = geometry.flipped(values, self.flip)
        if geometry.labels and self.flip == "horizontal" and self.flip_pairs:
            return swap_labels(values, self.flip_pairs)
        return values


def draw_short_side(sides: Sequence[int], sampling: str, rng: np.random.Generator) -> int:
    """One of the sides ("choice"), or any from the first to the second, both included ("range")."""
    if sampling == "range":
        return int(rng.integers(sides[0], sides[1] + 1))
    return int(sides[int(rng.integers(len(sides)))])


def resized_shape(shape: tuple[int, ...], short_side: int, max_side: int) -> tuple[int, int]:
    """Height and width after scaling the shorter side to short_side, or less so that the longer one fits in max_side.

    short_side: in pixels; 0 keeps the shape, whatever max_side.
    """
    height, width = shape[:2]
    if short_side == 0:
        return height, width
    scale = short_side / min(height, width)
    if scale * max(height, width) > max_side:
        scale = max_side / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def draw_crop_shape(shape: tuple[int, ...], crop: Crop, rng: np.random.Generator) -> tuple[int, int]:
    """Height and width of a window in an image of the shape; an absolute one may be larger than the image."""
    height, width = shape[:2]
    first, second = crop.size
    if crop.kind == "absolute":
        return int(first), int(second)
    if crop.kind == "absolute_range":
        rows, columns = (rng.integers(min(side, int(first)), min(side, int(second)) + 1) for side in (height, width))
        return int(rows), int(columns)
    if crop.kind == "relative_range":
        first, second = rng.uniform(first, 1), rng.uniform(second, 1)
    return max(1, int(height * first + 0.5)), max(1, int(width * second + 0.5))


def draw_place(size: tuple[int, ...], shape: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """Top and left of a window of the shape in an image of the size; 0 where the window is larger."""
    top, left = (int(rng.integers(max(0, have - want) + 1)) for have, want in zip(size, shape, strict=True))
    return top, left


def draw_crop(
    labels: np.ndarray, shape: tuple[int, int], max_area: float, ignore_label: int, rng: np.random.Generator
) -> tuple[int, int]:
    """Top and left of a window of the shape in labels: (H, W), in which no class has max_area or more of the area.

    Where the window is larger than the labels it begins with them; the rest is padded later.
    max_area: a share of the pixels that are not ignore_label; 1.0: any window. After ten tries, the last one is taken.
    """
    for _ in range(CROP_TRIES):
        top, left = draw_place(labels.shape, shape, rng)
        if max_area >= 1:
            break
        window = np.ascontiguousarray(labels[top : top + shape[0], left : left + shape[1]])
        counts = cv2.calcHist([window], [0], None, [256], [0, 256])
        counts[ignore_label] = 0
        if counts.max() < max_area * counts.sum():
            break
    return top, left


def swap_labels(labels: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """labels: (H, W) uint8 with the two labels of each pair exchanged; a copy."""
    table = np.arange(256, dtype=np.uint8)
    for first, second in pairs:
        table[[first, second]] = second, first
    return cv2.LUT(np.ascontiguousarray(labels), table)


def jitter_colors(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """SSD's colours: brightness, then contrast before or after saturation and hue; each with probability 1/2."""

    def draw(low: float, high: float, otherwise: float) -> float:
        return float(rng.uniform(low, high)) if rng.random() < 0.5 else otherwise

    shift = draw(-BRIGHTNESS_SHIFT, BRIGHTNESS_SHIFT, 0.0)
    contrast_first = rng.random() < 0.5
    contrast = draw(*CONTRAST_FACTOR, 1.0)
    saturation = draw(*SATURATION_FACTOR, 1.0)
    hue = int(rng.integers(-HUE_SHIFT, HUE_SHIFT + 1)) if rng.random() < 0.5 else 0

    image = adjust_levels(image, 1.0, shift)
    if contrast_first:
        return adjust_saturation_hue(adjust_levels(image, contrast, 0.0), saturation, hue)
    return adjust_levels(adjust_saturation_hue(image, saturation, hue), contrast, 0.0)


def adjust_levels(image: np.ndarray, factor: float, shift: float) -> np.ndarray:
    """factor * image + shift, clipped to 0..255."""
    if factor == 1 and shift == 0:
        return image
    return cv2.LUT(np.ascontiguousarray(image), _levels(factor, shift))


def adjust_saturation_hue(image: np.ndarray, factor: float, shift: int) -> np.ndarray:
    """Saturation times factor, clipped, and hue turned by 2 * shift degrees."""
    if factor == 1 and shift == 0:
        return image
    hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV)
    turned = (np.arange(256) + shift) % 180  # OpenCV's 8-bit hue is in 0..179
    tables = np.stack([turned.astype(np.uint8), _levels(factor, 0.0), np.arange(256, dtype=np.uint8)], axis=-1)
    return cv2.cvtColor(cv2.LUT(hsv, tables[None]), cv2.COLOR_HSV2RGB)


def _levels(factor: float, shift: float) -> np.ndarray:
    """The table that maps each grey level: (256,) uint8."""
    return np.clip(np.rint(np.arange(256) * factor + shift), 0, 255).astype(np.uint8)
