"""COCO's JSON files: objects (instances_*.json) and panoptic segments (panoptic_*.json), checked, as records.

Category ids may have gaps: they become labels from 0 on, in the order of the ids. All that the file alone can tell is
checked when it is read, before a training begins; what only a picture can tell (its size, ids) where that is read.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from scaleeq.records import Json, JsonView

from .instances import wrong_box, wrong_mask
from .panoptic_file import labels_of, read_panoptic
from .picture_file import read_rgb, require_file
from .record_file import RecordFile
from .sets.catalog import Record

SHOWN = 3


def read_coco(path: str) -> Json:
    """The content of a file. FileNotFoundError: there is none. ValueError: it is no such JSON."""
    require_file(path)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON that can be read ({error}): is it cut off? Copy it again") from error
    missing = [key for key in ("images", "annotations", "categories") if not _is_list(content, key)]
    if missing:
        raise ValueError(
            f"{path} has no list {' and no list '.join(map(repr, missing))}: COCO's files have images, annotations and "
            "categories; is it a file of results, or of captions?"
        )
    return content


def _is_list(content: object, key: str) -> bool:
    return isinstance(content, dict) and isinstance(content.get(key), list)


def categories_of(content: JsonView, path: str) -> list[Json]:
    """The categories in the order of their ids, which is that of labels. ValueError: an id twice, or none."""
    found = sorted(content["categories"], key=lambda category: category["id"])
    ids = [category["id"] for category in found]
    if not ids or len(set(ids)) < len(ids):
        raise ValueError(f"{path} has the category ids {ids}; give each category an id of its own, one at least")
    return found


def object_records(path: str, images: str) -> list[Record]:
    """A record an image, with its objects; images without objects are in it.

    path: of the JSON file. images: the folder of its images.
    FileNotFoundError: an image is missing. ValueError: the file contradicts itself; it says where and how often.
    """
    content = read_coco(path)
    labels = {category["id"]: n for n, category in enumerate(categories_of(content, path))}
    _raise_first(path, object_problems(content, labels))
    by_image: dict[object, list[Json]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        wanted = ("id", "bbox", "segmentation", "area")
        own = {key: annotation[key] for key in wanted if key in annotation}
        own |= {"category_id": labels[annotation["category_id"]], "iscrowd": annotation.get("iscrowd", 0)}
        by_image[annotation["image_id"]].append({**own, "bbox_mode": 1})
    return [
        {**_image_record(image, images), "annotations_file_name": path, "annotations": by_image[image["id"]]}
        for image in _all_there(content["images"], images, path)
    ]


def panoptic_records(path: str, images: str, pictures: str) -> list[Record]:
    """A record an image, with its panoptic segments, labels of them, and objects, those of things.

    pictures: the folder of panoptic pictures. Errors are those of object_records.
    """
    content = read_coco(path)
    categories = categories_of(content, path)
    labels = {category["id"]: n for n, category in enumerate(categories)}
    things = tuple(n for n, category in enumerate(categories) if category.get("isthing"))
    _raise_first(path, panoptic_problems(content, labels))
    lists = {annotation["image_id"]: annotation for annotation in content["annotations"]}
    records = []
    _all_there([{"file_name": annotation["file_name"]} for annotation in content["annotations"]], pictures, path)
    for image in _all_there(content["images"], images, path):
        annotation = lists[image["id"]]
        wanted = ("id", "iscrowd", "area")
        segments = [
            {**{key: each[key] for key in wanted if key in each}, "category_id": labels[each["category_id"]]}
            for each in annotation["segments_info"]
        ]
        picture = os.path.join(pictures, annotation["file_name"])
        own: Json = {"panoptic_file_name": picture, "segments_info": segments}
        record = {**_image_record(image, images), "annotations_file_name": path, **own, "thing_labels": things}
        read = functools.partial(read_panoptic_pair, image=record["file_name"], **own)
        name = RecordFile(picture, {"read": read}, "labels")
        records.append({**record, "read": read, "sem_seg_file_name": name})
    return records


def read_panoptic_pair(
    *, image: str, panoptic_file_name: str, segments_info: Sequence[JsonView]
) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W, 3) uint8 in RGB, and the labels of its segments (H, W) uint8, 255 for void and crowds."""
    ids, segments = read_panoptic({"panoptic_file_name": panoptic_file_name, "segments_info": segments_info})
    return read_rgb(image), labels_of(ids, segments)


def _image_record(image: JsonView, folder: str) -> Record:
    return {
        "file_name": os.path.join(folder, image["file_name"]),
        "image_id": image["id"],
        "height": image["height"],
        "width": image["width"],
    }


def _all_there(images: Sequence[JsonView], folder: str, path: str) -> Sequence[JsonView]:
    """The images, whose files are there. FileNotFoundError: they are not."""
    folders = {os.path.dirname(os.path.join(folder, image["file_name"])) for image in images}
    there = {os.path.join(each, name) for each in folders if os.path.isdir(each) for name in os.listdir(each)}
    missing = [each["file_name"] for each in images if os.path.join(folder, each["file_name"]) not in there]
    if missing:
        raise FileNotFoundError(
            f"{path}: {len(missing)} of {len(images)} images are missing, the first is "
            f"{os.path.join(os.path.abspath(folder), missing[0])}; complete the copy, or take them out of the file"
        )
    return images


# --- what is wrong with a file ---


class CocoMistakes(ValueError):
    """A file that cannot be meant. problems: each in a line; the message has the first, and how many there are."""

    def __init__(self, path: str, problems: Sequence[str]) -> None:
        more = f" ({len(problems) - 1} more mistakes, which `scaleeq data check` shows)" if len(problems) > 1 else ""
        super().__init__(f"{path}: {problems[0]}{more}")
        self.path = path
        self.problems = list(problems)


def _raise_first(path: str, problems: Iterator[str]) -> None:
    """CocoMistakes: there is one."""
    if found := list(problems):
        raise CocoMistakes(path, found)


def object_problems(content: JsonView, labels: Mapping[object, int]) -> Iterator[str]:
    """In words, what cannot be meant in a file of objects. labels: category id -> label."""
    yield from image_problems(content)
    images = {image.get("id"): image for image in content["images"]}
    whole = []
    for annotation in content["annotations"]:
        problem = _reference_problem(annotation, images, labels)
        if not problem and not _is_box(annotation.get("bbox")):
            problem = f"has the bbox {annotation.get('bbox')}: write [x, y, width, height] in pixels"
        if problem:
            yield f"the annotation {annotation.get('id')} {problem}"
        else:
            whole.append(annotation)
    # Boxes and masks against the size that the file gives their image.
    boxes = np.array([annotation["bbox"] for annotation in whole], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    sizes = np.array([_size(images[a["image_id"]]) for a in whole], np.float64).reshape(-1, 2)
    wrong = (boxes[:, :2] < 0) | (boxes[:, 2:] > sizes[:, ::-1]) | (boxes[:, 2:] < boxes[:, :2])
    strange = np.any(wrong | ~np.isfinite(boxes[:, :2] + boxes[:, 2:]), axis=1)
    for index, annotation in enumerate(whole):
        shape = _size(images[annotation["image_id"]])
        problem = wrong_mask(annotation, shape)
        if not problem and bool(strange[index]):
            problem = wrong_box(boxes[index], shape)
        if problem:
            name = images[annotation["image_id"]]["file_name"]
            yield f"the annotation {annotation.get('id')} of {name} has {problem}"


def panoptic_problems(content: JsonView, labels: Mapping[object, int]) -> Iterator[str]:
    """In words, what cannot be meant in a file of panoptic segments. labels: category id -> label."""
    yield from image_problems(content)
    images = {image.get("id"): image for image in content["images"]}
    listed = [annotation.get("image_id") for annotation in content["annotations"]]
    if missing := [image["file_name"] for key, image in images.items() if key not in set(listed)]:
        yield f"{len(missing)} images have no annotation, the first is {missing[0]}: take them out of images"
    if len(set(listed)) < len(listed):
        yield "an image has two panoptic annotations: give each one, with all its segments"
    for annotation in content["annotations"]:
        if annotation.get("image_id") not in images:
            yield f"a panoptic annotation is of the image {annotation.get('image_id')}, which is not in its images"
        elif not isinstance(annotation.get("segments_info"), list):
            yield f"the annotation of {annotation.get('file_name')} has no segments_info: is this a file of objects?"
        else:
            ids = [segment.get("id") for segment in annotation["segments_info"]]
            if len(set(ids)) < len(ids) or 0 in ids:
                yield f"the segments of {annotation['file_name']} have an id twice, or 0, which is void"
            strange = {segment.get("category_id") for segment in annotation["segments_info"]} - labels.keys()
            if strange:
                unknown = sorted(strange, key=str)
                yield f"the segments of {annotation['file_name']} are of the categories {unknown}: declare them"


def image_problems(content: JsonView) -> Iterator[str]:
    """In words, what is wrong with the list of images."""
    seen: dict[object, str] = {}
    for image in content["images"]:
        if missing := [key for key in ("id", "file_name", "height", "width") if key not in image]:
            yield f"the image {image.get('file_name', image)} has no {' and no '.join(missing)}: write it"
        elif image["id"] in seen:
            yield (
                f"the images {seen[image['id']]} and {image['file_name']} have the same id {image['id']}: give each "
                "its own, and its annotations too"
            )
        seen.setdefault(image.get("id"), str(image.get("file_name")))


def _reference_problem(annotation: JsonView, images: Mapping[object, Json], labels: Mapping[object, int]) -> str:
    if annotation.get("image_id") not in images:
        return (
            f"is of the image {annotation.get('image_id')}, which is not in its list of images: "
            "take it out, or complete the list"
        )
    if annotation.get("category_id") not in labels:
        known = ", ".join(map(str, list(labels)[:SHOWN])) + (", ..." if len(labels) > SHOWN else "")
        return f"is of the category {annotation.get('category_id')}; its categories are {known}: declare it"
    return ""


def _is_box(box: object) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(type(value) in (int, float) for value in box)


def _size(image: JsonView) -> tuple[int, int]:
    return int(image.get("height", 0)), int(image.get("width", 0))
