"""Objects follow their image: boxes and masks against the same augmentation of a picture of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scaleeq.data import find_dataset
from scaleeq.data.augmentation import Crop, TrainAugmentation
from scaleeq.data.instances import Instances, from_annotations, from_masks
from scaleeq.data.mapper import SegmentationMapper
from scaleeq.data.panoptic_file import box_of
from scaleeq.engine import DatasetCatalog
from scaleeq.geometry import Geometry, Map, ObjectGeometry
from scaleeq.tasks import InstancesTask

SHAPE = (60, 80)
LABELS = Geometry(padding=0)


def rectangles(seed: int = 0, num: int = 5) -> list[dict]:
    rng = np.random.default_rng(seed)
    found = []
    for category in range(num):
        left, top = int(rng.integers(0, 60)), int(rng.integers(0, 40))
        box = (left, top, left + int(rng.integers(4, 20)), top + int(rng.integers(4, 20)))
        mask = np.zeros(SHAPE, bool)
        mask[box[1] : box[3], box[0] : box[2]] = True
        found.append({"category_id": category, "mask": mask, "bbox": box_of(mask)})
    return found


def polygons(objects: list[dict]) -> list[dict]:
    """The same rectangles as COCO's annotations."""
    found = []
    for each in objects:
        left, top, right, bottom = each["bbox"]
        corners = [left, top, right, top, right, bottom, left, bottom]
        box = [left, top, right - left, bottom - top]
        found.append({"category_id": each["category_id"], "bbox": box, "segmentation": [[float(c) for c in corners]]})
    return found


AUGMENTATIONS = {
    "flip": TrainAugmentation(),
    "scale": TrainAugmentation(short_sides=(30, 90), sampling="range", flip="vertical"),
    "crop": TrainAugmentation(crop=Crop(kind="absolute", size=(30, 40))),
    "crop and padding": TrainAugmentation(short_sides=(40,), crop=Crop(kind="absolute", size=(64, 48))),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("seed", range(3))
def test_masks_are_those_of_a_picture_that_is_augmented_in_the_same_way(name, seed):
    """Each object is also drawn on a map of labels of its own."""
    objects = rectangles(seed)
    image = np.zeros((*SHAPE, 3), np.uint8)
    maps = {str(n): Map(each["mask"].astype(np.uint8), LABELS) for n, each in enumerate(objects)}
    maps["instances"] = Map(from_masks(objects, SHAPE), ObjectGeometry())
    picture, found = AUGMENTATIONS[name](image, maps, np.random.default_rng(seed))
    sample = found["instances"].sample()
    assert sample["masks"].shape[1:] == picture.shape[:2]
    drawn = {n: found[str(n)] for n in range(len(objects)) if found[str(n)].any()}
    assert sample["labels"].tolist() == sorted(drawn)
    for label, mask, box in zip(sample["labels"].tolist(), sample["masks"], sample["boxes"], strict=True):
        assert np.array_equal(mask.numpy(), drawn[label])
        assert np.abs(box.numpy() - box_of(drawn[label])).max() <= (0.5 if "scale" in name else 0)


@pytest.mark.parametrize("name", ["flip", "crop"])
def test_polygons_are_as_bitmaps_and_crops_make_boxes_of_what_is_left(name):
    objects = rectangles(4)
    image = np.zeros((*SHAPE, 3), np.uint8)
    both = {
        "bitmaps": from_masks(objects, SHAPE),
        "polygons": from_annotations(polygons(objects), SHAPE, source="a.jpg"),
    }
    maps = {key: Map(values, ObjectGeometry()) for key, values in both.items()}
    _, found = AUGMENTATIONS[name](image, maps, np.random.default_rng(3))
    first, second = found["bitmaps"].sample(), found["polygons"].sample()
    assert len(first["labels"]) > (0 if name == "crop" else 4)
    for key in first:
        assert torch.equal(first[key], second[key])
    if name == "crop":
        assert len(first["labels"]) < len(objects), "the crop cut nothing off"


def test_crowds_and_what_is_narrower_than_a_pixel_are_not_trained_on():
    boxes = [[0, 0, 10, 10], [20, 0, 30, 10], [70, 50, 90, 70], [39.5, 0, 45, 10]]
    annotations = [
        {"category_id": n, "bbox": box, "bbox_mode": 0, "iscrowd": int(n == 1)} for n, box in enumerate(boxes)
    ]
    annotations[2]["bbox"] = [79.2, 50, 80, 60]
    objects = from_annotations(annotations, SHAPE, source="a.jpg")
    assert objects.sample()["labels"].tolist() == [0, 3]
    assert "masks" not in objects.sample()
    cut = objects[slice(0, 60), slice(0, 40)]
    assert cut.sample()["labels"].tolist() == [0]  # of the last one, half a pixel is left
    assert [annotation["iscrowd"] for annotation in objects.annotations] == [0, 1, 0, 0]


def test_an_image_without_objects_has_empty_tensors():
    sample = from_annotations([], SHAPE, source="a.jpg").resized((30, 40)).flipped("horizontal").sample()
    assert {name: tuple(values.shape) for name, values in sample.items()} == {
        "boxes": (0, 4),
        "labels": (0,),
        "masks": (0, 30, 40),
    }


def test_mapper_gives_objects_to_train_on_and_the_truth_to_test():
    find_dataset("toy3d_val")
    record = DatasetCatalog.get("toy3d_val")[0]
    trained = SegmentationMapper(targets=[InstancesTask()], augmentation=TrainAugmentation())(
        record, np.random.default_rng(0)
    )
    assert trained["instances"]["masks"].shape[1:] == trained["image"].shape[1:]
    tested = SegmentationMapper(targets=[InstancesTask()])(record)
    assert isinstance(tested["instances_truth"], Instances)
    ids, segments = tested["panoptic_truth"]
    assert {segment["id"] for segment in segments} == set(np.unique(ids).tolist())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [70, 10, 30, 10]}, r"outside its image of 60 x 80 \(height, width\)"),
        ({"bbox": [float("nan"), 10, 30, 10]}, "of negative size or without numbers"),
        ({"bbox": [7, 10, -3, 10]}, "of negative size"),
        ({"segmentation": [[1, 2, 3, 4]]}, "a polygon of 4 numbers: three corners or more"),
        ({"segmentation": []}, "an empty segmentation"),
        (
            {"segmentation": {"size": [80, 60], "counts": "0"}},
            r"a mask \(RLE\) of \(80, 60\) \(height, width\), but its",
        ),
    ],
)
def test_annotations_that_cannot_be_meant_are_refused_with_the_images_name(change, message):
    annotation = polygons(rectangles(0, 1))[0] | {"id": 7} | change
    with pytest.raises(ValueError, match=rf"a\.jpg: the annotation 7 has .*{message}"):
        from_annotations([annotation], SHAPE, source="a.jpg")
