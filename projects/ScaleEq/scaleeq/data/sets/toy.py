"""Toy scenes: a small landscape data set that is generated, so that everything here runs without a download.

A scene is a function of (split, index). Shapes are drawn here in integer arithmetic (OpenCV's
differ between its versions), so labels are the same on every platform; images may differ by a grey level where a
platform rounds sin or tanh differently. The classes
are chosen so that a model needs several scales at once:

* sky and water have the same colours and no texture: only the wide context tells them apart;
* meadow and field have the same colours: blobs against stripes, one period of which is 16 to 28 pixels;
* walls (16 to 100 pixels) carry bricks of 8 x 4 pixels;
* poles are 2 to 4 pixels thin;
* bees and beetles (4 to 10 pixels) have the same colours: stripes against a checkerboard with cells of 2 pixels.

Void (255) is the outline of every wall and, in some scenes, a corner of the image.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from scaleeq.choices import one_of

from ..record_file import RecordFile
from .catalog import IGNORE_LABEL, Record, read_table, register_dataset

# Size and number of the scenes.
HEIGHT, WIDTH = 128, 128
NUM_SCENES = {"train": 512, "val": 64}
# Difficulty: raise the noise or lower the contrasts for a harder data set.
NOISE = 15.0  # standard deviation in grey levels
LIGHT_CONTRAST = 0.35  # relative difference of brightness between opposite corners, at most
INSECT_CONTRAST = 0.6  # of stripes and checks, 1 = yellow against black
GROUND_CONTRAST = 0.6  # of blobs and stripes on the ground
INSECT_AXIS_PX = (4, 10)
POLE_THICKNESS_PX = (2, 4)
WALL_SIDE_PX = (16, 100)
GROUND_PERIOD_PX = (16, 28)
NUM_WALLS, NUM_POLES, NUM_INSECTS, NUM_LAKES = (1, 2), (1, 4), (6, 16), (0, 2)

CLASSES, COLORS = read_table("""
sky 135 190 235 | water 30 90 180 | meadow 90 160 60 | field 215 195 90 | wall 170 85 60 | pole 60 60 60 |
bee 250 170 20 | beetle 150 30 140
""")
SKY, WATER, MEADOW, FIELD, WALL, POLE, BEE, BEETLE = range(8)
# A texture is a pattern in [0, 1] between two colours. (K, 2, 3), RGB.
_BLUE, _GREEN, _YELLOW = (
    ((110, 150, 200), (190, 210, 235)),
    ((85, 125, 50), (190, 180, 80)),
    ((45, 35, 30), (235, 190, 60)),
)
_BRICK, _GREY = ((160, 85, 60), (175, 165, 155)), ((50, 45, 45), (110, 105, 100))
TEXTURE_COLORS = np.array((_BLUE, _BLUE, _GREEN, _GREEN, _BRICK, _GREY, _YELLOW, _YELLOW), np.float32)


def render_scene(split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels of one scene.

    split: "train" or "val". index: 0 .. NUM_SCENES[split] - 1.
    Returns the image: (H, W, 3) uint8 in RGB, and the labels: (H, W) uint8, 0..7 or 255.
    Raises ValueError for an unknown split, IndexError for an index outside it.
    """
    one_of(split, NUM_SCENES, key="the split of the toy scenes")
    if not 0 <= index < NUM_SCENES[split]:
        raise IndexError(f"scene {index} of split {split!r}, which has {NUM_SCENES[split]}")
    # Shapes and appearance draw from two streams: a change of a texture does not move the shapes.
    shapes, looks = (np.random.default_rng([sorted(NUM_SCENES).index(split), index, part]) for part in range(2))
    labels, walls = _draw_labels(shapes)
    image = _paint(labels, walls, looks)
    _draw_void(labels, walls, shapes)
    return image, labels


def _between(rng: np.random.Generator, limits: tuple[int, int]) -> int:
    return int(rng.integers(limits[0], limits[1] + 1))


def _draw_labels(rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    """Labels: (H, W) uint8 without void, and the walls as (left, top, right, bottom) in pixels, ends excluded."""
    # Sky and ground.
    labels = np.full((HEIGHT, WIDTH), SKY, np.uint8)
    horizon_y = _between(rng, (HEIGHT // 4, HEIGHT * 6 // 10))
    _draw_ground(labels, horizon_y, rng)
    # Walls, mostly small.
    walls = []
    for _ in range(_between(rng, NUM_WALLS)):
        # The product of two draws prefers small walls.
        smallest, largest = WALL_SIDE_PX
        width, height = (
            smallest + _between(rng, (0, largest - smallest)) * _between(rng, (0, 64)) // 64 for _ in range(2)
        )
        x, y = _between(rng, (-8, WIDTH - 12)), _between(rng, (horizon_y - height // 2, HEIGHT - 12))
        walls.append((max(0, x), max(0, y), min(WIDTH, x + width), min(HEIGHT, y + height)))
        left, top, right, bottom = walls[-1]
        labels[top:bottom, left:right] = WALL
    # Poles and insects.
    for _ in range(_between(rng, NUM_POLES)):
        foot = _between(rng, (0, WIDTH - 1)), _between(rng, (horizon_y, HEIGHT + 20))
        length, lean = _between(rng, (20, 100)), _between(rng, (-12, 12))
        labels[_line(foot, (lean, -length), _between(rng, POLE_THICKNESS_PX))] = POLE
    for _ in range(_between(rng, NUM_INSECTS)):
        width, height = _between(rng, INSECT_AXIS_PX), _between(rng, INSECT_AXIS_PX)
        x, y = _between(rng, (0, WIDTH - 4)), _between(rng, (0, HEIGHT - 4))
        labels[_ellipse(x, y, width, height)] = BEE if rng.integers(2) else BEETLE
    return labels, walls


def _draw_ground(labels: np.ndarray, horizon_y: int, rng: np.random.Generator) -> None:
    """Meadow and field below an uneven horizon, a slanted border between them, then lakes inside."""
    y, x = _grid()
    step = WIDTH // 4
    knots = np.array([horizon_y + _between(rng, (-8, 8)) for _ in range(6)])
    skyline = (knots[x // step] * (step - x % step) + knots[x // step + 1] * (x % step)) // step
    top, bottom = _between(rng, (-WIDTH // 4, WIDTH)), _between(rng, (0, WIDTH))
    border = top + (bottom - top) * y // HEIGHT
    first, second = (MEADOW, FIELD) if rng.integers(2) else (FIELD, MEADOW)
    labels[(y >= skyline) & (x < border)] = first
    labels[(y >= skyline) & (x >= border)] = second
    for _ in range(_between(rng, NUM_LAKES)):
        width, height = _between(rng, (28, 100)), _between(rng, (20, 60))
        # Land always separates water from sky: without it their border could not be seen.
        left, upper = _between(rng, (-width // 2, WIDTH - width // 2)), _between(rng, (horizon_y + 14, HEIGHT))
        labels[_ellipse(left, upper, width, height)] = WATER


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """y: (H, 1) and x: (1, W), int64, of the pixels."""
    return np.arange(HEIGHT)[:, None], np.arange(WIDTH)[None]


def _ellipse(left: int, top: int, width: int, height: int) -> np.ndarray:
    """Mask: (H, W) of the ellipse that fills the box, compared exactly."""
    y, x = _grid()
    # Twice the distance of the pixels' centres from the centre of the box.
    u, v = 2 * (x - left) + 1 - width, 2 * (y - top) + 1 - height
    return (u * height) ** 2 + (v * width) ** 2 <= (width * height) ** 2


def _line(start: tuple[int, int], step: tuple[int, int], thickness: int) -> np.ndarray:
    """Mask: (H, W) of the line from start = (x, y) to start + step, compared exactly."""
    y, x = _grid()
    u, v = x - start[0], y - start[1]
    along, across = u * step[0] + v * step[1], u * step[1] - v * step[0]
    length2 = step[0] ** 2 + step[1] ** 2
    # Half of the thickness on either side; one side excludes its end, so that an upright line is not a pixel wider.
    distance2 = 4 * across**2
    near = (distance2 < thickness**2 * length2) | ((distance2 == thickness**2 * length2) & (across > 0))
    return near & (along >= 0) & (along <= length2)


def _draw_void(labels: np.ndarray, walls: list[tuple[int, int, int, int]], rng: np.random.Generator) -> None:
    """Void in a corner of every fourth scene or so, and on the visible outlines of the walls."""
    if rng.integers(4) == 0:
        width, height = _between(rng, (8, 32)), _between(rng, (8, 32))
        rows = slice(0, height) if rng.integers(2) else slice(HEIGHT - height, HEIGHT)
        columns = slice(0, width) if rng.integers(2) else slice(WIDTH - width, WIDTH)
        labels[rows, columns] = IGNORE_LABEL
    outline = np.zeros(labels.shape, bool)
    for left, top, right, bottom in walls:
        outline[top:bottom, left:right] = True
        outline[top + 1 : bottom - 1, left + 1 : right - 1] = False  # also of a wall that it covers
    labels[outline & (labels == WALL)] = IGNORE_LABEL


def _paint(labels: np.ndarray, walls: list[tuple[int, int, int, int]], rng: np.random.Generator) -> np.ndarray:
    """Image: (H, W, 3) uint8 in RGB of the labels: (H, W) without void."""
    y, x = _grid()
    shift_x, shift_y = rng.integers(4, size=2)
    column, row = (x + shift_x) // 2 % 2, (y + shift_y) // 2 % 2
    patterns = {
        SKY: _blobs(rng, 40),
        WATER: _blobs(rng, 40),
        MEADOW: _contrast(_blobs(rng, _between(rng, GROUND_PERIOD_PX) // 2)),
        FIELD: _contrast(_stripes(x, y, rng)),
        POLE: _blobs(rng, 8),
        BEE: 0.5 + INSECT_CONTRAST * (row + 0 * column - 0.5),
        BEETLE: 0.5 + INSECT_CONTRAST * ((row + column) % 2 - 0.5),
    }
    weight = np.zeros(labels.shape, np.float32)
    for label, pattern in patterns.items():
        np.copyto(weight, pattern, where=labels == label, casting="same_kind")
    for left, top, right, bottom in walls:
        window = (slice(top, bottom), slice(left, right))
        bricks = _bricks(x[:, : right - left], y[: bottom - top])
        np.copyto(weight[window], bricks, where=labels[window] == WALL)
    low, high = (table[labels] for table in TEXTURE_COLORS.transpose(1, 0, 2))
    return _light(low + (high - low) * weight[..., None], x, y, rng)


def _contrast(weight: np.ndarray) -> np.ndarray:
    """Push weights: (H, W) in [0, 1] towards both ends, so that blobs and stripes have nearly equal histograms."""
    return 0.5 + GROUND_CONTRAST * 0.5 * np.tanh(4 * (weight - 0.5))


def _blobs(rng: np.random.Generator, cell_px: int) -> np.ndarray:
    """Smooth noise: (H, W) in [0, 1], with blobs of about cell_px."""
    knots = rng.random((HEIGHT // cell_px + 2, WIDTH // cell_px + 2), np.float32)
    for axis, size in enumerate((HEIGHT, WIDTH)):
        pixel = np.arange(size)
        weight = (pixel % cell_px / np.float32(cell_px)).astype(np.float32)
        weight = np.expand_dims(weight * weight * (3 - 2 * weight), 1 - axis)  # no kinks at the knots
        low, high = (np.take(knots, pixel // cell_px + offset, axis=axis) for offset in (0, 1))
        knots = low + (high - low) * weight
    return knots


def _stripes(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Waves: (H, W) in [0, 1] in a random direction."""
    angle, phase = rng.uniform(0, math.pi), rng.uniform(0, 2 * math.pi)
    period_px = _between(rng, GROUND_PERIOD_PX)
    along = x * math.cos(angle) + y * math.sin(angle)
    return 0.5 + 0.35 * np.sin(2 * math.pi * along / period_px + phase)


def _bricks(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bricks of 8 x 4 pixels, every other row shifted: mask (H, W) of the joints, one pixel wide."""
    return (y % 4 == 0) | ((x + 4 * (y // 4 % 2)) % 8 == 0)


def _light(canvas: np.ndarray, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light from one side, a cast of colour and noise; returns (H, W, 3) uint8."""
    angle, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0, LIGHT_CONTRAST)
    ramp = (x / WIDTH - 0.5) * math.cos(angle) + (y / HEIGHT - 0.5) * math.sin(angle)
    cast = rng.uniform(0.9, 1.1, 3).astype(np.float32) * rng.uniform(0.75, 1.15)
    lit = canvas * (1 + strength * ramp)[..., None] * cast
    lit += NOISE * rng.standard_normal(lit.shape, np.float32)
    return np.clip(np.rint(lit), 0, 255).astype(np.uint8)


def load_toy(split: str) -> list[Record]:
    """Records of a split: they carry a function that renders image and labels, and names of files that are nowhere."""
    return [_record(split, index) for index in range(NUM_SCENES[split])]


def _record(split: str, index: int) -> Record:
    rendered = {"read": functools.partial(render_scene, split=split, index=index)}
    name = f"{index:04d}.png"
    return {
        "file_name": RecordFile(f"toy/{split}/{name}", rendered, "image"),
        "sem_seg_file_name": RecordFile(f"toy/{split}_labels/{name}", rendered, "labels"),
        "image_id": f"{split}_{index:04d}",
        "height": HEIGHT,
        "width": WIDTH,
        **rendered,
    }


for _split in NUM_SCENES:
    register_dataset(f"toy_sem_seg_{_split}", functools.partial(load_toy, _split), classes=CLASSES, colors=COLORS)
