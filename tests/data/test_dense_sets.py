"""Data sets of several dense tasks: files written in each layout, read as what they mean; wrong maps are told."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import scipy.io

from scaleeq.data import find_dataset
from scaleeq.data.check.splits import names_of
from scaleeq.data.maps import read_map
from scaleeq.data.reading import read_image, read_labels
from scaleeq.data.sets import dense
from scaleeq.data.surface import normals_from_depth
from scaleeq.data.thinning import thin
from scaleeq.engine import DatasetCatalog
from scaleeq.pictures import UNKNOWN_COLOR
from scaleeq.reports.data import ALL, check_datasets, draw_sheets

from .layout_files import image, write

HERE = Path(__file__).resolve()
CANDIDATES = [os.environ.get("DETECTRON2_DATASETS", "datasets"), HERE.parents[3] / "shared" / "datasets"]
RGBD = next((path for root in CANDIDATES if (path := Path(root).resolve() / "rgbd_kinect2_sample").is_dir()), None)
RNG = np.random.default_rng(0)
SIZE = (12, 16)
DEPTH = np.where(RNG.random(SIZE) < 0.1, 0, RNG.uniform(0.5, 9, SIZE)).astype(np.float32)
NORMALS = RNG.normal(size=(*SIZE, 3))
NORMALS = (NORMALS / np.linalg.norm(NORMALS, axis=2, keepdims=True)).astype(np.float32)
NORMALS[0] = 0
HOLE = np.ones((128, 128), np.float32)
HOLE[10:20, 30:60] = 0
EDGES = np.zeros(SIZE, np.uint8)
EDGES[5], EDGES[:, 3] = 1, 1


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)


def lines(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names) + "\n")


def png_normals() -> np.ndarray:
    return np.rint((NORMALS + 1) / 2 * 255).astype(np.uint8)


@pytest.mark.parametrize("variant", ["MTI-Net", "ATRC"])
def test_nyud_mt(root, variant):
    base = root / "NYUD_MT"
    raw = RNG.integers(0, 41, SIZE, np.uint8)
    for name in ("0001", "0002"):
        write(base / "images" / f"{name}.{'jpg' if variant == 'MTI-Net' else 'png'}", image(*SIZE))
        write(base / "segmentation" / f"{name}.png", raw)
    save(base / "depth" / "0001.npy", DEPTH)
    if variant == "MTI-Net":
        save(base / "normals" / "0001.npy", NORMALS)
        save(base / "edge" / "0001.npy", EDGES.astype(np.float32))
    else:
        write(base / "normals" / "0001.png", png_normals())
        write(base / "edge" / "0001.png", EDGES * 255)
    lines(base / "gt_sets" / "train.txt", "0002", "0001")
    second, first = DatasetCatalog.get("nyud_mt_train")
    assert (read_labels(first, num_classes=40) == np.where(raw == 0, 255, raw - 1)).all()
    np.testing.assert_array_equal(read_map(first, "depth"), DEPTH)
    assert (read_map(first, "edges") == EDGES).all()
    found = read_map(first, "normals")
    assert np.abs(found - NORMALS).max() < 0.01 and not found[0].any()
    assert all(read_map(second, key) is None for key in ("depth", "normals", "edges"))
    lines(base / "normals.txt", "1 -1 -1")
    turned = read_map(DatasetCatalog.get("nyud_mt_train")[1], "normals")
    np.testing.assert_allclose(turned, found * [1, -1, -1])
    lines(base / "gt_sets" / "train.txt", "0001", "0009")
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images are missing.*0009"):
        DatasetCatalog.get("nyud_mt_train")


def test_mtan_s_arrays(root):
    base = root / "nyuv2" / "train"
    labels = RNG.integers(-1, 13, SIZE).astype(np.float64)
    shares = RNG.random((*SIZE, 3))
    for number in (0, 10, 2):
        save(base / "image" / f"{number}.npy", shares)
        save(base / "label" / f"{number}.npy", labels)
        save(base / "depth" / f"{number}.npy", DEPTH[..., None])
        save(base / "normal" / f"{number}.npy", NORMALS)
    records = DatasetCatalog.get("nyuv2_mtan_train")
    assert [record["image_id"] for record in records] == ["0", "2", "10"]
    assert (read_image(records[0]) == np.rint(shares * 255)).all()
    assert (read_labels(records[0], num_classes=13) == np.where(labels < 0, 255, labels)).all()
    np.testing.assert_array_equal(read_map(records[0], "depth"), DEPTH)
    assert np.allclose(read_map(records[0], "normals"), NORMALS, atol=1e-6)


def write_nyuv2(base: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three small images in HDF5, whose axes are MATLAB's reversed."""
    base.mkdir(parents=True, exist_ok=True)
    images = RNG.integers(0, 256, (3, 3, SIZE[1], SIZE[0]), np.uint8)
    depths = RNG.uniform(1, 9, (3, SIZE[1], SIZE[0])).astype(np.float32)
    labels = RNG.integers(0, 895, (3, SIZE[1], SIZE[0])).astype(np.uint16)
    with h5py.File(base / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as file:
        for name, values in (("images", images), ("rawDepths", depths), ("depths", depths + 1), ("labels", labels)):
            file.create_dataset(name, data=values)
    scipy.io.savemat(base / "splits.mat", {"trainNdxs": np.array([[1], [3]]), "testNdxs": np.array([[2]])})
    return images, depths, labels


def test_the_official_nyuv2(root, monkeypatch):
    base = root / "nyuv2"
    images, depths, labels = write_nyuv2(base)
    first, third = DatasetCatalog.get("nyuv2_train")
    assert (first["image_id"], third["image_id"]) == ("0001", "0003")
    assert (read_image(third) == images[2].transpose(2, 1, 0)).all()
    np.testing.assert_array_equal(read_map(third, "depth"), depths[2].T)
    (report,) = check_datasets(["nyuv2_train"], sample=ALL, workers=0)
    assert not report.faults and report.totals.maps == {"depth": 2}
    mapping = RNG.integers(1, 41, (1, 894))
    scipy.io.savemat(base / "classMapping40.mat", {"mapClass": mapping})
    (test,) = DatasetCatalog.get("nyuv2_test")
    expected = np.concatenate([[255], mapping[0] - 1])[labels[1].T]
    assert (read_labels(test, num_classes=40) == expected).all()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"nyu_depth_v2_labeled\.mat is read by h5py.*pip install h5py"):
        read_map(third, "depth")


def write_pascal(base: Path) -> None:
    for name in ("2008_1", "2008_2"):
        write(base / "JPEGImages" / f"{name}.jpg", image(*SIZE))
    write(base / "semseg" / "VOC12" / "2008_1.png", np.full(SIZE, 15, np.uint8))
    lines(base / "ImageSets" / "Context" / "train.txt", "2008_1", "2008_2")
    context = np.full(SIZE, 3, np.uint16)
    context[:, 8:] = 20
    (base / "pascal-context" / "trainval").mkdir(parents=True)
    scipy.io.savemat(base / "pascal-context" / "trainval" / "2008_1.mat", {"LabelMap": context})
    (base / "human_parts").mkdir()
    person, head = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    person[2:9, 2:9], head[2:4, 2:9] = 1, 1
    part = np.array([[("head", head)]], dtype=[("part_name", object), ("mask", object)])
    kinds = [("class", object), ("class_ind", object), ("mask", object), ("parts", object)]
    things = np.array([[("person", 15, person, part), ("dog", 12, 1 - person, np.zeros((0, 0)))]], dtype=kinds)
    anno = np.array([[("2008_1", things)]], dtype=[("imname", object), ("objects", object)])
    scipy.io.savemat(base / "human_parts" / "2008_1.mat", {"anno": anno})
    write(base / "normals_distill" / "2008_1.png", png_normals())
    write(base / "sal_distill" / "2008_1.png", RNG.integers(0, 256, SIZE, np.uint8))


def test_pascal_mt(root, caplog):
    write_pascal(root / "PASCAL_MT")
    with caplog.at_level("WARNING", logger="scaleeq"):
        first, second = DatasetCatalog.get("pascal_mt_train")
    assert "1 of 2 images have no sem_seg" in caplog.text and "2008_2" in caplog.text
    assert (read_labels(first) == 15).all() and "sem_seg_file_name" not in second
    edges = read_map(first, "edges")
    assert edges[1:-1].sum(1).tolist() == [1] * (SIZE[0] - 2) and edges[:, 7:9].sum() == edges.sum(), "one pixel wide"
    parts = read_map(first, "human_parts")
    assert parts[2, 2] == 1 and parts[8, 8] == 0 and (parts == 1).sum() == 14 and 255 not in parts
    grey = cv2.imread(str(root / "PASCAL_MT" / "sal_distill" / "2008_1.png"), cv2.IMREAD_GRAYSCALE)
    assert (read_map(first, "saliency") == (grey > 127)).all()
    assert np.abs(read_map(first, "normals") - NORMALS)[1:].max() < 0.02


def test_cityscapes_depth(root):
    base, name = root / "cityscapes", "ulm_000001_000019"
    raw = np.full(SIZE, 7, np.uint8)
    raw[0], raw[1] = 1, 23  # the car itself, and sky
    disparity = np.full(SIZE, 1 + 256 * 20, np.uint16)
    disparity[5] = 0
    write(base / "leftImg8bit" / "train" / "ulm" / f"{name}_leftImg8bit.png", image(*SIZE))
    write(base / "gtFine" / "train" / "ulm" / f"{name}_gtFine_labelIds.png", raw)
    write(base / "disparity" / "train" / "ulm" / f"{name}_disparity.png", disparity)
    with pytest.raises(FileNotFoundError, match=r"camera_trainvaltest\.zip"):
        dense.load_cityscapes_depth("train", str(root))
    camera = base / "camera" / "train" / "ulm" / f"{name}_camera.json"
    lines(camera, json.dumps({"extrinsic": {"baseline": 0.209313}, "intrinsic": {"fx": 2262.52}}))
    (record,) = DatasetCatalog.get("cityscapes_depth_train")
    depth = read_map(record, "depth")
    assert not depth[[0, 1, 5]].any() and depth[2, 2] == pytest.approx(0.209313 * 2262.52 / 20, rel=1e-6)
    lines(camera, "{}")
    with pytest.raises(ValueError, match=r"camera\.json has no extrinsic\.baseline"):
        read_map(record, "depth")


# --- folders, and what is wrong ---


def write_folder(base: Path, **maps: np.ndarray) -> str:
    for name in ("a", "b"):
        write(base / "images" / f"{name}.png", image(*SIZE))
    for key, values in maps.items():
        is_picture = values.dtype.kind == "u"
        (write if is_picture else save)(base / key / ("a.png" if is_picture else "a.npy"), values)
    return f"folder:{base}"


@pytest.mark.parametrize("unit", ["", "0.0002"])
def test_a_folder_with_maps_and_without_classes(root, unit):
    base = root / "mine"
    name = write_folder(base, depth=np.rint(DEPTH * 1000).astype(np.uint16), normals=png_normals(), edges=EDGES * 255)
    if unit:
        lines(base / "depth.txt", unit)
    assert list(find_dataset(name).stuff_classes) == []
    first, second = DatasetCatalog.get(name)
    np.testing.assert_allclose(read_map(first, "depth"), DEPTH * (0.2 if unit else 1), atol=6e-4)
    assert (read_map(first, "edges") == EDGES).all() and read_map(second, "depth") is None
    (report,) = check_datasets([name], sample=ALL, workers=0)
    assert not report.faults and "depth of 1 images" in report.text()
    lines(base / "depth.txt", "millimetres")
    with pytest.raises(ValueError, match=r"depth\.txt holds 'millimetres'; expected what 1 means in metres"):
        DatasetCatalog.get(name)


def changed(values: np.ndarray, value: float) -> np.ndarray:
    result = values.copy()
    result[3, 4] = value
    return result


WRONG = {
    "millimetres as metres": ("depth", DEPTH * 1000, "looks like millimetres.*depth.txt with 0.001"),
    "8 bits": ("depth", (DEPTH * 20).astype(np.uint8), "8 bits a pixel, too few for distances.*16 bits"),
    "8 bits in an array": ("depth", np.full(SIZE, 3, np.int8), "8 bits a pixel .int8., too few for distances"),
    "metres as millimetres": ("depth", np.full(SIZE, 3, np.uint16), "median of 3 mm.*Say what 1 means"),
    "the largest number": ("depth", np.full(SIZE, 65535, np.uint16), "65535, the largest.*100 %.*unknown.*Write 0"),
    "negative": ("depth", changed(DEPTH, -1), "1 values that are no distance, the first is -1; write 0"),
    "NaN": ("depth", changed(DEPTH, np.nan), "no distance, the first is nan; write 0"),
    "infinite": ("depth", changed(DEPTH, np.inf), "no distance, the first is inf; write 0"),
    "another size": ("depth", DEPTH[:, :9], r"a.png is \(12, 16\).*depth .*a.npy are \(12, 9\).*belong together"),
    "no normals": ("normals", NORMALS * 0, "nothing is known in any pixel of the normals .*a.npy"),
    "half as long": ("normals", NORMALS / 2, "median length of 0.50: divide them by it"),
    "0 to 255": ("normals", (NORMALS + 1).astype(np.float32) * 127.5, "0..255.*x / 127.5 - 1"),
    "0 to 1": ("normals", (NORMALS + 1) / 2, r"all in 0..1: is this .n . 1. / 2. Write 2 x - 1"),
    "NaN normals": ("normals", changed(NORMALS, np.nan), "normals .*a.npy hold NaN or infinity; write .0, 0, 0."),
    "two channels": ("normals", NORMALS[..., :2], r"shape \(12, 16, 2\); expected \(height, width, 3\)"),
    "soft edges": ("edges", EDGES * 200 + 20, "edges .*a.png hold values beside 0 and 1.*soft"),
    "soft edges in an array": ("edges", DEPTH / 9, "edges .*a.npy hold values beside 0 and 1.*soft"),
    "edges in colour": ("edges", np.stack([EDGES * 255] * 3, 2), r"shape \(12, 16, 3\); expected one channel"),
    "no such part": ("human_parts", np.full(SIZE, 9, np.uint8), "hold 9, which is no part: 0 background.*255 unknown"),
    "inverted edges": ("edges", 1 - EDGES, "cover .* % of the pixels: are they inverted"),
    "saliency below 0": ("saliency", DEPTH - 5, "saliency .* outside 0..255"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=list(WRONG))
def test_what_is_wrong_with_a_map_is_told_by_file_and_remedy(root, case):
    key, values, message = case
    name = write_folder(root / "own", **{key: values})
    (report,) = check_datasets(names_of(name), sample=ALL, workers=0)
    text = " ".join(report.text().split())
    assert re.search(message, text), text
    assert f"own/{key}/a." in text and (report.faults or key == "normals")
    if "any pixel" not in message and "together" not in message:
        with pytest.raises(ValueError, match=message):
            read_map(DatasetCatalog.get(name)[0], key)


def test_a_line_of_a_split_without_a_file_is_told_and_the_rest_is_checked(root):
    base = root / "NYUD_MT"
    for name in ("0001", "0002"):
        write(base / "images" / f"{name}.png", image(*SIZE))
        write(base / "segmentation" / f"{name}.png", RNG.integers(0, 41, SIZE, np.uint8))
    save(base / "depth" / "0001.npy", DEPTH * 1000)
    lines(base / "gt_sets" / "train.txt", "0001", "0002", "0009")
    (report,) = check_datasets(["nyud_mt_train"], sample=ALL, workers=0)
    assert [finding.kind for finding in report.faults] == ["incomplete", "wrong map"]
    assert "1 of 3 images are missing" in report.text() and "0009" in report.text()
    assert report.totals.maps == {} and report.totals.read == 2


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
@pytest.mark.parametrize("written", ["", "1 -1 1"])
def test_axes_the_other_way_round_are_told_with_the_line_that_turns_them(root, signs, written):
    """Oracle: the signs by which exact normals of scenes were multiplied; with that line there is nothing to tell."""
    base, scenes = root / "own", DatasetCatalog.get("toy3d_val")[:3]
    base.mkdir()
    if written:
        lines(base / "normals.txt", written)
    for number, scene in enumerate(scenes):
        write(base / "images" / f"{number}.png", read_image(scene))
        save(base / "depth" / f"{number}.npy", read_map(scene, "depth"))
        save(base / "normals" / f"{number}.npy", (read_map(scene, "normals") * signs).astype(np.float32))
    (report,) = check_datasets([f"folder:{base}"], sample=ALL, workers=0)
    if signs == ((1, -1, 1) if written else (1, 1, 1)):
        assert report.findings == []
        return
    (finding,) = report.findings
    line = " ".join(map(str, signs))
    assert finding.kind == "mirrored" and finding.is_fault and finding.count == 3
    assert "the other way round" in finding.advice and finding.advice.endswith(f"with the line {line}")
    lines(base / "normals.txt", line)
    (report,) = check_datasets([f"folder:{base}"], sample=ALL, workers=0)
    assert report.findings == []


def test_normals_of_other_images_are_a_note(root):
    base, scenes = root / "own", DatasetCatalog.get("toy3d_val")[:4]
    for number, scene in enumerate(scenes):
        write(base / "images" / f"{number}.png", read_image(scene))
        save(base / "depth" / f"{number}.npy", read_map(scene, "depth"))
        save(base / "normals" / f"{number}.npy", read_map(scene, "normals")[..., [1, 0, 2]].copy())
    (report,) = check_datasets([f"folder:{base}"], sample=ALL, workers=0)
    (finding,) = report.findings
    assert finding.kind == "unlike depth" and not finding.is_fault and "are axes exchanged" in finding.advice


def test_the_sheet_draws_each_map_and_says_what_cannot_be_read(root):
    """Exact colours: directions as (n + 1) / 2, unknown grey, the first faulty record shown first."""
    base, scenes = root / "own", DatasetCatalog.get("toy3d_val")[:2]
    for number, scene in enumerate(scenes):
        write(base / "images" / f"{number}.png", read_image(scene))
        save(base / "depth" / f"{number}.npy", read_map(scene, "depth") * HOLE)
        save(base / "normals" / f"{number}.npy", read_map(scene, "normals") * HOLE[..., None])
    (base / "depth" / "1.npy").write_bytes(b"")
    (report,) = check_datasets([f"folder:{base}"], sample=ALL, workers=0)
    (path,) = draw_sheets([report], root / "sheet.png")
    pixels = cv2.imread(str(path))[..., ::-1].reshape(-1, 3)
    colors, counts = np.unique(pixels, axis=0, return_counts=True)
    found = {tuple(color): int(count) for color, count in zip(colors.tolist(), counts.tolist(), strict=True)}
    up = (128, 0, 128)
    expected = sum((np.abs(read_map(scene, "normals") - [0, -1, 0]).max(2) < 1e-6).sum() for scene in scenes)
    assert found[up] >= 4 * 0.9 * expected, "the floor, twice as large a side"
    assert found[UNKNOWN_COLOR] > 3 * 4 * (HOLE == 0).sum() * 0.9
    assert found[(200, 30, 30)] > 10, "words in red"


def test_a_cut_off_array_is_told(root):
    name = write_folder(root / "own", depth=DEPTH)
    path = root / "own" / "depth" / "a.npy"
    path.write_bytes(path.read_bytes()[:200])
    (report,) = check_datasets([name], sample=ALL, workers=0)
    assert [finding.kind for finding in report.faults] == ["unreadable map"]


@pytest.mark.skipif(RGBD is None, reason="no rgbd_kinect2_sample under DETECTRON2_DATASETS or ../shared/datasets")
def test_a_real_pair_is_read_checked_and_has_normals(root):
    for kind, file in (("images", "rgb.png"), ("depth", "depth.png")):
        (root / "real" / kind).mkdir(parents=True)
        os.symlink(RGBD / file, root / "real" / kind / "0.png")
    (report,) = check_datasets(["folder:real"], sample=ALL, workers=0)
    assert not report.faults and report.totals.maps == {"depth": 1}
    depth = read_map(DatasetCatalog.get("folder:real")[0], "depth")
    assert depth.shape == (1080, 1440) and 0.045 < (depth == 0).mean() < 0.065
    assert 0.3 < np.median(depth[depth > 0]) < 8
    normals = normals_from_depth(depth, focal_px=1080.0, smooth_px=4)
    known = np.linalg.norm(normals, axis=2) > 0.5
    assert known.mean() > 0.5 and not known[depth == 0].any()
    assert (normals[known][:, 2] < 0).mean() > 0.9, "towards the camera"
    # As a truth of its own it has the axes of its depth; mirrored, that is told. The sheet has both.
    for sign, kinds in ((1, []), (-1, ["mirrored"])):
        save(root / "real" / "normals" / "0.npy", normals * np.array([1, sign, 1], np.float32))
        (report,) = check_datasets(["folder:real"], sample=ALL, workers=0)
        assert [finding.kind for finding in report.findings] == kinds
    (path,) = draw_sheets([report], root / "sheet.png")
    assert (cv2.imread(str(path)) == UNKNOWN_COLOR).all(-1).sum() > 0.045 * 300 * 225


def test_thin_lines_stay_and_wide_ones_become_thin():
    mask = np.zeros((20, 20), bool)
    mask[9:12, 2:18] = True
    found = thin(mask)
    assert found.sum(0)[4:16].tolist() == [1] * 12 and found[10, 4:16].all()
    assert (thin(found) == found).all()
