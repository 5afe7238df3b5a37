"""The objects of an image: boxes, labels and masks, how they follow the image, and how a record's are read.

Boxes are left, top, right, bottom in pixels, ends excluded. A mask is polygons, which stay exact while they are scaled
and mirrored, or a bitmap. What a record may have:

    "annotations"       COCO's dicts, as Detectron2's records have them: category_id from 0 on, bbox (with bbox_mode, 0
                        for left, top, right, bottom; 1, or none, for left, top, width, height), segmentation, iscrowd
    "read_instances"    a function without arguments -> category_id, bbox (left, top, right, bottom), mask (H, W) bool
    "panoptic_file_name" with "segments_info"     a panoptic picture, of whose segments those of things are objects
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
import torch

from scaleeq.extras import require
from scaleeq.records import Json, JsonView

from .panoptic_file import box_of, read_panoptic, thing_masks
from .sets.catalog import Record

XYXY = 0  # Detectron2's BoxMode.XYXY_ABS; XYWH_ABS is 1
SMALLEST_PX = 1.0  # a box with a smaller side is none
SLACK_PX = 1.0  # by which a box may reach beyond the image: that is rounding
Polygons = list[np.ndarray]  # (2 M,) float64 each: x, y, x, y, ...
Annotation = Json


@dataclass(frozen=True)
class Instances:
    """shape: (height, width) of the image. boxes: (N, 4) float64. labels: (N,) int64. crowd: (N,) bool.

    masks: for each object polygons or a bitmap (H, W) uint8; None: there are no masks.
    annotations: what they were made of, for the evaluation: COCO's dicts with category_id, bbox, area, iscrowd.
    cut: whether a crop may have made objects smaller than their boxes.
    """

    shape: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    masks: tuple[Polygons | np.ndarray, ...] | None = None
    annotations: tuple[Annotation, ...] = field(default=(), repr=False)
    cut: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def resized(self, shape: tuple[int, int]) -> Instances:
        """At another size of the image."""
        if shape == self.shape:
            return self
        factor = np.array([shape[1] / self.shape[1], shape[0] / self.shape[0]])
        return replace(
            self,
            shape=shape,
            boxes=self.boxes * np.tile(factor, 2),
            masks=self._masks(
                lambda polygon: (polygon.reshape(-1, 2) * factor).ravel(),
                lambda bitmap: cv2.resize(bitmap, shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT),
            ),
        )

    def flipped(self, direction: str) -> Instances:
        """In the mirror image; direction: "horizontal" or "vertical"."""
        axis = 0 if direction == "horizontal" else 1
        size = self.shape[1 - axis]
        boxes = self.boxes.copy()
        boxes[:, [axis, axis + 2]] = size - self.boxes[:, [axis + 2, axis]]

        def mirrored(polygon: np.ndarray) -> np.ndarray:
            corners = polygon.reshape(-1, 2).copy()
            corners[:, axis] = size - corners[:, axis]
            return corners.ravel()

        return replace(self, boxes=boxes, masks=self._masks(mirrored, lambda bitmap: np.flip(bitmap, 1 - axis)))

    def __getitem__(self, window: tuple[slice, slice]) -> Instances:
        """Inside a window of the image; objects of which less than a pixel is left are dropped.

        window: rows and columns, which may end outside the image. Bitmaps are made of polygons.
        """
        (top, bottom, _), (left, right, _) = (w.indices(side) for w, side in zip(window, self.shape, strict=True))
        boxes = self.boxes - np.array([left, top, left, top])
        masks = None
        if self.masks is not None:
            bitmaps = (self._bitmap(mask)[top:bottom, left:right] for mask in self.masks)
            masks = tuple(np.ascontiguousarray(bitmap) for bitmap in bitmaps)
        moved = replace(self, shape=(bottom - top, right - left), boxes=boxes, masks=masks, cut=True)
        return moved.chosen(moved.visible())

    def padded(self, shape: tuple[int, int]) -> Instances:
        """With at least this shape, filled up at the bottom and at the right."""
        below, right = (max(0, want - have) for want, have in zip(shape, self.shape, strict=True))
        if not below and not right:
            return self
        masks = self._masks(lambda polygon: polygon, lambda bitmap: np.pad(bitmap, ((0, below), (0, right))))
        return replace(self, shape=(self.shape[0] + below, self.shape[1] + right), masks=masks)

    def visible(self) -> np.ndarray:
        """(N,) bool: those whose box, and whose bitmap, has a pixel in the image."""
        boxes = self.clipped_boxes()
        found = (boxes[:, 2:] - boxes[:, :2] >= SMALLEST_PX).all(1)
        for index, mask in enumerate(self.masks or ()):
            found[index] &= not isinstance(mask, np.ndarray) or bool(mask.any())
        return found

    def chosen(self, which: np.ndarray) -> Instances:
        """which: (N,) bool."""
        kept = np.flatnonzero(which)
        masks = None if self.masks is None else tuple(self.masks[index] for index in kept)
        return replace(self, boxes=self.boxes[kept], labels=self.labels[kept], crowd=self.crowd[kept], masks=masks)

    def clipped_boxes(self) -> np.ndarray:
        """(N, 4) float64, inside the image."""
        height, width = self.shape
        return np.clip(self.boxes, 0, [width, height, width, height])

    def sample(self) -> dict[str, torch.Tensor]:
        """What is trained on, without crowds: "boxes" (N, 4) float32, "labels" (N,) int64, and where there are masks
        "masks" (N, H, W) uint8. After a crop, a box is that of what is left of its mask."""
        own = self.chosen(~self.crowd & self.visible())
        boxes, found = own.clipped_boxes(), {}
        if own.masks is not None:
            bitmaps = np.zeros((len(own), *own.shape), np.uint8)
            for bitmap, mask in zip(bitmaps, own.masks, strict=True):
                bitmap[...] = own._bitmap(mask)
            if own.cut and len(own):
                boxes = np.array([box_of(bitmap) for bitmap in bitmaps], np.float64)
            found["masks"] = torch.from_numpy(bitmaps)
        return {
            "boxes": torch.from_numpy(boxes.astype(np.float32)),
            "labels": torch.from_numpy(own.labels.astype(np.int64)),
            **found,
        }

    def _masks(self, of_polygon: Any, of_bitmap: Any) -> tuple[Polygons | np.ndarray, ...] | None:
        if self.masks is None:
            return None
        return tuple(
            of_bitmap(mask) if isinstance(mask, np.ndarray) else [of_polygon(polygon) for polygon in mask]
            for mask in self.masks
        )

    def _bitmap(self, mask: Polygons | np.ndarray) -> np.ndarray:
        """(H, W) uint8."""
        if isinstance(mask, np.ndarray):
            return mask
        require("pycocotools", why="Polygons become masks by pycocotools. ")
        from .preparation.coco_masks import decode

        return decode([polygon.tolist() for polygon in mask], *self.shape)


# --- records ---


def has_instances(record: Record) -> bool:
    """Whether the record says which objects there are, which may be none."""
    return "annotations" in record or "read_instances" in record or "segments_info" in record


def read_objects(record: Record, shape: tuple[int, ...]) -> Instances | None:
    """The objects of a record; None: nothing is known of them.

    shape: (height, width) of the image. ValueError, naming the image: an annotation that cannot be meant.
    """
    source, size = str(record["file_name"]), (int(shape[0]), int(shape[1]))
    if "annotations" in record:
        stated = (record.get("height", size[0]), record.get("width", size[1]))
        if stated != size:
            raise ValueError(
                f"{source} is {size} (height, width), but {_file_of(record)} says {stated}: "
                "annotate the image that is there, or write its size"
            )
        return from_annotations(record["annotations"], size, source=source)
    if "read_instances" in record:
        return from_masks(record["read_instances"](), size)
    if "segments_info" in record:
        ids, segments = read_panoptic(record)
        return from_masks(thing_masks(ids, segments, record["thing_labels"]), size)
    return None


def _file_of(record: Record) -> str:
    return str(record.get("annotations_file_name", "its record"))


def from_annotations(annotations: Sequence[Annotation], shape: tuple[int, int], *, source: str) -> Instances:
    """Objects of COCO's dicts; those whose box has no area are left out."""
    boxes, masks = [], []
    with_masks = any("segmentation" in annotation for annotation in annotations)
    kept: list[Annotation] = []
    for annotation in annotations:
        box = corners_of(annotation)
        if problem := wrong_box(box, shape) or wrong_mask(annotation, shape, needed=with_masks):
            raise ValueError(f"{source}: the annotation {annotation.get('id', annotation)} has {problem}")
        if (box[2:] - box[:2] <= 0).any():
            continue
        boxes.append(box)
        kept.append(_as_truth(annotation, box))
        if with_masks:
            masks.append(_mask_of(annotation["segmentation"], shape))
    return Instances(
        shape,
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array([annotation["category_id"] for annotation in kept], np.int64),
        np.array([bool(annotation["iscrowd"]) for annotation in kept], bool),
        tuple(masks) if with_masks or not annotations else None,
        tuple(kept),
    )


def from_masks(objects: Sequence[JsonView], shape: tuple[int, int]) -> Instances:
    """objects: category_id, mask (H, W) bool, bbox (left, top, right, bottom) and where it is one, iscrowd."""
    masks = tuple(np.ascontiguousarray(each["mask"], np.uint8) for each in objects)
    boxes = np.array([each["bbox"] for each in objects], np.float64).reshape(-1, 4)
    labels = np.array([each["category_id"] for each in objects], np.int64)
    crowd = np.array([bool(each.get("iscrowd", 0)) for each in objects], bool)
    annotations = tuple(
        {
            "category_id": int(label),
            "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
            "area": int(mask.sum()),
            "iscrowd": int(is_crowd),
            "segmentation": mask,
        }
        for label, box, mask, is_crowd in zip(labels, boxes, masks, crowd, strict=True)
    )
    return Instances(shape, boxes, labels, crowd, masks, annotations)


def corners_of(annotation: Annotation) -> np.ndarray:
    """(4,) float64: left, top, right, bottom of an annotation's bbox."""
    box = np.array(annotation["bbox"], np.float64)
    if int(annotation.get("bbox_mode", 1)) != XYXY:
        box[2:] += box[:2]
    return box


def wrong_box(box: np.ndarray, shape: Sequence[int]) -> str:
    """In words, why left, top, right, bottom cannot be a box in an image of the shape; "": it can."""
    shown = np.round(box, 2).tolist()
    if not np.isfinite(box).all() or (box[2:] < box[:2]).any():
        return (
            f"a box {shown} (left, top, right, bottom) of negative size or without numbers: write [x, y, width, height]"
        )
    if (box[:2] < -SLACK_PX).any() or (box[2:] > np.array([shape[1], shape[0]]) + SLACK_PX).any():
        return (
            f"a box {shown} (left, top, right, bottom) outside its image of {shape[0]} x {shape[1]} (height, width): "
            "COCO's boxes are [x, y, width, height] in pixels of the original image"
        )
    return ""


def wrong_mask(annotation: Annotation, shape: Sequence[int], *, needed: bool = False) -> str:
    """In words, why an annotation's mask cannot be meant in an image of the shape; "": it can."""
    mask = annotation.get("segmentation")
    if mask is None:
        return "no segmentation, though others of the image have one: give all objects masks, or none" if needed else ""
    if isinstance(mask, list):
        if not mask:
            return "an empty segmentation: leave the object out, or give it a polygon"
        short = [polygon for polygon in mask if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2]
        if short:
            return f"a polygon of {len(short[0])} numbers: three corners or more are [x, y, x, y, x, y, ...]"
        return ""
    if isinstance(mask, dict) and tuple(mask.get("size", ())) != tuple(shape):
        return (
            f"a mask (RLE) of {tuple(mask.get('size', ()))} (height, width), but its image is {tuple(shape)}: "
            "encode it at the image's size"
        )
    return ""


def _as_truth(annotation: Annotation, box: np.ndarray) -> Annotation:
    """COCO's dict of it, as its evaluation reads it: with the bbox that it was written with."""
    size = box[2:] - box[:2]
    is_corners = int(annotation.get("bbox_mode", 1)) == XYXY
    found: Annotation = {
        "category_id": int(annotation["category_id"]),
        "bbox": [*box[:2].tolist(), *size.tolist()] if is_corners else [float(value) for value in annotation["bbox"]],
        "iscrowd": int(annotation.get("iscrowd", 0)),
        **{key: annotation[key] for key in ("segmentation", "area") if key in annotation},
    }
    return found if "area" in found or "segmentation" in found else {**found, "area": float(size.prod())}


def _mask_of(segmentation: object, shape: tuple[int, int]) -> Polygons | np.ndarray:
    if isinstance(segmentation, list):
        return [np.array(polygon, np.float64) for polygon in segmentation]
    require("pycocotools", why="COCO's run lengths become masks by pycocotools. ")
    from .preparation.coco_masks import decode

    return np.ascontiguousarray(decode(segmentation, *shape))
