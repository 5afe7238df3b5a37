"""The mapper: samples as the model and the evaluator take them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from scaleeq.config import add_scaleeq_config
from scaleeq.data.mapper import SegmentationMapper
from scaleeq.data.sets import toy
from scaleeq.engine import get_cfg

RECORD = {
    "file_name": "toy/val/0005.png",
    "image_id": "val_0005",
    "height": toy.HEIGHT,
    "width": toy.WIDTH,
    "scene": {"split": "val", "index": 5},
}


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_scaleeq_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(toy.CLASSES)
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TEST = 0
    return cfg


def test_test_sample_is_the_image_and_its_truth(cfg):
    image, labels = toy.render_scene("val", 5)
    sample = SegmentationMapper.from_config(cfg, is_train=False)(RECORD)
    assert {key: sample[key] for key in ("file_name", "image_id", "height", "width")} == {
        key: RECORD[key] for key in ("file_name", "image_id", "height", "width")
    }
    assert sample["image"].dtype == sample["sem_seg_truth"].dtype == torch.uint8
    np.testing.assert_array_equal(sample["image"].numpy(), image.transpose(2, 0, 1))
    np.testing.assert_array_equal(sample["sem_seg_truth"].numpy(), labels)
    assert "sem_seg" not in sample


def test_test_size_changes_the_image_and_never_the_truth(cfg):
    cfg.INPUT.MIN_SIZE_TEST = 64
    sample = SegmentationMapper.from_config(cfg, is_train=False)(RECORD)
    assert sample["image"].shape == (3, 64, 64 * toy.WIDTH // toy.HEIGHT)
    assert sample["sem_seg_truth"].shape == (sample["height"], sample["width"]) == (toy.HEIGHT, toy.WIDTH)


def test_train_sample(cfg):
    cfg.INPUT.MIN_SIZE_TRAIN = (toy.HEIGHT // 2, toy.HEIGHT * 2)
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "range"
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [80, 96]
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 0.75
    cfg.INPUT.COLOR_AUG_SSD = True
    mapper = SegmentationMapper.from_config(cfg, is_train=True)
    samples = [mapper(RECORD, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    for sample in samples:
        assert sample["image"].shape == (3, 80, 96) and sample["image"].dtype == torch.uint8
        assert sample["sem_seg"].shape == (80, 96) and sample["sem_seg"].dtype == torch.int64
        assert (sample["height"], sample["width"]) == (toy.HEIGHT, toy.WIDTH)
        assert "sem_seg_truth" not in sample
    assert torch.equal(samples[0]["image"], samples[1]["image"])
    assert not torch.equal(samples[0]["image"], samples[2]["image"])


def test_bgr_is_rgb_with_its_channels_reversed_augmentation_and_padding_included(cfg):
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [toy.HEIGHT + 8, toy.WIDTH]
    cfg.INPUT.COLOR_AUG_SSD = True
    samples = {}
    for image_format, mean in (("RGB", [10.0, 20.0, 30.0]), ("BGR", [30.0, 20.0, 10.0])):
        cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN = image_format, mean
        mapper = SegmentationMapper.from_config(cfg, is_train=True)
        samples[image_format] = mapper(RECORD, np.random.default_rng(3))["image"]
    assert torch.equal(samples["RGB"], samples["BGR"].flip(0))


def test_padding_is_the_pixel_mean(cfg):
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = [toy.HEIGHT + 8, toy.WIDTH]
    cfg.MODEL.PIXEL_MEAN = [10.0, 20.0, 30.0]
    for image_format in ("RGB", "BGR"):
        cfg.INPUT.FORMAT = image_format
        sample = SegmentationMapper.from_config(cfg, is_train=True)(RECORD, np.random.default_rng(3))
        assert (sample["sem_seg"][toy.HEIGHT :] == 255).all()
        assert (sample["image"][:, toy.HEIGHT :] == torch.tensor([10, 20, 30]).view(3, 1, 1)).all()


def test_an_image_without_labels_can_be_tested(cfg, tmp_path):
    Image.fromarray(np.zeros((7, 9, 3), np.uint8)).save(tmp_path / "a.png")
    sample = SegmentationMapper.from_config(cfg, is_train=False)({"file_name": str(tmp_path / "a.png")})
    assert "sem_seg_truth" not in sample and (sample["height"], sample["width"]) == (7, 9)


def test_refusals(cfg):
    with pytest.raises(ValueError, match="random generator"):
        SegmentationMapper.from_config(cfg, is_train=True)(RECORD)
    cfg.INPUT.FORMAT = "YUV-BT.601"
    with pytest.raises(ValueError, match=r"INPUT.FORMAT is 'YUV-BT.601'"):
        SegmentationMapper.from_config(cfg, is_train=False)
    with pytest.raises(ValueError, match="ignore label 3"):
        SegmentationMapper(num_classes=8, ignore_label=3)
    with pytest.raises(ValueError, match=r"labels \[.*7\] in toy/val/0005.png"):
        SegmentationMapper(num_classes=7)(RECORD)
