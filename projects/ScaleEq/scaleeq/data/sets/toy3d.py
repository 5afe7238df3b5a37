"""Toy 3-D scenes: rooms that are ray-cast, with the exact truth of every dense task, of instances and of panoptic
segments.

A scene is a function of (split, index). A pinhole camera looks at a back wall, the ground, a side wall, spheres and
cards (rectangles at any angle); for each pixel the nearest surface gives label, depth and normal in closed form. Axes
are x to the right, y down and z into the scene, in metres; depth is z, a normal points towards the camera. Edges are
where a pixel's right or lower neighbour is of another surface. Spheres and cards are what is salient; six bands of a
sphere, from top to bottom, stand for the parts of a body, so that this task can be tried too.

What tells depth and direction: perspective in the textures, shading by one light from the upper left, objects that hide
others.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from scaleeq.choices import one_of
from scaleeq.extras import installed
from scaleeq.records import Json

from ..panoptic_file import box_of
from ..record_file import RecordFile
from .catalog import IGNORE_LABEL, Record, read_table, register_dataset

HEIGHT, WIDTH = 128, 128
NUM_SCENES = {"train": 512, "val": 64}
FOCAL_PX = 120.0
CENTER = (WIDTH - 1) / 2, (HEIGHT - 1) / 2
NOISE = 8.0  # standard deviation in grey levels
NUM_SPHERES, NUM_CARDS = (3, 5), (4, 7)
LIGHT = np.array([-0.45, -0.6, -0.66], np.float32)  # towards it, from every surface
AMBIENT = 0.45
NUM_BANDS = 6
CHECK_M = 0.5  # side of a square of the textures

CLASSES, COLORS = read_table(
    "back wall 150 150 190 | ground 90 160 60 | side wall 170 120 80 | sphere 220 60 60 | card 60 90 220"
)
BACK_WALL, GROUND, SIDE_WALL, SPHERE, CARD = range(5)
THINGS = (SPHERE, CARD)
MAPS = ("depth", "normals", "edges", "saliency", "human_parts")


@dataclass(frozen=True)
class Scene:
    """image: (H, W, 3) uint8; labels: (H, W) uint8; depth: (H, W) float32, metres; normals: (H, W, 3) float32.

    surfaces: (H, W) uint8, which surface is seen: 0 to 2 the walls and the ground, by label, then the things.
    categories: the label of each surface. parts: (H, W) uint8, 0, or the band of a sphere from 1 on.
    """

    image: np.ndarray
    labels: np.ndarray
    depth: np.ndarray
    normals: np.ndarray
    surfaces: np.ndarray
    categories: tuple[int, ...]
    parts: np.ndarray

    @property
    def edges(self) -> np.ndarray:
        """(H, W) uint8, 0 or 1."""
        found = np.zeros((HEIGHT, WIDTH), np.uint8)
        found[:, :-1] |= self.surfaces[:, :-1] != self.surfaces[:, 1:]
        found[:-1] |= self.surfaces[:-1] != self.surfaces[1:]
        return found

    @property
    def saliency(self) -> np.ndarray:
        """(H, W) uint8, 0 or 1."""
        return (self.labels >= SPHERE).astype(np.uint8)

    @property
    def human_parts(self) -> np.ndarray:
        """(H, W) uint8; all void without a sphere, as an image without people is."""
        return self.parts if self.parts.any() else np.full_like(self.parts, IGNORE_LABEL)

    def instances(self) -> list[Json]:
        """The things that are seen: category_id, from 0 among things, mask (H, W) bool, and bbox as of box_of."""
        found = []
        for index in range(len(CLASSES) - len(THINGS), len(self.categories)):
            mask = self.surfaces == index
            if mask.any():
                category = THINGS.index(self.categories[index])
                found.append({"category_id": category, "mask": mask, "bbox": box_of(mask)})
        return found

    def panoptic(self) -> tuple[np.ndarray, list[Json]]:
        """Segments (H, W) int32 from 1 on, and id, category_id (a label), isthing, area and bbox of each."""
        ids, segments = self.surfaces.astype(np.int32) + 1, []
        for index, label in enumerate(self.categories):
            mask = self.surfaces == index
            if area := int(mask.sum()):
                about = {"id": index + 1, "category_id": label, "isthing": label in THINGS, "iscrowd": 0}
                segments.append({**about, "area": area, "bbox": box_of(mask)})
        return ids, segments


@functools.lru_cache(maxsize=4)
def render_scene(split: str, index: int) -> Scene:
    """The scene; its arrays are shared, and cannot be written to.

    ValueError: an unknown split; IndexError: an index outside it.
    """
    one_of(split, NUM_SCENES, key="the split of the toy 3-D scenes")
    if not 0 <= index < NUM_SCENES[split]:
        raise IndexError(f"scene {index} of split {split!r}, which has {NUM_SCENES[split]}")
    shapes, looks = (np.random.default_rng([3, sorted(NUM_SCENES).index(split), index, part]) for part in range(2))
    canvas = _Canvas()
    _build(canvas, shapes)
    labels = canvas.finish()
    image = _paint(canvas, looks)
    made = (image, labels, canvas.depth, canvas.normals, canvas.surfaces)
    for array in (*made, canvas.parts):
        array.flags.writeable = False
    return Scene(*made, tuple(canvas.categories), canvas.parts)


class _Canvas:
    """What has been cast so far: a surface is seen where it is nearer than all before it.

    texture: (2, H, W) float32, metres along a surface.
    """

    def __init__(self) -> None:
        self.x = np.broadcast_to(((np.arange(WIDTH) - CENTER[0]) / FOCAL_PX).astype(np.float32), (HEIGHT, WIDTH))
        self.y = np.broadcast_to(
            ((np.arange(HEIGHT) - CENTER[1]) / FOCAL_PX).astype(np.float32)[:, None], (HEIGHT, WIDTH)
        )
        self.depth = np.full((HEIGHT, WIDTH), np.inf, np.float32)
        self.normals = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        self.texture = np.zeros((2, HEIGHT, WIDTH), np.float32)
        self.surfaces = np.zeros((HEIGHT, WIDTH), np.uint8)
        self.parts = np.zeros((HEIGHT, WIDTH), np.uint8)
        self.categories: list[int] = []
        self._flat: list[np.ndarray] = []  # the normal of each plane

    def plane(
        self,
        category: int,
        point: np.ndarray,
        across: np.ndarray,
        down: np.ndarray,
        half: tuple[float, float] | None = None,
    ) -> None:
        """Through a point, along two unit vectors at right angles. half: of a rectangle's sides, in metres."""
        normal = np.cross(across, down)
        normal = normal if float(normal @ point) < 0 else -normal
        x, y, window = self.x, self.y, (slice(None), slice(None))
        if half is not None:
            corners = [point + u * half[0] * across + v * half[1] * down for u in (-1, 1) for v in (-1, 1)]
            window = self._window(np.array(corners))
            x, y = x[window], y[window]
        facing = normal[0] * x + normal[1] * y + normal[2]
        with np.errstate(divide="ignore", invalid="ignore"):
            z = (float(normal @ point) / facing).astype(np.float32)
            along = [
                (x * z - point[0]) * axis[0] + (y * z - point[1]) * axis[1] + (z - point[2]) * axis[2]
                for axis in (across, down)
            ]
            seen = (z > 0.1) & (z < self.depth[window])
            if half is not None:
                seen &= (np.abs(along[0]) <= half[0]) & (np.abs(along[1]) <= half[1])
        self._put(category, window, seen, z, normal.astype(np.float32), along)

    def sphere(self, center: np.ndarray, radius: float) -> None:
        reach = np.array([[-1, -1, -1], [1, 1, -1], [-1, 1, -1], [1, -1, -1]]) * radius
        window = self._window(center + reach)
        x, y = self.x[window].astype(np.float64), self.y[window].astype(np.float64)
        a, b = x * x + y * y + 1, x * center[0] + y * center[1] + center[2]
        root = b * b - a * (float(center @ center) - radius**2)
        z = (b - np.sqrt(np.maximum(root, 0))) / a
        seen = (root > 0) & (z < self.depth[window])
        normal = np.stack([x * z - center[0], y * z - center[1], z - center[2]], axis=-1) / radius
        angle = np.arcsin(np.clip(normal[..., 1], -1, 1))
        along = [np.arctan2(normal[..., 0], -normal[..., 2]) * radius, angle * radius]
        self._put(SPHERE, window, seen, z.astype(np.float32), normal.astype(np.float32), along)
        band = np.clip((normal[..., 1] + 1) / 2 * NUM_BANDS, 0, NUM_BANDS - 1)
        np.copyto(self.parts[window], (band + 1).astype(np.uint8), where=seen)

    def _window(self, corners: np.ndarray) -> tuple[slice, slice]:
        """The pixels between the corners' pictures; corners: (N, 3), in front of the camera."""
        x, y = (corners[:, axis] / corners[:, 2] * FOCAL_PX + CENTER[axis] for axis in (0, 1))
        left, top = max(0, int(x.min()) - 1), max(0, int(y.min()) - 1)
        return slice(top, max(top, int(y.max()) + 2)), slice(left, max(left, int(x.max()) + 2))

    def _put(
        self,
        category: int,
        window: tuple[slice, slice],
        seen: np.ndarray,
        z: np.ndarray,
        normal: np.ndarray,
        along: list[np.ndarray],
    ) -> None:
        np.copyto(self.depth[window], z, where=seen)
        np.copyto(self.surfaces[window], np.uint8(len(self.categories)), where=seen)
        for kept, values in zip(self.texture, along, strict=True):
            np.copyto(kept[window], values, where=seen, casting="same_kind")
        if normal.ndim == 3:  # that of a plane is put in place at the end
            np.copyto(self.normals[window], normal, where=seen[..., None])
        self.categories.append(category)
        self._flat.append(np.zeros(3, np.float32) if normal.ndim == 3 else normal)

    def finish(self) -> np.ndarray:
        """Put the normals of planes in place, take away parts that are hidden; labels: (H, W) uint8."""
        labels = np.asarray(self.categories, np.uint8)[self.surfaces]
        round_ = labels == SPHERE
        np.copyto(self.normals, np.array(self._flat)[self.surfaces], where=~round_[..., None])
        self.parts[~round_] = 0
        return labels


def _build(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Walls and ground, then things that stand or float before them."""
    down = np.array([0.0, 1.0, 0.0])
    turn, side = rng.uniform(-0.35, 0.35), rng.choice([-1.0, 1.0])
    floor = rng.uniform(1.0, 1.6)
    canvas.plane(BACK_WALL, np.array([0, 0, rng.uniform(6.5, 8.5)]), np.array([np.cos(turn), 0, np.sin(turn)]), down)
    canvas.plane(GROUND, np.array([0, floor, 0]), np.array([1.0, 0, 0]), np.array([0, 0, 1.0]))
    lean = rng.uniform(-0.2, 0.2)
    wall = np.array([side * rng.uniform(1.6, 2.6), 0, 4.0])
    canvas.plane(SIDE_WALL, wall, np.array([np.sin(lean), 0, np.cos(lean)]), down)
    for _ in range(int(rng.integers(NUM_SPHERES[0], NUM_SPHERES[1] + 1))):
        radius, z = rng.uniform(0.3, 0.75), rng.uniform(3.2, 5.5)
        y = floor - radius if rng.random() < 0.7 else rng.uniform(-0.35, 0.2) * z
        canvas.sphere(np.array([rng.uniform(-0.4, 0.4) * z, y, z]), radius)
    for _ in range(int(rng.integers(NUM_CARDS[0], NUM_CARDS[1] + 1))):
        z, yaw, pitch = rng.uniform(3.0, 6.0), rng.uniform(-1.0, 1.0), rng.uniform(-0.6, 0.6)
        across = np.array([np.cos(yaw), 0, np.sin(yaw)])
        up = np.array([-np.sin(yaw) * np.sin(pitch), np.cos(pitch), np.cos(yaw) * np.sin(pitch)])
        place = np.array([rng.uniform(-0.4, 0.4) * z, rng.uniform(-0.4, 0.25) * z, z])
        canvas.plane(CARD, place, across, up, (rng.uniform(0.3, 0.85), rng.uniform(0.3, 0.85)))


def _paint(canvas: _Canvas, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8: checks in two colours of each surface, shaded, with noise."""
    colors = rng.uniform(60, 230, (len(canvas.categories), 1, 3))
    pairs = np.clip(colors * rng.uniform(0.55, 1.5, (len(colors), 2, 1)), 20, 250).astype(np.float32)
    sizes = (CHECK_M * rng.uniform(0.4, 1.2, len(colors))).astype(np.float32)
    column, row = np.floor(canvas.texture / sizes[canvas.surfaces]).astype(np.int32)
    squares = (column + row) & 1
    light = AMBIENT + (1 - AMBIENT) * np.maximum(canvas.normals @ (LIGHT / np.linalg.norm(LIGHT)), 0)
    lit = pairs[canvas.surfaces, squares] * light[..., None]
    lit += NOISE * rng.standard_normal(lit.shape, np.float32)
    return np.clip(np.rint(lit), 0, 255).astype(np.uint8)


# --- records ---


def read_pair(split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels."""
    scene = render_scene(split, index)
    return scene.image, scene.labels


def read_map(split: str, index: int, key: str) -> np.ndarray:
    """The map of a task, of MAPS."""
    return getattr(render_scene(split, index), key)


def read_instances(split: str, index: int) -> list[Json]:
    """Scene.instances of a scene."""
    return render_scene(split, index).instances()


def read_panoptic(split: str, index: int) -> tuple[np.ndarray, list[Json]]:
    """Scene.panoptic of a scene."""
    return render_scene(split, index).panoptic()


def load_toy3d(split: str) -> list[Record]:
    """Records of a split: they carry functions that render, and names of files that are nowhere.

    "read": image and labels; "read_<task>": the map of each of MAPS; "read_instances", "read_panoptic".
    """
    return [_record(split, index) for index in range(NUM_SCENES[split])]


def _record(split: str, index: int) -> Record:
    place: Json = {"split": split, "index": index}
    rendered = {"read": functools.partial(read_pair, **place)}
    name = f"{index:04d}.png"
    return {
        "file_name": RecordFile(f"toy3d/{split}/{name}", rendered, "image"),
        "sem_seg_file_name": RecordFile(f"toy3d/{split}_labels/{name}", rendered, "labels"),
        "image_id": f"{split}_{index:04d}",
        "height": HEIGHT,
        "width": WIDTH,
        **rendered,
        **{f"read_{key}": functools.partial(read_map, **place, key=key) for key in MAPS},
        "read_instances": functools.partial(read_instances, **place),
        "read_panoptic": functools.partial(read_panoptic, **place),
    }


def load_toy3d_instances(split: str) -> list[Record]:
    """The same images with their objects alone, as COCO's annotations with run lengths, for Detectron2's own mapper.

    All scenes are rendered here, which takes seconds; without pycocotools the annotations have no masks.
    """
    records = []
    for index in range(NUM_SCENES[split]):
        record, scene = _record(split, index), render_scene(split, index)
        wanted = ("file_name", "image_id", "height", "width", "read")
        objects = [
            {
                **{key: each[key] for key in ("category_id", "bbox")},
                "bbox_mode": 0,
                "iscrowd": 0,
                **_encoded(each["mask"]),
            }
            for each in scene.instances()
        ]
        records.append({**{key: record[key] for key in wanted}, "annotations": objects})
    return records


def _encoded(mask: np.ndarray) -> Json:
    if not installed("pycocotools"):
        return {}
    from pycocotools import mask as coco_mask

    return {"segmentation": coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))}


_ABOUT: Json = {
    "classes": CLASSES,
    "colors": COLORS,
    "objects": [CLASSES[label] for label in THINGS],
    "panoptic_things": THINGS,
}
for _split in NUM_SCENES:
    register_dataset(f"toy3d_{_split}", functools.partial(load_toy3d, _split), **_ABOUT)
    _load = functools.partial(load_toy3d_instances, _split)
    register_dataset(f"toy3d_instances_{_split}", _load, classes=(), colors=(), objects=_ABOUT["objects"])
