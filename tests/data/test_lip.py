"""LIP's layouts, and labels of left and right when an image is flipped.

Oracles: the authors' order of classes, a few rows of which are literal here; the arrays that the files were made of.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from scaleeq.config import add_scaleeq_config
from scaleeq.data.augmentation import TrainAugmentation
from scaleeq.data.mapper import SegmentationMapper, shared_flip_pairs
from scaleeq.data.reading import read_labels
from scaleeq.data.sets import lip
from scaleeq.engine import DatasetCatalog, MetadataCatalog, get_cfg
from scaleeq.geometry import Geometry, Map
from tests.data.official_files import write_image, write_picture

LABELS = np.random.default_rng(0).permutation(np.array([*range(20), 255], np.uint8)).reshape(3, 7)
# Left and right arm, leg and shoe change places; everything else stays.
OTHER_SIDE = {14: 15, 15: 14, 16: 17, 17: 16, 18: 19, 19: 18}
MIRRORED = np.array([[OTHER_SIDE.get(label, label) for label in row[::-1]] for row in LABELS.tolist()])


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def write_lip(images: Path, labels: Path) -> None:
    write_image(images / "77_1.jpg", 3, 7)
    write_picture(labels / "77_1.png", LABELS)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("LIP/TrainVal_images/val_images", "LIP/TrainVal_parsing_annotations/val_segmentations"),
        ("lip/TrainVal_images/val_images", "lip/TrainVal_parsing_annotations/val_segmentations"),
        (
            "LIP/TrainVal_images/TrainVal_images/val_images",
            "LIP/TrainVal_parsing_annotations/TrainVal_parsing_annotations/val_segmentations",
        ),
        (
            "LIP/TrainVal_images/val_images",
            "LIP/TrainVal_parsing_annotations/TrainVal_parsing_annotations/val_segmentations",
        ),
        ("LIP/val_images", "LIP/val_segmentations"),
    ],
)
def test_layouts(root, images, labels):
    write_lip(root / images, root / labels)
    (record,) = DatasetCatalog.get("lip_sem_seg_val")
    assert record["image_id"] == "77_1"
    np.testing.assert_array_equal(read_labels(record, num_classes=20), LABELS)
    with pytest.raises(FileNotFoundError, match=r"LIP \(train\).*(.|\n)*train_segmentations"):
        DatasetCatalog.get("lip_sem_seg_train")


def test_the_test_split_has_no_labels(root):
    write_image(root / "LIP" / "Testing_images" / "testing_images" / "100_2.jpg", 3, 7)
    (record,) = DatasetCatalog.get("lip_sem_seg_test")
    assert record["image_id"] == "100_2" and "sem_seg_file_name" not in record
    with pytest.raises(ValueError, match=r"split of LIP is 'minival'; choose one of train, val, test"):
        lip.load_lip("minival")


def test_metadata():
    metadata = MetadataCatalog.get("lip_sem_seg_val")
    assert metadata.family == "lip" and len(metadata.stuff_classes) == len(set(metadata.stuff_colors)) == 20
    assert metadata.stuff_classes[13:17] == ["Face", "Left-arm", "Right-arm", "Left-leg"]
    for left, right in metadata.flip_pairs:
        names = metadata.stuff_classes[left], metadata.stuff_classes[right]
        assert names[0].startswith("Left-") and names[1] == names[0].replace("Left", "Right")
    assert len(metadata.flip_pairs) == 3


def config(*train: str):
    cfg = get_cfg()
    add_scaleeq_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 20
    cfg.DATASETS.TRAIN = train
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    return cfg


@pytest.mark.parametrize("train", ["lip_sem_seg_train", "voc2012_sem_seg_train"])
def test_a_flipped_training_sample_has_the_other_arm(root, train):
    """Only where the training set says so; VOC's labels 14 and 15 are motorbike and person."""
    write_lip(root / "LIP" / "train_images", root / "LIP" / "train_segmentations")
    (record,) = DatasetCatalog.get("lip_sem_seg_train")
    mapper = SegmentationMapper.from_config(config(train), is_train=True)
    samples = [mapper(record, np.random.default_rng(seed))["sem_seg"] for seed in range(20)]
    mirrored = torch.from_numpy(MIRRORED if train.startswith("lip") else LABELS[:, ::-1].astype(np.int64))
    flipped = [torch.equal(sample, mirrored) for sample in samples]
    assert 4 < sum(flipped) < 16
    for sample in (sample for sample, is_flipped in zip(samples, flipped, strict=True) if not is_flipped):
        np.testing.assert_array_equal(sample, LABELS)


def test_a_vertical_flip_exchanges_nothing():
    augment = TrainAugmentation(flip="vertical", flip_pairs=lip.FLIP_PAIRS)
    image = np.zeros((3, 7, 3), np.uint8)
    maps = {"sem_seg": Map(LABELS, Geometry(padding=255, labels=True))}
    results = [augment(image, maps, np.random.default_rng(seed))[1]["sem_seg"] for seed in range(20)]
    assert {tuple(labels[0]) for labels in results} == {tuple(LABELS[0]), tuple(LABELS[2])}


def test_training_sets_must_agree_about_the_pairs():
    assert shared_flip_pairs(["lip_sem_seg_train", "lip_sem_seg_val"]) == lip.FLIP_PAIRS
    assert shared_flip_pairs(["ade20k_150_train"]) == shared_flip_pairs([]) == ()
    with pytest.raises(ValueError, match=r"lip_sem_seg_val, .*\(14, 15\).*voc2012_sem_seg_train, in which it .* \[\]"):
        SegmentationMapper.from_config(config("lip_sem_seg_val", "voc2012_sem_seg_train"), is_train=True)
    SegmentationMapper.from_config(config("lip_sem_seg_val", "voc2012_sem_seg_train"), is_train=False)
    with pytest.raises(ValueError, match=r"flip_pairs are \(\(1, 2\), \(2, 3\)\).*each label once"):
        TrainAugmentation(flip_pairs=((1, 2), (2, 3)))
