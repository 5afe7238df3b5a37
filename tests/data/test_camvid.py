"""CamVid: files in SegNet's layout written here, png and jpg; and the real set where the machine has it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scaleeq.data.reading import read_image, read_labels
from scaleeq.data.sets import camvid
from scaleeq.engine import DatasetCatalog, MetadataCatalog

HERE = Path(__file__).resolve()
CANDIDATES = [os.environ.get("DETECTRON2_DATASETS", "datasets"), HERE.parents[3] / "shared" / "datasets"]
REAL_ROOT = next((str(root) for root in CANDIDATES if (Path(root) / "CamVid" / "val").is_dir()), None)


def write_camvid(root: Path, split: str, names: list[str], suffix: str, seed: int = 0) -> None:
    """Images of 12 x 16 with labels 0..11 in SegNet's layout."""
    rng = np.random.default_rng(seed)
    images, labels = root / "CamVid" / split, root / "CamVid" / f"{split}annot"
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).save(images / f"{name}{suffix}")
        Image.fromarray((np.arange(12 * 16) % 12).astype(np.uint8).reshape(12, 16)).save(labels / f"{name}.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("split", camvid.SPLITS)
def test_reads_segnets_layout(tmp_path, monkeypatch, suffix, split):
    write_camvid(tmp_path, split, ["b_02", "a_10", "a-1", "a"], suffix)
    (tmp_path / "CamVid" / split / "Thumbs.db").touch()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    records = DatasetCatalog.get(f"camvid_sem_seg_{split}")
    assert [record["image_id"] for record in records] == ["a", "a-1", "a_10", "b_02"]
    assert read_image(records[0]).shape == (12, 16, 3)
    expected = (np.arange(12 * 16) % 12).reshape(12, 16)
    expected[expected == 11] = 255
    np.testing.assert_array_equal(read_labels(records[0], num_classes=11), expected)


def test_metadata():
    metadata = MetadataCatalog.get("camvid_sem_seg_val")
    assert len(metadata.stuff_classes) == len(metadata.stuff_colors) == 11
    assert metadata.stuff_classes[0] == "Sky" and metadata.stuff_classes[10] == "Bicyclist"


def test_errors_name_the_path_and_the_way_out(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"(?s)CamVid.train  .*missing.*DETECTRON2_DATASETS"):
        camvid.load_camvid("train", str(tmp_path))
    write_camvid(tmp_path, "train", ["a", "b"], ".png")
    (tmp_path / "CamVid" / "trainannot" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images have no labels.*train.b.png.*trainannot.b.png"):
        camvid.load_camvid("train", str(tmp_path))
    write_camvid(tmp_path, "train", ["b"], ".jpg")
    with pytest.raises(ValueError, match=r"two files in .*train are named b: b.* and b"):
        camvid.load_camvid("train", str(tmp_path))
    with pytest.raises(ValueError, match="'validation'"):
        camvid.load_camvid("validation", str(tmp_path))


def test_a_directory_without_images_is_refused(tmp_path):
    write_camvid(tmp_path, "val", ["a"], ".png")
    (tmp_path / "CamVid" / "val" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no image .*val/\*.png or .*val/\*.jpg"):
        camvid.load_camvid("val", str(tmp_path))


@pytest.mark.skipif(REAL_ROOT is None, reason="no CamVid under DETECTRON2_DATASETS or ../shared/datasets")
def test_real_set():
    """Sizes, numbers and the share of void as counted independently on SegNet's files: 1.70 % of val."""
    assert len(camvid.load_camvid("train", REAL_ROOT)) == 367
    records = camvid.load_camvid("val", REAL_ROOT)
    assert len(records) == 101
    assert read_image(records[0]).shape == (360, 480, 3)
    counts = sum(np.bincount(read_labels(record, num_classes=11).ravel(), minlength=256) for record in records)
    assert counts.sum() == 101 * 360 * 480
    assert 100 * counts[255] / counts.sum() == pytest.approx(1.70, abs=0.005)
    assert (counts[:11] > 0).all()
