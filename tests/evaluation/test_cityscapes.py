"""Cityscapes' metrics against cityscapesscripts, which reads files in the official formats that are written here.

Scenes have what the rules are about: void and labels that are not evaluated, groups (ids below 1000), caravans with
instances, instances in pieces, classes without a pixel, classes that are predicted only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scaleeq.data.mapper import SegmentationMapper
from scaleeq.data.reading import read_instances, read_labels
from scaleeq.data.sets import camvid, cityscapes
from scaleeq.engine import DatasetCatalog
from scaleeq.evaluation.cityscapes import CATEGORIES, CLASS_TABLE, CLASSES, LABEL_IDS, InstanceIoU
from scaleeq.evaluation.confusion import ConfusionMatrix
from scaleeq.evaluation.parts import CONFUSION
from tests.data.test_camvid import REAL_ROOT

SHAPE = (48, 96)
WITH_INSTANCES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
VOID_AND_UNUSED = (0, 4, 5, 9, 14, 18, 29, 30)
TRAIN_IDS = np.array([cityscapes.LABEL_MAP[label_id] for label_id in range(34)], np.uint8)
# Of CamVid's classes, in order, labels of Cityscapes.
OF_CAMVID = ("sky", "building", "pole", "road", "sidewalk", "vegetation", "traffic sign", "fence", "car", "person",
             "bicycle")  # fmt: skip


@pytest.fixture(scope="module")
def scripts():
    """cityscapesscripts' evaluation; np.in1d, which NumPy 2.4 no longer has, is np.isin for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "in1d", np.isin, raising=False)
        module = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
        patch.setattr(module.args, "quiet", True)
        patch.setattr(module.args, "JSONOutput", False)
        yield module


def scene(rng: np.random.Generator, absent: tuple[str, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    """labelIds: (H, W) uint8, and instanceIds: (H, W) uint16, of a random scene."""
    stuff = [row[0] for row in CLASS_TABLE if row[3] is None and row[1] not in absent]
    things = [row[0] for row in CLASS_TABLE if row[3] is not None and row[1] not in absent] + [29, 30]
    labels = rng.choice([*stuff, *VOID_AND_UNUSED[:-2]], (SHAPE[0] // 8, SHAPE[1] // 8)).repeat(8, 0).repeat(8, 1)
    instances = labels.copy()
    number = dict.fromkeys(things, 0)
    for _ in range(40):
        label = int(rng.choice(things))
        y, x, height, width = rng.integers((0, 0, 1, 1), (*SHAPE, 14, 14))
        is_group = rng.random() < 0.2
        labels[y : y + height, x : x + width] = label
        instances[y : y + height, x : x + width] = label if is_group else label * 1000 + number[label]
        number[label] += not is_group
    return labels.astype(np.uint8), instances.astype(np.uint16)


def guess(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Training labels, (H, W) uint8: right on about 60 % of the pixels of evaluated classes."""
    truth, noise = TRAIN_IDS[labels], rng.integers(0, 19, labels.shape, np.uint8)
    return np.where((rng.random(labels.shape) < 0.5) & (truth != 255), truth, noise)


def official_scores(scripts, folder: Path, images: list[tuple[np.ndarray, ...]]) -> dict:
    """cityscapesscripts' results of (labelIds, instanceIds, prediction in training labels)."""
    files = []
    for index, (labels, instances, prediction) in enumerate(images):
        stem = folder / f"ulm_{index:06d}_000019"
        predicted, truth = Path(f"{stem}_predicted.png"), Path(f"{stem}_gtFine_labelIds.png")
        Image.fromarray(labels).save(truth)
        Image.fromarray(instances).save(f"{stem}_gtFine_instanceIds.png")
        Image.fromarray(np.array(LABEL_IDS, np.uint8)[prediction]).save(predicted)
        files.append((str(predicted), str(truth)))
    return scripts.evaluateImgLists(*map(list, zip(*files, strict=True)), scripts.args)


def count(images) -> dict[str, np.ndarray]:
    part, confusion = InstanceIoU(CLASSES), ConfusionMatrix(num_classes=19)
    for labels, instances, prediction in images:
        truth = TRAIN_IDS[labels]
        confusion.update(prediction, truth)
        part.update(prediction, truth, {"instance_truth": torch.from_numpy(instances.astype(np.int32))})
    return {**part.counts(), CONFUSION: confusion.counts}


def assert_official(results: dict[str, float], official: dict) -> None:
    expected = {
        "iIoU": official["averageScoreInstClasses"],
        "IoU_category": official["averageScoreCategories"],
        "iIoU_category": official["averageScoreInstCategories"],
        **{f"iIoU-{name}": official["classInstScores"][name] for name in WITH_INSTANCES},
        **{f"IoU_category-{name}": official["categoryScores"][name] for name in CATEGORIES},
        **{f"iIoU_category-{name}": official["categoryInstScores"][name] for name in ("human", "vehicle")},
    }
    assert set(results) == set(expected)
    in_percent = {name: 100 * value for name, value in expected.items()}
    assert results == pytest.approx(in_percent, abs=1e-9, rel=0, nan_ok=True)


@pytest.mark.parametrize("absent", [(), ("train", "truck", "sky"), ("person", "rider"), WITH_INSTANCES])
def test_equal_to_cityscapesscripts(scripts, tmp_path, absent):
    rng = np.random.default_rng(len(absent))
    images = [(*pair, guess(rng, pair[0])) for pair in (scene(rng, absent) for _ in range(4))]
    official = official_scores(scripts, tmp_path, images)
    counts = count(images)
    assert_official(InstanceIoU(CLASSES).results(counts), official)
    iou = ConfusionMatrix(num_classes=19)
    iou.counts += counts[CONFUSION]
    assert iou.metrics().mean_iou == pytest.approx(official["averageScoreClasses"], abs=1e-11)


def test_a_class_that_is_nowhere_is_undefined(scripts, tmp_path):
    rng = np.random.default_rng(7)
    labels, instances = scene(rng, absent=("train", "sky", "person", "rider"))
    prediction = np.where(np.isin(TRAIN_IDS[labels], 255), 0, TRAIN_IDS[labels]).astype(np.uint8)
    images = [(labels, instances, prediction)]
    results = InstanceIoU(CLASSES).results(count(images))
    assert_official(results, official_scores(scripts, tmp_path, images))
    for name in ("iIoU-train", "iIoU-person", "IoU_category-sky", "iIoU_category-human"):
        assert np.isnan(results[name])
    assert results["iIoU"] == results["iIoU_category-vehicle"] == 100


def test_halves_merge_to_the_same_bits():
    rng = np.random.default_rng(3)
    images = [(*pair, guess(rng, pair[0])) for pair in (scene(rng) for _ in range(5))]
    whole, halves = count(images), [count(images[::-2]), count(images[1::2])]
    merged = {name: halves[0][name] + halves[1][name] for name in whole}
    assert all(np.array_equal(merged[name], whole[name]) and whole[name].dtype == np.int64 for name in whole)
    assert InstanceIoU(CLASSES).results(merged) == InstanceIoU(CLASSES).results(whole)


@pytest.mark.skipif(REAL_ROOT is None, reason="no CamVid under DETECTRON2_DATASETS or ../shared/datasets")
def test_camvid_as_cityscapes(scripts, tmp_path):
    """Real label maps: connected areas of cars, people and bicycles are the instances, predictions are shifted maps."""
    import cv2

    ids = np.zeros(256, np.uint8)
    ids[:11] = [LABEL_IDS[CLASSES.index(name)] for name in OF_CAMVID]
    images = []
    for record in camvid.load_camvid("val", REAL_ROOT)[::4]:
        labels = ids[read_labels(record, num_classes=11)]
        instances = labels.astype(np.uint16)
        for label_id in (24, 26, 33):
            _, areas = cv2.connectedComponents((labels == label_id).astype(np.uint8))
            instances[areas > 0] = 1000 * label_id + areas[areas > 0] - 1
        shifted = TRAIN_IDS[np.roll(labels, (3, 5), (0, 1))]
        images.append((labels, instances, np.where(shifted == 255, 2, shifted).astype(np.uint8)))
    assert_official(InstanceIoU(CLASSES).results(count(images)), official_scores(scripts, tmp_path, images))


def test_by_hand():
    """Two persons of 4 and 1 pixels, 2 and 1 of them right; one pixel of road called person; a caravan, void."""
    instances = np.array([[24000, 24000, 24000, 24000, 24001, 7, 7, 29000]], np.int32)
    truth = np.array([[11, 11, 11, 11, 11, 0, 0, 255]], np.uint8)
    prediction = np.array([[11, 11, 12, 0, 11, 11, 0, 255]], np.uint8)
    part, confusion = InstanceIoU(CLASSES), ConfusionMatrix(num_classes=19)
    part.update(prediction, truth, {"instance_truth": instances})
    confusion.update(prediction, truth)
    results = part.results({**part.counts(), CONFUSION: confusion.counts})
    size = 3462.4756337644
    assert results["iIoU-person"] == pytest.approx(100 * 1.5 * size / (2 * size + 1), rel=1e-12)
    assert results["iIoU-rider"] == 0, "predicted, without an instance"
    assert results["iIoU_category-human"] == pytest.approx(100 * 1.75 * size / (2 * size + 1), rel=1e-12)
    assert results["IoU_category-human"] == pytest.approx(100 * 4 / 6, rel=1e-12)


def test_without_instances_there_is_no_iiou_but_categories(caplog):
    part, confusion = InstanceIoU(CLASSES), ConfusionMatrix(num_classes=19)
    labels = np.zeros((2, 2), np.uint8)
    for name in ("a.png", "b.png"):
        part.update(labels, labels, {"file_name": name})
        confusion.update(labels, labels)
    results = part.results({**part.counts(), CONFUSION: confusion.counts})
    assert np.isnan(results["iIoU"]) and results["IoU_category"] == 100
    assert caplog.text.count("no iIoU") == 1 and "a.png" in caplog.text


def test_refusals(tmp_path):
    labels = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match=r"street.png hold the id 34000"):
        sample = {"instance_truth": np.full((2, 2), 34000, np.int32), "file_name": "street.png"}
        InstanceIoU(CLASSES).update(labels, labels, sample)
    with pytest.raises(ValueError, match=r"street.png are \(1, 2\), its prediction \(2, 2\)"):
        sample = {"instance_truth": np.zeros((1, 2), np.int32), "file_name": "street.png"}
        InstanceIoU(CLASSES).update(labels, labels, sample)
    with pytest.raises(ValueError, match="19 classes"):
        InstanceIoU(["road", "car"])
    Image.fromarray(labels).save(tmp_path / "eight.png")
    with pytest.raises(ValueError, match=r"eight.png are a picture of mode L; expected one channel of 16 bits"):
        read_instances({"instance_file_name": str(tmp_path / "eight.png")})


def test_instances_reach_the_sample(tmp_path, monkeypatch):
    """From the official layout to the sample, at the original's size; without the file there are none."""
    labels, instances = scene(np.random.default_rng(0))
    base, stem = tmp_path / "cityscapes", "lindau/lindau_000001_000019"
    for file, array in (
        (f"leftImg8bit/val/{stem}_leftImg8bit.png", np.zeros((*SHAPE, 3), np.uint8)),
        (f"gtFine/val/{stem}_gtFine_labelIds.png", labels),
        (f"gtFine/val/{stem}_gtFine_instanceIds.png", instances),
    ):
        (base / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(base / file)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    mapper = SegmentationMapper(num_classes=19, test_short_side=32)
    (record,) = DatasetCatalog.get("cityscapes_sem_seg_val")
    sample = mapper(record)
    assert sample["instance_truth"].dtype == torch.int32
    np.testing.assert_array_equal(sample["instance_truth"], instances.astype(np.int64))
    (base / f"gtFine/val/{stem}_gtFine_instanceIds.png").unlink()
    (record,) = DatasetCatalog.get("cityscapes_sem_seg_val")
    assert "instance_truth" not in mapper(record)


def test_tables():
    """Names and ids are those that the data set is registered with, ids and categories cityscapesscripts'."""
    assert CLASSES == cityscapes.CLASSES
    assert tuple(row[0] for row in cityscapes.CLASS_TABLE) == LABEL_IDS
    helpers = pytest.importorskip("cityscapesscripts.helpers.labels")
    official = [label for label in helpers.labels if not label.ignoreInEval]
    assert [(label.id, label.name, label.category) for label in official] == [row[:3] for row in CLASS_TABLE]
    assert tuple(label.name for label in official if label.hasInstances) == WITH_INSTANCES
