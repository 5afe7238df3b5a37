"""Files of predictions, read back by PIL, zipfile and tarfile, from one process and from two."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scaleeq.data.sets.cityscapes import CLASS_TABLE
from scaleeq.engine import DatasetEvaluators, MetadataCatalog
from scaleeq.evaluation.argmax import predicted_labels
from scaleeq.evaluation.writing import output_writers, prediction_names
from scaleeq.pictures import blend
from tests.evaluation.writing_data import FAMILIES, output_of, predictions, registered


def write(kinds, name, folder, pairs=None, **options) -> None:
    (writer,) = output_writers(kinds, name, folder, **options)
    for sample, labels in pairs or predictions(name):
        writer.process([sample], [output_of(labels, len(MetadataCatalog.get(name).stuff_classes))])
    assert writer.evaluate() is None


def read_archive(path: Path) -> dict[str, Image.Image]:
    """Name in the archive -> picture, in the archive's order."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            return {name: Image.open(BytesIO(archive.read(name))) for name in archive.namelist()}
    with tarfile.open(path, "r:gz") as archive:
        return {info.name: Image.open(BytesIO(archive.extractfile(info).read())) for info in archive}


def test_label_pictures_are_indexes_in_colours(tmp_path):
    with registered("") as name:
        write(["labels"], name, tmp_path)
        files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
        assert files == ["labels/x/1.png", "labels/x/2.png", "labels/y/1.png"], "nothing half written is left"
        for file, (_, labels) in zip(files, predictions(name), strict=True):
            with Image.open(tmp_path / file) as picture:
                assert picture.mode == "P" and picture.format == "PNG"
                np.testing.assert_array_equal(np.array(picture), labels)
                colors = np.array(FAMILIES[""][1])
                np.testing.assert_array_equal(np.array(picture.convert("RGB")), colors[labels])


def test_cityscapes_keeps_its_folders_even_of_one_city(tmp_path):
    files = FAMILIES["cityscapes"][2]
    for some in (files, files[:1]):
        with registered("cityscapes", some) as name:
            assert prediction_names(name)[files[0]] == "berlin/berlin_000000_000019_leftImg8bit"
    with registered("", ["a/1.jpg", "a/1.png"]) as name, pytest.raises(ValueError, match=r"a/1.jpg and a/1.png"):
        prediction_names(name)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_overlays_are_in_the_images_colours(tmp_path, image_format):
    """A plain image in steps, so that JPEG changes little; the model saw it at half its size."""
    image = np.zeros((16, 16, 3), np.uint8) + np.array([200, 100, 40], np.uint8)
    labels = np.repeat(np.array([[0, 1]], np.uint8), 16, 1).repeat(32, 0)
    channels = image.transpose(2, 0, 1)[:: 1 if image_format == "RGB" else -1]
    with registered("", ["1.jpg"]) as name:
        sample = {"file_name": "1.jpg", "height": 32, "width": 32, "image": torch.from_numpy(channels.copy())}
        write(["overlays"], name, tmp_path, [(sample, labels)], image_format=image_format)
    with Image.open(tmp_path / "overlays" / "1.jpg") as picture:
        assert picture.size == (32, 32)
        seen = np.array(picture).astype(int)
    np.testing.assert_allclose(seen[4, 4], [228, 50, 20], atol=8)
    np.testing.assert_allclose(seen[4, 28], [100, 50, 148], atol=8)


def test_blend_keeps_the_image_where_nothing_lies_over_it():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    labels = np.zeros((5, 7), np.uint8)
    np.testing.assert_array_equal(blend(image, labels, [(9, 9, 9)], opacity=0), image)
    np.testing.assert_array_equal(blend(image, labels, [(9, 8, 7)], opacity=1)[2, 3], [9, 8, 7])


@pytest.mark.parametrize(
    ("family", "archive", "first", "value_of_label", "mode"),
    [
        ("ade20k", "submission.zip", "ADE_test_00000001.png", lambda labels: labels + 1, "L"),
        ("lip", "submission.zip", "10.png", lambda labels: labels, "L"),
        ("voc2012", "submission.tar.gz", "results/VOC2012/Segmentation/comp6_test_cls/2008_000004.png",
         lambda labels: labels, "P"),
    ],
)  # fmt: skip
def test_servers_archives(tmp_path, family, archive, first, value_of_label, mode):
    with registered(family) as name:
        pairs = predictions(name)
        write(["submission"], name, tmp_path, pairs)
        pictures = read_archive(tmp_path / archive)
        assert list(pictures) == sorted(pictures) and next(iter(pictures)) == first and len(pictures) == len(pairs)
        for sample, labels in pairs:
            stem = Path(sample["file_name"]).stem
            (picture,) = (each for path, each in pictures.items() if Path(path).stem == stem)
            assert picture.mode == mode
            np.testing.assert_array_equal(np.array(picture), value_of_label(labels))
        if mode == "P":
            assert picture.getpalette()[:6] == [0, 0, 0, 128, 0, 0], "VOC's colours"


def test_cityscapes_archive(tmp_path):
    with registered("cityscapes") as name:
        pairs = predictions(name, size=(1024, 2048))
        write(["submission"], name, tmp_path, pairs)
        pictures = read_archive(tmp_path / "submission.zip")
        assert list(pictures) == [f"{city}_000000_000019_leftImg8bit.png" for city in ("berlin", "bonn")]
        ids = np.array([label_id for label_id, _, _ in CLASS_TABLE])
        picture = pictures["bonn_000000_000019_leftImg8bit.png"]
        assert picture.mode == "L" and picture.size == (2048, 1024)
        np.testing.assert_array_equal(np.array(picture), ids[pairs[1][1]])
        with pytest.raises(ValueError, match=r"\(6, 8\).*takes \(1024, 2048\).*original images"):
            write(["submission"], name, tmp_path)


def test_archives_are_the_same_bytes_and_replaced(tmp_path):
    for family in ("lip", "voc2012"):
        with registered(family) as name:
            pairs = predictions(name)
            for folder in ("one", "two"):
                write(["submission"], name, tmp_path / family / folder, pairs[:: 1 if folder == "one" else -1])
            one, two = (next((tmp_path / family / folder).glob("submission.*")) for folder in ("one", "two"))
            first = one.read_bytes()
            assert first == two.read_bytes()
            other = [(sample, np.zeros_like(labels)) for sample, labels in pairs]
            write(["submission"], name, one.parent, other)
            assert one.read_bytes() != first
            assert all(not np.array(picture).any() for picture in read_archive(one).values())


def test_an_image_without_prediction_leaves_no_archive(tmp_path):
    with registered("ade20k") as name:
        with pytest.raises(ValueError, match=r"1 of the 3 images.*the first is ADE_test_00000003; evaluate all"):
            write(["submission"], name, tmp_path, predictions(name)[:2])
        assert not list(tmp_path.glob("submission.*"))
        write(["labels"], name, tmp_path, predictions(name)[:2])  # label pictures of a part are fine


def test_refusals(tmp_path):
    with registered("") as name:
        with pytest.raises(ValueError, match=r"no test server; those of \['ade20k', 'cityscapes', 'lip', 'voc2012'\]"):
            output_writers(["submission"], name, tmp_path)
        with pytest.raises(ValueError, match=r"\['pngs'\], valid are \('labels', 'overlays', 'submission'\)"):
            output_writers(["labels", "pngs"], name, tmp_path)
        assert output_writers([], name, tmp_path) == []
        ((sample, labels), *_) = predictions(name)
        with pytest.raises(ValueError, match=r"other.png is not an image of"):
            write(["labels"], name, tmp_path, [(sample | {"file_name": "other.png"}, labels)])
        with pytest.raises(ValueError, match=r"images/x/1.png is \(6, 8\).*the image \(12, 8\)"):
            write(["labels"], name, tmp_path, [(sample | {"height": 12}, labels)])


def test_other_classes_than_the_servers_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(FAMILIES, "lip", (["a", "b"], [(0, 0, 0)] * 2, ["1.jpg"]))
    with registered("lip") as name, pytest.raises(ValueError, match="has 2 classes, the server of lip takes 20"):
        output_writers(["submission"], name, tmp_path)


def test_labels_are_found_once():
    output = {"sem_seg": torch.tensor([[[0.0, 2.0]], [[1.0, 1.0]]])}
    labels = predicted_labels(output)
    assert labels.dtype == np.uint8 and labels.tolist() == [[1, 0]]
    assert predicted_labels(output) is labels


def test_a_label_picture_of_no_number_is_not_written(tmp_path):
    with registered("") as name:
        sample, labels = next(iter(predictions(name)))
        (writer,) = output_writers(["labels"], name, tmp_path)
        scores = torch.zeros(3, *labels.shape)
        scores[0, 0, 0] = torch.nan
        with pytest.raises(FloatingPointError, match=f"the prediction of {sample['file_name']} is not finite"):
            writer.process([sample], [{"sem_seg": scores}])
    assert not list(tmp_path.rglob("*.png"))


def test_beside_other_evaluators(tmp_path):
    with registered("") as name:
        evaluators = DatasetEvaluators(output_writers(["labels", "overlays"], name, tmp_path))
        evaluators.reset()
        for sample, labels in predictions(name):
            evaluators.process([sample], [output_of(labels, 2)])
        assert evaluators.evaluate() == {}
    assert len(list(tmp_path.rglob("*.png"))) == len(list(tmp_path.rglob("*.jpg"))) == 3


def test_two_processes_make_the_archive_of_one(tmp_path):
    script = Path(__file__).with_name("two_writers.py")
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(script), str(rank), str(tmp_path)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    with registered("voc2012") as name:
        write(["labels", "submission"], name, tmp_path / "alone")
    for file in ("submission.tar.gz", *(f"labels/{stem}.png" for stem in ("2008_000004", "2008_000006"))):
        assert (tmp_path / "inference" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()
