"""Records as Detectron2's own DatasetMapper and SemSegEvaluator read them, in the layouts that the data sets come in.

Oracle: read_labels, whose values tests/data hold to the official tables; Detectron2 itself, where it is installed. Its
readers open every file through iopath, which is asked directly where it is not.
"""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from iopath.common.file_io import PathManager
from PIL import Image

from scaleeq import engine
from scaleeq.data import RecordFileHandler, find_dataset, read_image, read_labels, register_dataset
from scaleeq.data.reading import has_labels
from scaleeq.data.record_file import RecordFile, with_label_file
from scaleeq.engine import DatasetCatalog, MetadataCatalog
from tests.data.layout_files import image, write, write_ade20k, write_cityscapes, write_list, write_voc

needs_detectron2 = pytest.mark.skipif(engine.NAME != "detectron2", reason="the readers of the real Detectron2")
RAW = np.array([[0, 1, 2, 3], [4, 5, 10, 0]], np.uint8)
VOID = np.array([[255, 0, 1, 2], [3, 4, 9, 255]], np.uint8)


def write_pair(root: Path, image_file: str, labels_file: str, labels: np.ndarray, palette: bool = False) -> None:
    write(root / image_file, image(*labels.shape))
    write(root / labels_file, labels, palette=palette)


def write_context(root: Path) -> None:
    base = root / "VOCdevkit" / "VOC2010"
    write_pair(base, "JPEGImages/a.jpg", "SegmentationClassContext/a.png", RAW)
    write_list(base / "ImageSets" / "SegmentationContext" / "val.txt", ["a"])


def write_own(root: Path) -> None:
    write_pair(root, "own/images/a.png", "own/labels/a.png", VOID % 11, palette=True)
    (root / "own" / "classes.txt").write_text("\n".join(f"class {label}" for label in range(11)))


CITY = np.array([[0, 7, 8, 11], [33, 12, 26, 34 - 1]], np.uint8)
TRAIN_IDS = np.array([[255, 0, 1, 2], [18, 3, 13, 18]], np.uint8)
STUFF = "coco_stuff10k"
# Data set, how its files are written, and the labels that a user of Detectron2 expects.
LAYOUTS = {
    "CamVid's void": ("camvid_sem_seg_val", lambda root: write_pair(
        root, "CamVid/val/a.png", "CamVid/valannot/a.png", np.array([[0, 11, 10, 5]], np.uint8)), [[0, 255, 10, 5]]),
    "ADE20K's archive": ("ade20k_150_val", lambda root: write_ade20k(root, "validation", "a", RAW), VOID),
    "ADE20K by Detectron2's script": ("ade20k_150_val", lambda root: write_ade20k(
        root, "validation", "a", VOID, annotations="annotations_detectron2"), VOID),
    "ADE20K, HRNet's folders": ("ade20k_150_val", lambda root: write_pair(
        root, "ade20k/val/image/a.jpg", "ade20k/val/label/a.png", RAW), VOID),
    "VOC's palette": ("voc2012_sem_seg_val", lambda root: write_voc(
        root, "SegmentationClass", "val", {"a": VOID}, palette=True), VOID),
    "VOC in grey": ("voc2012_sem_seg_val", lambda root: write_voc(
        root, "SegmentationClass", "val", {"a": VOID}, palette=False), VOID),
    "Cityscapes' labelIds": ("cityscapes_sem_seg_val", lambda root: write_cityscapes(
        root, "val", "ulm", "000000", CITY), TRAIN_IDS),
    "Cityscapes' labelTrainIds": ("cityscapes_sem_seg_val", lambda root: write_cityscapes(
        root, "val", "ulm", "000000", TRAIN_IDS, ids="labelTrainIds"), TRAIN_IDS),
    "Pascal-Context of 59": ("pascal_context_59_sem_seg_val", write_context, VOID),
    "Pascal-Context of 60": ("pascal_context_60_sem_seg_val", write_context, RAW),
    "COCO-Stuff of mmsegmentation": ("coco_stuff_10k_v11_sem_seg_test", lambda root: write_pair(
        root, f"{STUFF}/images/test2014/a.jpg", f"{STUFF}/annotations/test2014/a_labelTrainIds.png", RAW), VOID),
    "LIP": ("lip_sem_seg_val", lambda root: write_pair(
        root, "LIP/val_images/a.jpg", "LIP/val_segmentations/a.png", VOID % 20), VOID % 20),
    "a folder's palette": ("folder:own", write_own, VOID % 11),
}  # fmt: skip


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS)
def layout(request, root):
    """Name, records and expected labels."""
    name, write_files, expected = request.param
    write_files(root)
    find_dataset(name)
    return name, DatasetCatalog.get(name), np.array(expected)


# ---------------------------------------------------------------------------------------------------- everywhere


def test_files_by_iopath(layout):
    _, (record,), expected = layout
    manager = PathManager()
    manager.register_handler(RecordFileHandler())
    for again in (record, copy.deepcopy(record), pickle.loads(pickle.dumps(record))):
        path = again["sem_seg_file_name"]
        with manager.open(path, "rb") as file, Image.open(file) as picture:
            assert picture.mode == "L" and np.array_equal(np.asarray(picture), expected)
        assert manager.isfile(path) and manager.exists(path) and manager.get_local_path(path) == str(path)
        assert np.array_equal(read_labels(again), expected)


def test_it_is_a_path_for_all_others(layout):
    _, (record,), _ = layout
    path = record["sem_seg_file_name"]
    assert os.path.isfile(path) and str(path) == path and hash(path) == hash(str(path))
    with Image.open(path) as picture:  # as it is stored
        assert picture.mode in ("L", "P")
    assert path.startswith(str(path)[:5]) and not path.startswith("https://")


def test_what_is_no_picture_is_refused():
    handler = RecordFileHandler()
    ours = with_label_file({"sem_seg_file_name": "a.png"})["sem_seg_file_name"]
    for path, mode in (("scaleeq-record://a.png", "rb"), (ours, "w")):
        with pytest.raises(ValueError, match="can be read as a picture alone"):
            handler._open(path, mode)


def test_records_of_ones_own(tmp_path):
    """Whoever registers records with a label_map has them read by it, and his records stay as they are."""
    write(tmp_path / "a.png", RAW)
    own = {"file_name": "a.jpg", "sem_seg_file_name": tmp_path / "a.png", "label_map": {0: 255, 10: 0}}
    register_dataset("ones_own", lambda: [own, {"file_name": "b.jpg"}], classes=["a", "b"], colors=[(0, 0, 0)] * 2)
    record, unlabelled = DatasetCatalog.get("ones_own")
    DatasetCatalog.remove("ones_own")
    MetadataCatalog.remove("ones_own")
    assert own["sem_seg_file_name"] == tmp_path / "a.png" and "sem_seg_file_name" not in unlabelled
    with Image.open(RecordFileHandler()._open(record["sem_seg_file_name"], "rb")) as picture:
        assert np.asarray(picture).tolist() == [[255, 1, 2, 3], [4, 5, 0, 255]]


def test_scenes_have_files_that_are_nowhere():
    record = DatasetCatalog.get("toy_sem_seg_val")[3]
    handler = RecordFileHandler()
    assert isinstance(record["file_name"], RecordFile) and not os.path.exists(record["file_name"])
    drawn = np.asarray(Image.open(handler._open(record["file_name"], "rb")))
    labels = np.asarray(Image.open(handler._open(record["sem_seg_file_name"], "rb")))
    assert np.array_equal(drawn, read_image(record)) and np.array_equal(labels, read_labels(record))


# ---------------------------------------------------------------------------------------------------- Detectron2


@needs_detectron2
def test_detectron2s_mapper(layout):
    from detectron2.data import DatasetMapper

    _, (record,), expected = layout
    mapper = DatasetMapper(is_train=True, augmentations=[], image_format="RGB")
    sample = mapper(record)
    assert sample["sem_seg"].dtype == torch.int64 and np.array_equal(sample["sem_seg"].numpy(), expected)
    assert np.array_equal(sample["image"].numpy(), read_image(record).transpose(2, 0, 1))


@needs_detectron2
def test_detectron2s_evaluator(layout):
    """All right but one pixel: void has no part in it, and a class is counted where it is."""
    from detectron2.evaluation import SemSegEvaluator

    name, (record,), expected = layout
    num_classes = len(MetadataCatalog.get(name).stuff_classes)
    predicted = np.where(expected == 255, 0, expected)
    row, column = np.argwhere(expected != 255)[0]
    predicted[row, column] = (expected[row, column] + 1) % num_classes
    scores = torch.nn.functional.one_hot(torch.as_tensor(predicted).long(), num_classes).permute(2, 0, 1)
    evaluator = SemSegEvaluator(name, distributed=False)
    evaluator.reset()
    evaluator.process([{"file_name": record["file_name"]}], [{"sem_seg": scores}])
    results = evaluator.evaluate()["sem_seg"]
    counted = int((expected != 255).sum())
    assert results["pACC"] == pytest.approx(100 * (counted - 1) / counted)
    assert evaluator._conf_matrix[:, :num_classes].sum() == counted


@needs_detectron2
def test_detectron2s_loader_reads_scenes_in_its_workers():
    from detectron2.data import DatasetMapper, build_detection_test_loader

    records = DatasetCatalog.get("toy_sem_seg_val")[:3]
    mapper = DatasetMapper(is_train=False, augmentations=[], image_format="RGB")
    for record, (sample,) in zip(
        records, build_detection_test_loader(records, mapper=mapper, num_workers=1), strict=True
    ):
        assert np.array_equal(sample["image"].numpy(), read_image(record).transpose(2, 0, 1))
        assert np.array_equal(sample["sem_seg"].numpy(), read_labels(record)) and has_labels(record)
