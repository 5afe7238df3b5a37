"""Wrong data sets, written here: what a user is told who trains or tests on them, and who checks them first.

Each goes through the loader, as a run does, and through the check. The messages must name the file (or the name, or the
number) and the way out. No oracle but the reader: the key phrases stand beside each case.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scaleeq.config import add_scaleeq_config
from scaleeq.data import build_test_loader, find_dataset
from scaleeq.data.check.splits import names_of
from scaleeq.engine import get_cfg
from scaleeq.reports.data import ALL, check_datasets
from tests.data.wrong_folders import (
    CLASSES,
    DISTINCT,
    ade_minus_one_twice,
    animated,
    as_tiff,
    changed,
    coded,
    cut_off,
    folder,
    good,
    half_way,
    image_b,
    in_color,
    interpolated,
    label_b,
    listed,
    missing_split,
    palette_as_rgb,
    pipe,
    polygons_alone,
    same_image_in_two_splits,
    save,
    stuff_as_mat,
    trainaug_without_sbd,
    turned_by_exif,
    unknown,
    voc_list_in_latin_1,
    with_labels,
)

SILENT = None  # it cannot know
SAME = "the same"


# ---------------------------------------------------------------------------------------------------- the cases


@dataclass(frozen=True)
class Case:
    """write: writes it below a root, returns its name. told: what a run says; checked: what the check says; patterns.

    num_classes, ignore: the config's.
    """

    write: Callable[[Path], str]
    told: str | None
    checked: str | None = SAME
    num_classes: int = len(CLASSES)
    ignore: int = 255


CASES = {
    # where it lies
    "no root": Case(
        lambda root: "camvid_sem_seg_val", r"CamVid \(val\).*CamVid.val +missing.*DETECTRON2_DATASETS", num_classes=11
    ),
    "no split": Case(missing_split, r"own/val.*own.images.val +missing.*splits train.*folder:.*train"),
    "empty folder": Case(
        changed(lambda root: [path.unlink() for path in (root / "own" / "images").iterdir()]), r"no image .*own.images"
    ),
    "unknown name": Case(lambda root: "ade20k_val", r"no data set 'ade20k_val'.*nearest.*ade20k_150_val.*folder:"),
    "no classes.txt": Case(
        lambda root: folder(root, {"a": DISTINCT}, classes=None), r"own.classes.txt.*a class a line.*images.*labels"
    ),
    "a class twice": Case(
        lambda root: folder(root, {"a": DISTINCT}, classes="sky\nroad\nsky"), r"classes.txt.*more than once: sky"
    ),
    "empty classes.txt": Case(
        lambda root: folder(root, {"a": DISTINCT}, classes="\n"), r"classes.txt.*0 classes.*a class a line"
    ),
    "polygons without labelIds": Case(polygons_alone, r"Cityscapes.*_gtFine_labelIds.png +missing", num_classes=19),
    "COCO-Stuff as .mat": Case(stuff_as_mat, r"COCO-Stuff.*missing.*data prepare coco-stuff-10k", num_classes=171),
    "no SegmentationClassAug": Case(
        trainaug_without_sbd, r"SegmentationClassAug +missing.*data prepare", num_classes=21
    ),
    # which files there are
    "labels of another ending": Case(
        changed(lambda root: label_b(root).rename(label_b(root).with_suffix(".tif"))),
        r"1 of 3 images have no labels.*Labels end in .png; beside them are 1 .tif \(b.tif\)",
    ),
    "images of other endings alone": Case(
        changed(lambda root: [path.rename(path.with_suffix(".heic")) for path in image_b(root).parent.glob("*")]),
        r"no image .*images.*; there are 3 .heic \(a.heic, b.heic, c.heic\)",
    ),
    "image without label": Case(
        changed(lambda root: label_b(root).unlink()), r"1 of 3 images have no labels.*images.b.png.*labels.b.png.*copy"
    ),
    "label without image": Case(
        changed(lambda root: (root / "own" / "images" / "b.png").unlink()),
        SILENT,
        r"label files without an image: 1.*labels.b.png.*complete the copy",
    ),
    "zero bytes": Case(
        changed(lambda root: label_b(root).write_bytes(b"")), r"labels.b.png cannot be read.*empty \(0 bytes\).*again"
    ),
    "cut off": Case(changed(cut_off), r"labels.b.png cannot be read.*cut off.*again"),
    "text named .png": Case(
        changed(lambda root: label_b(root).write_text("<html>")), r"labels.b.png cannot be read.*not a picture.*<html>"
    ),
    "image in two splits": Case(
        same_image_in_two_splits, SILENT, r"training and testing share: 1.*val.c.png.*train.a.png.*take them out"
    ),
    # what the labels hold
    "label outside": Case(
        with_labels(lambda labels: np.where(labels == 3, 9, labels).astype(np.uint8)),
        r"labels \[9\] in .*labels.a.png.*4 classes \(0..3\).*NUM_CLASSES.*label_map",
        r"labels that are no class: 3.*a.png.*Labels 9 \(in 3 of 3 label files\).*NUM_CLASSES",
    ),
    "labels start at 1": Case(
        with_labels(lambda labels: np.where(labels < 4, labels + 1, labels)), r"a.png.*start at 1.*label_map"
    ),
    "labels start at 1, the last class is missing": Case(
        with_labels(lambda labels: np.where(labels == 0, 255, labels).astype(np.uint8)),
        SILENT,
        r"without label 0.*'sky'.*start at 1.*from 0 on",
    ),
    "void is the number of classes": Case(
        with_labels(lambda labels: np.where(labels == 255, 4, labels).astype(np.uint8)),
        r"a.png.*NUM_CLASSES to 5.*void.*label_map \(\{4: 255\}\)",
    ),
    "minus one applied twice": Case(
        ade_minus_one_twice, r"ADE_val_1.png.*through 'minus one' before.*original", num_classes=150
    ),
    "255 is not the ignore label": Case(good, r"labels \[255\] in .*a.png.*IGNORE_VALUE", SILENT, ignore=254),
    "255 is meant to be a class": Case(
        lambda root: folder(root, {"a": np.where(DISTINCT == 1, 255, 0).astype(np.uint8)}, classes="background\ncell"),
        SILENT,
        r"one class or void.*masks of 0 and 255.*index \(0..1\)",
        num_classes=2,
    ),
    "palette saved as RGB": Case(
        palette_as_rgb, r"SegmentationClass.2007_1.png.*3 channels \(mode RGB\).*picture for people", num_classes=21
    ),
    "picture for people": Case(
        with_labels(lambda labels: np.dstack([in_color(labels), np.full_like(labels, 255)])),
        r"labels.a.png.*4 channels \(mode RGBA\).*picture for people",
    ),
    "indexes in three channels": Case(
        with_labels(lambda labels: np.dstack([labels] * 3)), r"labels.a.png.*3 channels.*all equal.*one of them"
    ),
    "palette turned to grey": Case(
        with_labels(lambda labels: np.arange(16 * 32, dtype=np.uint16).reshape(16, 32).astype(np.uint8) // 9 * 9),
        r"labels.a.png.*grey levels or colours.*picture for people",
        r"grey levels or colours",
    ),
    "16 bits": Case(
        with_labels(lambda labels: labels.astype(np.uint16) * 100 + 24000), r"a.png .*24000.*0..255.*instance ids"
    ),
    # how the values are stored
    "float labels": Case(as_tiff(label_b, half_way), r"labels.*b.png \(mode F\) hold .* no whole numbers.*2.99"),
    "unknown labels": Case(as_tiff(label_b, unknown), r"labels.*b.png \(mode F\) hold .* no whole numbers.*nan"),
    "labels below zero": Case(
        as_tiff(label_b, lambda labels: labels.astype(np.int32) - 1), r"b.png .*from -1 to 254.*0..255"
    ),
    "black and white labels of four classes": Case(
        coded(1), r"b.png are black and white.*class 1 or 255.*4 classes.*8 bits"
    ),
    "JPEG as labels": Case(
        changed(lambda root: Image.fromarray(DISTINCT).save(label_b(root), format="JPEG")),
        r"labels.b.png are a JPEG.*write PNG",
    ),
    "float image": Case(
        as_tiff(image_b, lambda labels: labels.astype(np.float32) / 255), r"image .*b.png has float.*mode F.*8 bits"
    ),
    "32-bit image": Case(
        as_tiff(image_b, lambda labels: labels.astype(np.int32)), r"image .*b.png has integer.*mode I"
    ),
    "dark 16-bit image": Case(
        changed(lambda root: save(image_b(root), DISTINCT.astype(np.uint16))),
        SILENT,
        r"little of their 16 bits: 1.*b.png.*0..0 of 0..255.*10 or 12 bits",
    ),
    "animated image": Case(animated(image_b), r"images.b.png holds 2 pictures"),
    "animated labels": Case(animated(label_b), r"labels.b.png holds 2 pictures"),
    "pipe as image": Case(pipe(image_b), r"images.b.png cannot be read: it is a named pipe"),
    "pipe as labels": Case(pipe(label_b), r"labels.b.png cannot be read: it is a named pipe"),
    # the classes
    "one class": Case(
        lambda root: folder(root, {"a": DISTINCT % 1}, classes="sky"),
        SILENT,
        r"data set of one class.*'sky'.*background are two classes",
        num_classes=1,
    ),
    "comment in classes.txt": Case(
        listed("# my classes\nsky\nroad\ncar"), r"classes.txt, line 1: '# my classes' looks like a comment; expected"
    ),
    "classes.txt in Latin-1": Case(
        listed("Himmel\nStraße", "latin-1"), r"classes.txt, line 2: it is no text in UTF-8.*save it as UTF-8"
    ),
    "list of images in Latin-1": Case(
        voc_list_in_latin_1, r"val.txt, line 2: it is no text in UTF-8.*save it as UTF-8", num_classes=21
    ),
    "another size": Case(
        changed(lambda root: save(label_b(root), DISTINCT[:, :30])),
        r"images.b.png is \(16, 32\).*labels.b.png are \(16, 30\).*nearest",
    ),
    "turned by EXIF": Case(changed(turned_by_exif), r"b.png is \(32, 16\).*labels.b.png are \(16, 32\).*EXIF"),
    "resized as an image": Case(interpolated, SILENT, r"interpolation: 1.*a.png.*by nearest"),
    "another number of classes": Case(good, r"NUM_CLASSES is 19.*folder:.*own has 4 classes", SILENT, num_classes=19),
}


# ---------------------------------------------------------------------------------------------------- the tests


def run(name: str, num_classes: int, ignore: int) -> None:
    """What a run does first with a data set: every sample, through loader and mapper."""
    cfg = get_cfg()
    add_scaleeq_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = num_classes, ignore
    cfg.INPUT.FORMAT, cfg.INPUT.MIN_SIZE_TEST, cfg.DATALOADER.NUM_WORKERS = "RGB", 0, 0
    assert sum(len(batch) for batch in build_test_loader(cfg, name)) > 0


def check(name: str) -> str:
    """All that the check says of a data set, on one line; "" without a fault."""
    try:
        names = names_of(name)
    except ValueError as error:
        return str(error)
    (report,) = check_datasets(names, sample=ALL, workers=0)
    json.dumps(report.to_dict())
    return " ".join(report.text().split()) if report.faults else ""


def said(pattern: str, text: str) -> bool:
    return bool(re.search(pattern, text, flags=re.DOTALL))


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_wrong_data_set(case, root):
    name = case.write(root)
    if case.told is SILENT:
        run(name, case.num_classes, case.ignore)
    else:
        with pytest.raises((ValueError, OSError), match=re.compile(case.told, re.DOTALL)):
            run(name, case.num_classes, case.ignore)
    text = check(name)
    expected = case.told if case.checked is SAME else case.checked
    assert text == "" if expected is SILENT else said(expected, text), text


def test_there_are_twenty_at_least():
    assert len(CASES) >= 20


def test_a_good_folder_passes(root):
    name = good(root)
    run(name, len(CLASSES), 255)
    assert check(name) == ""


@pytest.mark.parametrize(
    ("write", "note"),
    [
        (changed(lambda root: save(image_b(root), DISTINCT.astype(np.uint16) * 257)), r"8 bits a channel.*I;16"),
        (coded(2), r"less than 8 bits a pixel: 1.*b.png is grey of 2 bits.*0..3.*255.*class 3"),
        (
            changed(lambda root: (root / "own" / "images" / "d.heic").touch()),
            r"taken for no images: 1.*1 .heic \(d.heic\)",
        ),
        (listed("\n".join(CLASSES), "utf-16"), ""),
        (
            changed(
                lambda root: (
                    Image.open(image_b(root)).save(image_b(root).with_name("c.webp"))
                    or image_b(root).with_name("c.png").unlink()
                )
            ),
            "",
        ),
    ],
    ids=["16-bit image", "2-bit labels", "another ending", "classes.txt in UTF-16", "WebP"],
)
def test_what_is_read_and_noted(root, write, note):
    name = write(root)
    run(name, len(CLASSES), 255)
    (report,) = check_datasets(names_of(name), sample=ALL, workers=0)
    assert report.totals.read == 3 and not report.faults
    assert [said(note, " ".join(finding.text().split())) for finding in report.findings] == [True] * bool(note)


def test_the_root_may_start_with_a_tilde(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root))
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/data")
    (root / "data").mkdir()
    good(root / "data")
    (root / "data" / "own").rename(root / "data" / "under_home")
    assert find_dataset("folder:under_home").stuff_classes == list(CLASSES)
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/elsewhere")
    with pytest.raises(FileNotFoundError, match=re.escape(str(root / "elsewhere"))):
        run("camvid_sem_seg_val", 11, 255)
    assert said(re.escape(str(root / "elsewhere")), check("camvid_sem_seg_val"))
