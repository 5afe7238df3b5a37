"""Panoptic quality against Google's goldens (deeplab2's test), hotcoco if it is installed, and a literal reference."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scaleeq.evaluation.panoptic import PanopticEvaluator, PanopticQuality
from scaleeq.pictures import colors_of_ids, ids_of_colors, write_png

try:
    from hotcoco.panoptic import PanopticEval
except ImportError:
    PanopticEval = None

HERE = Path(__file__).resolve()
ROOTS = [Path(os.environ.get("DETECTRON2_DATASETS", "datasets")), HERE.parents[3] / "shared" / "datasets"]
GOLDENS = next(
    (root / "panoptic_quality_goldens" for root in ROOTS if (root / "panoptic_quality_goldens").is_dir()), None
)
SAMPLE = next((root / "coco_panoptic_sample" for root in ROOTS if (root / "coco_panoptic_sample").is_dir()), None)
# Class of each grey level of the truth, and of each colour of a prediction, from deeplab2's panoptic_quality_test.py.
TRUTHS = {
    "team_gt_instance": {0: 0, 198: 2} | dict.fromkeys((47, 97, 133, 150, 174, 215, 244, 255), 1),
    "bird_gt": {92: 5, 176: 3, 255: 4},
    "cat_gt": {0: 0, 255: 6},
}
COLORS = {(0, 0, 255): 1, (255, 0, 0): 2, (0, 255, 0): 3, (255, 0, 255): 4, (0, 255, 255): 5, (255, 255, 0): 6}


def segments_of(kinds: np.ndarray, instances: np.ndarray):
    """kinds: (H, W), 0 void -> ids from 1 on, one a pair of kind and instance, and their list."""
    codes, ids = np.unique(kinds.astype(np.int64) * 1000 + instances, return_inverse=True)
    ids = (ids.reshape(kinds.shape) + 1) * (kinds > 0)
    return ids, [{"id": n + 1, "category_id": int(code // 1000)} for n, code in enumerate(codes) if code >= 1000]


def golden(scene: str):
    def read(name: str, mode: str) -> np.ndarray:
        return np.asarray(Image.open(GOLDENS / f"{name}.png").convert(mode))

    truth_name = next(name for name in TRUTHS if name.startswith(scene))
    grey, picture = read(truth_name, "L"), read(f"{scene}_pred_class", "RGB")
    truth = np.vectorize({0: 0, **TRUTHS[truth_name]}.get)(grey)
    found = sum(np.all(picture == color, axis=2) * kind for color, kind in COLORS.items())
    return segments_of(found, read(f"{scene}_pred_instance", "L")), segments_of(truth, grey)


@pytest.mark.skipif(
    GOLDENS is None, reason="no panoptic_quality_goldens under DETECTRON2_DATASETS or ../shared/datasets"
)
@pytest.mark.parametrize(("scenes", "expected"), [(["team"], 0.62156284), (["team", "cat", "bird"], 0.76855499)])
def test_google_goldens(scenes, expected):
    quality = PanopticQuality(num_classes=7)
    for scene in scenes:
        quality.update(*golden(scene))
    assert quality.results([True] * 7)["PQ"] / 100 == pytest.approx(
        expected, abs=6e-8
    )  # one unit of float32, which Google's are


def reference(images, num_classes: int):
    """panopticapi's loops, literally: (PQ, SQ, RQ) of the mean over classes that are there."""
    rows = np.zeros((num_classes, 4))
    for (found, found_list), (true, true_list) in images:
        true_of, found_of = ({s["id"]: s for s in each} for each in (true_list, found_list))
        pairs = {}
        for pair in zip(true.ravel().tolist(), found.ravel().tolist(), strict=True):
            pairs[pair] = pairs.get(pair, 0) + 1
        matched_true, matched_found, crowds = set(), set(), {}
        for (t, f), overlap in pairs.items():
            if t not in true_of or f not in found_of or true_of[t].get("iscrowd"):
                continue
            if true_of[t]["category_id"] == found_of[f]["category_id"]:
                union = (found == f).sum() + (true == t).sum() - overlap - pairs.get((0, f), 0)
                if overlap / union > 0.5:
                    rows[true_of[t]["category_id"]] += (1, 0, 0, overlap / union)
                    matched_true.add(t)
                    matched_found.add(f)
        for t, segment in true_of.items():
            if segment.get("iscrowd"):
                crowds[segment["category_id"]] = t
            elif t not in matched_true:
                rows[segment["category_id"], 2] += 1
        for f, segment in found_of.items():
            if f not in matched_found:
                kind = segment["category_id"]
                free = pairs.get((0, f), 0) + (pairs.get((crowds[kind], f), 0) if kind in crowds else 0)
                rows[kind, 1] += free / (found == f).sum() <= 0.5
    rows = rows[rows[:, :3].sum(1) > 0]
    hits, extra, missed, overlap = rows.T
    total = hits + extra / 2 + missed / 2
    return [overlap / total, np.where(hits > 0, overlap / np.maximum(hits, 1), 0), hits / total]


def random_image(rng, num_classes=4, shape=(24, 31)):
    """Rectangles over one another, void between them, some of the truth crowds; the prediction is it, shifted."""
    ids = np.zeros(shape, np.int64)
    segments = []
    for number in rng.choice(2**24 - 1, 7, replace=False) + 1:
        top, left = rng.integers(0, shape[0] - 4), rng.integers(0, shape[1] - 4)
        ids[top : top + rng.integers(3, 14), left : left + rng.integers(3, 14)] = number
        kind = int(rng.integers(num_classes))
        segments.append({"id": int(number), "category_id": kind, "iscrowd": int(rng.random() < 0.2)})
    segments = [segment for segment in segments if (ids == segment["id"]).any()]
    moved = np.roll(ids, rng.integers(-2, 3, 2), (0, 1))
    found = [{**s, "category_id": s["category_id"] if rng.random() < 0.8 else 0} for s in segments]
    return (moved, found), (ids, segments)


def test_random_scenes_against_the_reference_in_any_order_and_over_two_counters():
    rng = np.random.default_rng(5)
    images = [random_image(rng) for _ in range(12)]
    whole, first, second = (PanopticQuality(num_classes=4) for _ in range(3))
    for image in images:
        whole.update(*image)
    for index in rng.permutation(len(images)):
        (first if index % 3 else second).update(*images[index])
    first.merge(second.counts)
    assert np.array_equal(first.counts, whole.counts)
    assert whole.counts[:, :3].min() > 0, "the scenes have no misses of some kind"
    results = whole.results([True, True, False, False])
    for name, values in zip(("PQ", "SQ", "RQ"), reference(images, 4), strict=True):
        assert results[name] == pytest.approx(100 * values.mean(), abs=1e-9)
    per_class = whole.per_class()["PQ"]
    assert results["PQ_th"] == 100 * per_class[:2].mean()
    assert results["PQ_st"] == 100 * per_class[2:].mean()


def coco_images(folder: Path):
    """The sample's truth, and predictions of it: one image shifted by 7 pixels, one with a wrong class and void."""
    content = json.loads((folder / "panoptic_examples.json").read_text())
    label = {category["id"]: n for n, category in enumerate(content["categories"])}
    things = [bool(category["isthing"]) for category in content["categories"]]
    images = []
    for number, annotation in enumerate(content["annotations"]):
        ids = ids_of_colors(np.asarray(Image.open(folder / "panoptic_examples" / annotation["file_name"])))
        segments = [
            {**s, "raw": s["category_id"], "category_id": label[s["category_id"]]} for s in annotation["segments_info"]
        ]
        found = np.roll(ids, 7, 1) if number else np.where(np.arange(ids.shape[1]) < 40, 0, ids)
        other = {**segments[0], "category_id": 5, "raw": content["categories"][5]["id"]}
        listed = segments if number else [other, *segments[1:]]
        images.append(((found, [s for s in listed if (found == s["id"]).any()]), (ids, segments)))
    return content, things, images


@pytest.mark.skipif(SAMPLE is None, reason="no coco_panoptic_sample under DETECTRON2_DATASETS or ../shared/datasets")
def test_coco_sample(tmp_path):
    content, things, images = coco_images(SAMPLE)
    quality, perfect = (PanopticQuality(num_classes=len(things)) for _ in range(2))
    for found, true in images:
        quality.update(found, true)
        perfect.update(true, true)
    assert {name: value for name, value in perfect.results(things).items() if value != 100} == {}
    results = quality.results(things)
    for name, values in zip(("PQ", "SQ", "RQ"), reference(images, len(things)), strict=True):
        assert results[name] == pytest.approx(100 * values.mean(), abs=1e-9)
    if PanopticEval is None:
        pytest.skip("hotcoco is not installed: compared with the literal reference alone")
    # The same pictures as files.
    annotations = []
    for (found, listed), annotation in zip([found for found, _ in images], content["annotations"], strict=True):
        write_png(tmp_path / "found" / annotation["file_name"], colors_of_ids(found))
        infos = [{"id": s["id"], "category_id": s["raw"]} for s in listed]
        annotations.append({**annotation, "segments_info": infos})
    (tmp_path / "found.json").write_text(json.dumps({**content, "annotations": annotations}))
    oracle = PanopticEval(
        str(SAMPLE / "panoptic_examples.json"),
        str(tmp_path / "found.json"),
        gt_folder=str(SAMPLE / "panoptic_examples"),
        pred_folder=str(tmp_path / "found"),
    )
    oracle.evaluate()
    for group, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st")):
        for name in ("pq", "sq", "rq"):
            assert results[name.upper() + suffix] / 100 == pytest.approx(oracle.results()[group][name], abs=1e-12)


def test_ids_above_65535_are_colours_and_back():
    ids = np.array([[0, 1, 255], [256, 65535, 65536], [2**24 - 1, 4711, 300_000]])
    picture = colors_of_ids(ids)
    assert picture.dtype == np.uint8
    assert picture[1, 2].tolist() == [0, 0, 1]
    assert np.array_equal(ids_of_colors(picture), ids)
    with pytest.raises(ValueError, match=r"0 \.\. 16777215; these are 0 \.\. 16777216"):
        colors_of_ids(ids + np.eye(3, dtype=int)[2] * (2**24 - 300_000))


ONE = (np.ones((4, 5), int), [{"id": 1, "category_id": 0}])


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ((np.ones((4, 6), int), ONE[1]), r"the prediction of this image is \(4, 6\), its truth \(4, 5\)"),
        ((np.full((4, 5), 2), ONE[1]), r"has pixels of the ids \[2\], which are no segment"),
        ((ONE[0], [*ONE[1], {"id": 3, "category_id": 0}]), "lists the segment 3, which has no pixel"),
        ((ONE[0], [*ONE[1], {"id": 1, "category_id": 0}]), r"has an id twice, or 0, which is void, among \[1, 1\]"),
        ((ONE[0], [{"id": 1, "category_id": 9}]), r"has segments of \[9\]; classes are 0 .. 2"),
    ],
)
def test_refusals(found, message):
    quality = PanopticQuality(num_classes=3)
    with pytest.raises(ValueError, match=message):
        quality.update(found, ONE)
    assert not quality.counts.any()


def test_evaluator_takes_tensors_and_leaves_out_images_without_truth():
    evaluator = PanopticEvaluator("none", classes=["a", "b", "c"], things=[0], distributed=False)
    output = {"panoptic_seg": (torch.from_numpy(ONE[0]), ONE[1])}
    evaluator.process([{"file_name": "1", "panoptic_truth": ONE}, {"file_name": "2"}], [output, output])
    results = evaluator.evaluate()["panoptic_seg"]
    assert (results["PQ"], results["PQ_th"]) == (100, 100)
    assert np.isnan(results["PQ_st"])


def test_nothing_predicted_is_zero():
    quality = PanopticQuality(num_classes=3)
    quality.update((np.zeros((4, 5), int), []), ONE)
    assert quality.results([True, True, False])["PQ"] == 0
