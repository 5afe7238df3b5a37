"""COCO's files: read from real ones, mapped, and refused where they cannot be meant, with file and remedy."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scaleeq.data import find_dataset, read_labels
from scaleeq.data.check.splits import names_of
from scaleeq.data.coco_file import CocoMistakes, object_records, panoptic_records
from scaleeq.data.instances import read_objects
from scaleeq.data.panoptic_file import read_panoptic
from scaleeq.data.reading import read_image
from scaleeq.data.sets.coco import PANOPTIC_CLASSES, load_coco
from scaleeq.data.sets.voc_objects import CLASSES, load_voc_objects
from scaleeq.engine import DatasetCatalog, MetadataCatalog
from scaleeq.pictures import colors_of_ids, write_png
from scaleeq.reports.data import check_dataset

HERE = Path(__file__).resolve()
ROOTS = [Path(os.environ.get("DETECTRON2_DATASETS", "datasets")), HERE.parents[3] / "shared" / "datasets"]
REAL = next((root for root in ROOTS if (root / "coco_instances_sample").is_dir()), None)
needs_sample = pytest.mark.skipif(
    REAL is None, reason="no COCO samples under DETECTRON2_DATASETS or ../shared/datasets"
)


def write(folder: Path, change=lambda content: None) -> Path:
    """Two images of 40 x 50, three objects of two categories with a gap between their ids; PATH/annotations/..."""
    (folder / "val").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(folder / "val" / name)
    images = [{"id": n + 1, "file_name": f"{name}.png", "height": 40, "width": 50} for n, name in enumerate("ab")]
    square = [[5.0, 5.0, 15.0, 5.0, 15.0, 15.0, 5.0, 15.0]]
    one = {"image_id": 1, "bbox": [5, 5, 10, 10], "area": 100, "iscrowd": 0, "segmentation": square}
    runs = {"size": [40, 50], "counts": [400, 200, 1400]}
    content = {
        "images": images,
        "categories": [{"id": 7, "name": "late"}, {"id": 2, "name": "early"}],
        "annotations": [
            {**one, "id": 11, "category_id": 7},
            {**one, "id": 12, "category_id": 2},
            {**one, "id": 13, "category_id": 2, "bbox": [10, 0, 5, 40], "iscrowd": 1, "segmentation": runs},
        ],
    }
    change(content)
    path = folder / "annotations" / "instances_val.json"
    path.write_text(json.dumps(content))
    return path


def test_categories_with_gaps_become_labels_in_the_order_of_their_ids(tmp_path):
    records = object_records(str(write(tmp_path)), str(tmp_path / "val"))
    assert [[each["category_id"] for each in record["annotations"]] for record in records] == [[1, 0, 0], []]
    objects = read_objects(records[0], (40, 50))
    assert objects.crowd.tolist() == [False, False, True]
    assert objects.masks[2][:, 10:15].all()
    assert objects.masks[2].sum() == 200
    assert len(read_objects(records[1], (40, 50))) == 0
    name = f"folder:{tmp_path}/val"
    assert find_dataset(name).thing_classes == ["early", "late"]
    assert names_of(str(tmp_path)) == [name]
    report = check_dataset(name, workers=0)
    assert not report.findings
    assert "objects: 3 in 1 images, 1 of them crowds" in report.text()
    with pytest.raises(FileNotFoundError, match=rf"has the splits val: name one, such as folder:{tmp_path}/val"):
        find_dataset(f"folder:{tmp_path}")


def of(index: int, **change):
    return lambda content: content["annotations"][index].update(change)


def second_image(**change):
    return lambda content: content["images"][1].update(change)


WRONG = {
    "short polygon": (
        of(0, segmentation=[[1, 2, 3, 4]]),
        "the annotation 11 of a.png has a polygon of 4 numbers: three",
    ),
    "box outside": (of(1, bbox=[45, 5, 10, 10]), r"annotation 12 of a.png has a box .* outside its image of 40 x 50"),
    "two corners": (of(1, bbox=[15, 15, -10, -10]), r"annotation 12 of a.png has a box .* of negative size"),
    "no box": (of(1, bbox=[1, 2, 3]), r"the annotation 12 has the bbox \[1, 2, 3\]: write \[x, y, width, height\]"),
    "mask of other size": (of(2, segmentation={"size": [50, 40], "counts": "x"}), r"a mask \(RLE\) of \(50, 40\)"),
    "unknown image": (of(0, image_id=9), "annotation 11 is of the image 9, which is not in its list of images"),
    "unknown category": (of(0, category_id=3), "annotation 11 is of the category 3; its categories are 2, 7: declare"),
    "ids twice": (second_image(id=1), "images a.png and b.png have the same id 1: give each its own"),
    "no size": (lambda content: content["images"][0].pop("width"), "the image a.png has no width: write it"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_file_alone_can_tell_is_told_when_it_is_read(name, tmp_path):
    change, message = WRONG[name]
    path = write(tmp_path, change)
    with pytest.raises(CocoMistakes, match=rf"{path}: .*{message}"):
        object_records(str(path), str(tmp_path / "val"))
    report = check_dataset(f"folder:{tmp_path}/val", workers=0)
    assert [finding.kind for finding in report.faults] == ["wrong annotations"]
    assert "\n" not in str(report.faults[0].advice.splitlines()[0])


def test_all_mistakes_are_counted_and_the_check_shows_them(tmp_path):
    def change(content):
        of(0, image_id=9)(content)
        of(1, bbox=[45, 5, 10, 10])(content)

    path = write(tmp_path, change)
    with pytest.raises(CocoMistakes, match=r"\(1 more mistakes, which `scaleeq data check` shows\)"):
        object_records(str(path), str(tmp_path / "val"))
    (fault,) = check_dataset(f"folder:{tmp_path}/val", workers=0).faults
    assert fault.count == 2
    assert len(fault.advice.splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": []', "is no JSON that can be read"),
        ('[{"image_id": 1}]', "has no list 'images' and no list 'annotations' and no list 'categories'"),
        ('{"images": [], "annotations": [], "categories": []}', r"has the category ids \[\]; give each"),
    ],
)
def test_files_that_are_no_such_files(text, message, tmp_path):
    path = write(tmp_path)
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        object_records(str(path), str(tmp_path / "val"))


def test_missing_images_and_images_of_another_size(tmp_path):
    path = write(tmp_path, second_image(height=41))
    records = object_records(str(path), str(tmp_path / "val"))
    with pytest.raises(ValueError, match=rf"b\.png is \(40, 50\) \(height, width\), but {path} says \(41, 50\)"):
        read_objects(records[1], read_image(records[1]).shape)
    assert [f.kind for f in check_dataset(f"folder:{tmp_path}/val", workers=0).faults] == ["objects"]
    (tmp_path / "val" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images are missing, the first is .*a\.png; complete the copy"):
        object_records(str(path), str(tmp_path / "val"))


def test_a_box_without_area_is_left_out_and_noted(tmp_path):
    path = write(tmp_path, of(0, bbox=[5, 5, 0, 10]))
    (record, _) = object_records(str(path), str(tmp_path / "val"))
    assert len(read_objects(record, (40, 50))) == 2
    (note,) = check_dataset(f"folder:{tmp_path}/val", workers=0).findings
    assert (note.kind, note.is_fault) == ("no area", False)


# --- panoptic ---


def write_panoptic(folder: Path, change=lambda content, ids: None) -> Path:
    """One image with a thing, a crowd of things and stuff; an id above 65535."""
    (folder / "val").mkdir(parents=True)
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(folder / "val" / "a.png")
    ids = np.zeros((40, 50), int)
    ids[:20], ids[20:, :10], ids[25:, 20:] = 7, 300_000, 9
    segments = [
        {"id": 7, "category_id": 5, "iscrowd": 0, "area": 1000},
        {"id": 300_000, "category_id": 1, "iscrowd": 0, "area": 200},
        {"id": 9, "category_id": 1, "iscrowd": 1, "area": 450},
    ]
    content = {
        "images": [{"id": 3, "file_name": "a.png", "height": 40, "width": 50}],
        "categories": [{"id": 1, "name": "dog", "isthing": 1}, {"id": 5, "name": "sky", "isthing": 0}],
        "annotations": [{"image_id": 3, "file_name": "a.png", "segments_info": segments}],
    }
    change(content, ids)
    write_png(folder / "annotations" / "panoptic_val" / "a.png", colors_of_ids(ids))
    path = folder / "annotations" / "panoptic_val.json"
    path.write_text(json.dumps(content))
    return path


def test_panoptic_pictures_give_labels_and_objects(tmp_path):
    write_panoptic(tmp_path)
    name = f"folder:{tmp_path}/val"
    metadata = find_dataset(name)
    assert (metadata.stuff_classes, metadata.thing_classes, metadata.panoptic_things) == (["dog", "sky"], ["dog"], (0,))
    (record,) = DatasetCatalog.get(name)
    labels = read_labels(record, num_classes=2)
    assert {label: int((labels == label).sum()) for label in (0, 1, 255)} == {0: 200, 1: 1000, 255: 800}
    objects = read_objects(record, (40, 50))
    assert (objects.labels.tolist(), objects.crowd.tolist()) == ([0, 0], [False, True])
    assert objects.boxes[0].tolist() == [0, 20, 10, 40]
    assert objects.sample()["masks"].sum() == 200
    assert not check_dataset(name, workers=0).faults


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, ids: ids.__setitem__((0, 0), 8), r"a\.png has the ids 8, which no segment has; ids are R \+ 256 G"),
        (lambda c, ids: ids.__setitem__(ids == 9, 0), "has no pixel of the segments 9 of its list"),
    ],
)
def test_a_picture_that_does_not_fit_its_list(change, message, tmp_path):
    path = write_panoptic(tmp_path, change)
    (record,) = panoptic_records(str(path), str(tmp_path / "val"), str(path.with_suffix("")))
    with pytest.raises(ValueError, match=message):
        read_panoptic(record)
    assert "panoptic" in [f.kind for f in check_dataset(f"folder:{tmp_path}/val", workers=0).faults]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, ids: c["annotations"][0].update(image_id=4), "1 images have no annotation, the first is a.png"),
        (lambda c, ids: c["annotations"][0].pop("segments_info"), r"of a\.png has no segments_info: is this a file of"),
        (lambda c, ids: c["annotations"][0]["segments_info"][0].update(id=9), "have an id twice, or 0, which is void"),
        (lambda c, ids: c["annotations"][0]["segments_info"][0].update(category_id=2), r"categories \[2\]: declare"),
        (lambda c, ids: c["annotations"].append(copy.deepcopy(c["annotations"][0])), "two panoptic annotations"),
    ],
)
def test_lists_of_segments_that_cannot_be_meant(change, message, tmp_path):
    path = write_panoptic(tmp_path, change)
    with pytest.raises(CocoMistakes, match=message):
        panoptic_records(str(path), str(tmp_path / "val"), str(path.with_suffix("")))


# --- real files ---


@needs_sample
def test_the_real_sample_in_the_official_layout(tmp_path):
    base = tmp_path / "coco"
    shutil.copytree(REAL / "coco_instances_sample" / "val2017", base / "val2017")
    shutil.copytree(REAL / "coco_instances_sample" / "annotations", base / "annotations")
    records = load_coco("instances", "val", str(tmp_path))
    assert (len(records), sum(len(record["annotations"]) for record in records)) == (6, 36)
    assert sum(each["iscrowd"] for record in records for each in record["annotations"]) == 1
    for record in records:
        objects = read_objects(record, read_image(record).shape)
        for annotation, mask in zip(objects.annotations, objects.sample()["masks"], strict=False):
            assert annotation["iscrowd"] or 0.5 < mask.sum() / annotation["area"] < 2 or annotation["area"] < 60
    with pytest.raises(FileNotFoundError, match=r"instances_train2017\.json, and train2017/ in that coco/"):
        load_coco("instances", "train", str(tmp_path))
    assert len(MetadataCatalog.get("coco_instances_2017_val").thing_classes) == 80


@needs_sample
def test_the_real_panoptic_sample(tmp_path):
    base, sample = tmp_path / "coco", REAL / "coco_panoptic_sample"
    shutil.copytree(sample / "input_images", base / "val2017")
    shutil.copytree(sample / "panoptic_examples", base / "panoptic_val2017")
    (base / "annotations").mkdir()
    shutil.copy(sample / "panoptic_examples.json", base / "annotations" / "panoptic_val2017.json")
    records = load_coco("panoptic", "val", str(tmp_path))
    content = json.loads((sample / "panoptic_examples.json").read_text())
    assert len(PANOPTIC_CLASSES) == len(content["categories"]) == 133
    for record in records:
        ids, segments = read_panoptic(record)
        for segment in segments:
            assert (ids == segment["id"]).sum() == segment["area"]
        things = [segment for segment in segments if segment["category_id"] < 80]
        assert len(read_objects(record, read_image(record).shape)) == len(things) > 0
        assert set(np.unique(read_labels(record, num_classes=133))) <= {s["category_id"] for s in segments} | {255}


# --- PASCAL VOC ---

VOC_XML = """<annotation><size><width>50</width><height>40</height><depth>3</depth></size>
<object><name>dog</name><difficult>0</difficult>
  <part><name>head</name><bndbox><xmin>3</xmin><ymin>5</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>
  <bndbox><xmin>1</xmin><ymin>2</ymin><xmax>50</xmax><ymax>40</ymax></bndbox></object>
<object><name>person</name><difficult>1</difficult>
  <bndbox><xmin>11</xmin><ymin>12</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></object></annotation>"""


def write_voc(root: Path, xml: str = VOC_XML) -> None:
    base = root / "VOCdevkit" / "VOC2007"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (base / folder).mkdir(parents=True)
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(base / "JPEGImages" / "000005.jpg")
    (base / "Annotations" / "000005.xml").write_text(xml)
    (base / "ImageSets" / "Main" / "val.txt").write_text("000005\n")


def test_voc_boxes_are_counted_from_0_and_difficult_ones_are_neither_trained_nor_asked_for(tmp_path):
    write_voc(tmp_path)
    (record,) = load_voc_objects(2007, "val", str(tmp_path))
    objects = read_objects(record, read_image(record).shape)
    assert objects.boxes.tolist() == [[0, 1, 50, 40], [10, 11, 20, 30]]
    assert [CLASSES[label] for label in objects.labels] == ["dog", "person"]
    assert objects.sample()["labels"].tolist() == [CLASSES.index("dog")]
    assert objects.annotations[0]["bbox"] == [0, 1, 50, 39]
    assert objects.annotations[0]["area"] == 50 * 39
    assert MetadataCatalog.get("voc_objects_2012_trainval").thing_classes == list(CLASSES)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dog", "wolf", "has an object 'wolf', which is none of the classes aeroplane"),
        ("<width>50</width>", "", "has no <width> where one is expected"),
        ("</annotation>", "", r"000005\.xml is no annotation of VOC"),
    ],
)
def test_voc_files_that_cannot_be_meant(old, new, message, tmp_path):
    write_voc(tmp_path, VOC_XML.replace(old, new))
    with pytest.raises(ValueError, match=message):
        load_voc_objects(2007, "val", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"needs .*VOCdevkit/VOC2012/Annotations"):
        load_voc_objects(2012, "val", str(tmp_path))
