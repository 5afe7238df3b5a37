"""Sources that tools/prepare_dataset.py cannot convert: each message names the file and the way out."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from scaleeq.data.preparation import CONVERSIONS, coco_masks, coco_stuff, pascal_context, prepare_dataset, voc2012
from scaleeq.data.preparation.conversion import Conversion, convert
from scaleeq.workers import WorkerKilledError
from tests.data.official_files import (
    rectangle,
    run_lengths,
    write_coco_stuff_v10,
    write_coco_stuff_v11,
    write_context,
    write_image,
    write_sbd,
    write_stuff,
    write_voc,
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("voc2012-trainaug", r"VOCdevkit/VOC2012\n.*VOCtrainval_11-May-2012.tar"),
        ("pascal-context", r"VOCdevkit/VOC2010\n(.|\n)*VOCtrainval_03-May-2010.tar"),
        ("coco-stuff-10k", r"coco_stuff_10k/annotations\n(.|\n)*cocostuff-10k-v1.1.zip"),
    ],
)
def test_a_missing_source_is_named_with_where_to_get_it(root, name, wanted):
    with pytest.raises(FileNotFoundError, match=f"{wanted}(.|\n)*DETECTRON2_DATASETS"):
        prepare_dataset(name)


def test_missing_parts_are_named(root):
    write_voc(root)
    (root / "VOCdevkit" / "VOCaug").rename(root / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"VOCaug/dataset/cls\n(.|\n)*benchmark.tgz"):
        prepare_dataset("voc2012-trainaug")
    write_context(root)
    (root / "VOCdevkit" / "VOC2010" / "trainval_merged.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"trainval_merged.json\n(.|\n)*codalabuser"):
        prepare_dataset("pascal-context")
    write_stuff(root / "coco_stuff10k", "v11")
    (root / "coco_stuff10k" / "imageLists" / "test.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"imageLists/test.txt"):
        prepare_dataset("coco-stuff-10k", allow_incomplete=True)
    assert set(CONVERSIONS) == {"voc2012-trainaug", "pascal-context", "coco-stuff-10k"}
    with pytest.raises(ValueError, match=r"data set is 'voc'; choose one of .*pascal-context"):
        prepare_dataset("voc")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_file_is_named_whatever_process_reads_it(root, workers):
    write_voc(root)
    path = root / "VOCdevkit" / "VOCaug" / "dataset" / "cls" / "2011_d.mat"
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(ValueError, match=r"^\S*2011_d.mat cannot be read as SBD's labels"):
        prepare_dataset("voc2012-trainaug", workers=workers, allow_incomplete=True)


def test_wrong_contents_of_matlab_files(tmp_path):
    path = tmp_path / "a.mat"
    write_sbd(path, np.full((3, 4), 21, np.uint8))
    with pytest.raises(ValueError, match=r"a.mat has labels .* from 21 to 21; expected .* 0..20"):
        voc2012.read_sbd(path)
    write_coco_stuff_v11(path, np.full((3, 4), 12, np.uint8))
    with pytest.raises(ValueError, match=r"a.mat has the values \[12\], which COCO-Stuff-10K v11 does not have"):
        coco_stuff.read_labels(path, "v11")
    with pytest.raises(ValueError, match=r"a.mat is of v11, but the others are of v10"):
        coco_stuff.read_labels(path, "v10")
    write_coco_stuff_v10(path, np.array([[0, 1, 173]], np.uint16))
    with pytest.raises(ValueError, match=r"the values \[0, 173\]"):
        coco_stuff.read_labels(path, "v10")
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ValueError, match=r"a.mat cannot be read as COCO-Stuff's labels"):
        coco_stuff.read_labels(path, "v10")
    path.write_bytes(b"PK\x03\x04 an archive")
    with pytest.raises(ValueError, match=r"a.mat is neither a MATLAB 5 nor a MATLAB 7.3 file"):
        coco_stuff.read_labels(path, "v11")


def test_labels_of_another_size_than_the_image(root):
    write_stuff(root / "coco_stuff10k", "v11")
    write_image(root / "coco_stuff10k" / "images" / "COCO_train2014_test.jpg", 2, 172)
    with pytest.raises(ValueError, match=r"test.mat has labels of \(172, 2\).*test.jpg is \(2, 172\)"):
        prepare_dataset("coco-stuff-10k", allow_incomplete=True)


def test_wrong_jsons(root):
    write_context(root, annos_segmentation=[])
    with pytest.raises(ValueError, match=r"trainval_merged.json has no 'annos_segmentation' with category_id"):
        prepare_dataset("pascal-context", allow_incomplete=True)
    path = root / "VOCdevkit" / "VOC2010" / "trainval_merged.json"
    path.write_text(path.read_text()[:-9])
    with pytest.raises(ValueError, match=r"trainval_merged.json is not a whole json file.*codalabuser"):
        prepare_dataset("pascal-context", allow_incomplete=True)
    image = {"file_name": "a.jpg", "height": 6, "width": 9}
    with pytest.raises(ValueError, match=r"x.json has category 7 in a.jpg.*459"):
        pascal_context.paint(image, [{"category_id": 7, "segmentation": run_lengths(rectangle(0, 0, 1, 1))}], "x.json")
    with pytest.raises(ValueError, match=r"x.json has a mask of \(9, 6\)"):
        pascal_context.paint(
            image, [{"category_id": 2, "segmentation": run_lengths(rectangle(0, 0, 1, 1).T)}], "x.json"
        )


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [6, 9], "counts": "1"}, "do not add up to its 6 x 9 pixels"),
        ({"size": [6, 9], "counts": b"f1f1"}, "do not add up"),
        ({"size": [6, 9], "counts": [0, 1 << 33]}, "do not add up"),
        ({"size": [6, 9], "counts": [-6, 60]}, "do not add up"),
        ({"size": [6, 9], "counts": [3.5, 50.5]}, "no whole numbers"),
        ({"size": [6, 9], "counts": "oooooooooooo"}, "cut off or damaged"),
        ({"size": [6, 9], "counts": "f"}, "cut off or damaged"),
        ({"size": [6, 9], "counts": "é"}, "cut off or damaged"),
        ({"size": [6, 9], "counts": ""}, "cut off or damaged"),
        ({"size": [6, 9], "counts": None}, "neither text nor a list"),
        ({"size": [100_000, 1_000_000], "counts": "1"}, r"mask of \(100000, 1000000\)"),
        ({"size": 6, "counts": "1"}, "mask of 6"),
        ({"counts": "1"}, "neither run lengths"),
        ("11", "neither run lengths"),
        ([], "without a polygon"),
        ([[0, 0, 1, 0, 1]], "three corners"),
        ([[0, 0, 1, 0, 1, "1"]], "no numbers"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "far outside"),
        ([[0, 0, float("nan"), 0, 1, 1]], "far outside"),
    ],
)
def test_forged_masks_are_refused(segmentation, message):
    """pycocotools ends the process, keeps it busy, or reads foreign memory for most of them."""
    image = {"file_name": "a.jpg", "height": 6, "width": 9}
    with pytest.raises(ValueError, match=rf"x.json has a .*{message}.*; it is of a.jpg"):
        pascal_context.paint(image, [{"category_id": 2, "segmentation": segmentation}], "x.json")


@pytest.mark.parametrize("size", [(-6, 9), ("6", 9), (6, 1 << 40), (6.0, 9), (None, 9)])
def test_forged_sizes_are_refused(size):
    with pytest.raises(ValueError, match=r"x.json gives a.jpg the size"):
        pascal_context.paint({"file_name": "a.jpg", "height": size[0], "width": size[1]}, [], "x.json")


def test_masks_are_pycocotools():
    rng = np.random.default_rng(0)
    for index in range(60):
        height, width = (int(side) for side in rng.integers(1, 300, 2))
        mask = (rng.random((height, width)) < (index % 5) / 4).astype(np.uint8)
        if index % 2:
            mask = (np.add.outer(np.arange(height), np.arange(width)) % (index + 3) < 4).astype(np.uint8)
        coded = coco_mask.encode(np.asfortranarray(mask))
        np.testing.assert_array_equal(coco_masks.decode(coded, height, width), mask)
        polygons = (rng.random((2, 8)) * min(height, width)).tolist()
        expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))
        np.testing.assert_array_equal(coco_masks.decode(polygons, height, width), expected)


@pytest.mark.parametrize("read", [voc2012.read_sbd, coco_stuff.version_of, pascal_context.read_json])
def test_a_named_pipe_as_a_source_is_told_at_once(tmp_path, read):
    os.mkfifo(tmp_path / "a")
    signal.alarm(10)
    with pytest.raises(OSError, match=r"a cannot be read: it is a named pipe"):
        read(str(tmp_path / "a"))
    signal.alarm(0)


def kill_this_process() -> np.ndarray:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_killed_process_is_told(tmp_path):
    one = Conversion(target=str(tmp_path / "a.png"), image="a.jpg", source="a.mat", read=kill_this_process)
    with pytest.raises(WorkerKilledError, match=r"worker processes was killed.*memory.*fewer.*goes on"):
        convert([one] * 4, "X", 2)
