"""Boundary metrics against direct code: loops over pixels and classes, scipy.ndimage for distances and erosions."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import ndimage

from scaleeq.data.reading import read_labels
from scaleeq.data.sets import camvid
from scaleeq.evaluation import boundary
from scaleeq.evaluation.boundary import (
    BoundaryIoU,
    TrimapIoU,
    band_width_px,
    boundary_parts,
    edge_pixels,
    label_band,
    squared_distance,
)
from scaleeq.evaluation.boundary_f_score import WORD_BITS, BoundaryFScore
from scaleeq.evaluation.confusion import ABSENT_POLICIES

WIDTHS = (3, 5, 8, 12)
VOID = 255
HERE = Path(__file__).resolve()
CANDIDATES = [os.environ.get("DETECTRON2_DATASETS", "datasets"), HERE.parents[3] / "shared" / "datasets"]
REAL_ROOT = next((str(root) for root in CANDIDATES if (Path(root) / "CamVid" / "val").is_dir()), None)
needs_camvid = pytest.mark.skipif(REAL_ROOT is None, reason="no CamVid under DETECTRON2_DATASETS or ../shared/datasets")


def patches(rng, height, width, num_classes, size=6):
    """Labels in rectangles of a few pixels, so that there are borders of every direction and corners."""
    coarse = rng.integers(0, num_classes, (height // size + 1, width // size + 1), np.uint8)
    labels = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.where(rng.random((height, width)) < 0.02, rng.integers(0, num_classes, (height, width)), labels).astype(
        np.uint8
    )


def images(
    seed=0, num_classes=5, sizes=((31, 45), (20, 27), (7, 5), (1, 9), (8, 1), (1, 1), (4, 1), (40, 33)), void=0.1
):
    """Pairs of prediction and truth: odd sizes, smaller than every window, with void patches; one is of one class."""
    rng = np.random.default_rng(seed)
    pairs = []
    for height, width in sizes:
        truth = patches(rng, height, width, num_classes)
        wrong = patches(rng, height, width, num_classes)
        moved = np.roll(truth, (1, -2), (0, 1))
        prediction = np.where(patches(rng, height, width, 4) == 0, wrong, moved)
        truth[patches(rng, height, width, 10) < 10 * void] = VOID
        pairs.append((prediction, truth))
    pairs.append((pairs[0][0], np.full_like(pairs[0][1], 2)))
    pairs.append((pairs[0][0], np.full_like(pairs[0][1], VOID)))
    return pairs


def run(part, pairs):
    for prediction, truth in pairs:
        part.update(prediction, truth, {})
    return part.results(part.counts())


def mean_iou(matrix, absent):
    """The mean IoU of a confusion matrix [truth, prediction], class by class."""
    values = []
    for label in range(len(matrix)):
        in_truth, union = matrix[label].sum(), matrix[label].sum() + matrix[:, label].sum() - matrix[label, label]
        if absent == "truth" and not in_truth:
            continue
        if union:
            values.append(matrix[label, label] / union)
        elif absent in ("zero", "one"):
            values.append(float(absent == "one"))
    return np.mean(values) if values else np.nan


def direct_edges(labels):
    """A 4-neighbour of another label, neither of them void; outside of the image is void."""
    padded = np.pad(labels, 1, constant_values=VOID)
    around = [padded[1:-1, :-2], padded[1:-1, 2:], padded[:-2, 1:-1], padded[2:, 1:-1]]
    return sum((other != labels) & (other != VOID) for other in around).astype(bool) & (labels != VOID)


def direct_trimap(pairs, num_classes, width, absent="exclude"):
    matrix = np.zeros((num_classes, num_classes), int)
    for prediction, truth in pairs:
        edges = direct_edges(truth)
        if not edges.any():
            continue
        near = (ndimage.distance_transform_edt(~edges) + 1 <= width + 1e-9) & (truth != VOID)
        np.add.at(matrix, (truth[near], prediction[near]), 1)
    return 100 * mean_iou(matrix, absent)


def direct_contour(mask):
    """DAVIS' contour: unlike the right, lower or lower-right neighbour; the last row and column as if repeated."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])


def direct_f_score(pairs, num_classes, radius):
    grid = np.arange(-radius, radius + 1)
    disk = grid[:, None] ** 2 + grid[None] ** 2 <= radius**2
    means = []
    for label in range(num_classes):
        scores = []
        for prediction, truth in pairs:
            true = direct_contour(truth == label)
            if not true.any():
                continue
            guess = direct_contour((prediction == label) & (truth != VOID))
            hits = (guess & ndimage.binary_dilation(true, disk)).sum()
            found = (true & ndimage.binary_dilation(guess, disk)).sum()
            precision, recall = hits / guess.sum() if guess.any() else 1.0, found / true.sum()
            scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
        if scores:
            means.append(np.mean(scores))
    return 100 * np.mean(means) if means else np.nan


def class_bands(labels, num_classes, distance):
    """Per class, boundary-iou-api's band: the mask without its erosion by a square; outside of the image is another."""
    window = np.ones((2 * distance + 1,) * 2, bool)
    masks = [labels == label for label in range(num_classes)]
    return [mask & ~ndimage.binary_erosion(mask, window, border_value=0) for mask in masks]


def direct_boundary_iou(pairs, num_classes, absent="exclude"):
    sums = np.zeros((3, num_classes), int)
    for prediction, truth in pairs:
        distance = max(1, round(0.02 * np.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2)))
        true = class_bands(truth, num_classes, distance)
        guess = class_bands(np.where(truth == VOID, VOID, prediction), num_classes, distance)
        for label, (one, other) in enumerate(zip(true, guess, strict=True)):
            sums[:, label] += (one & other).sum(), (one | other).sum(), one.sum()
    values = []
    for both, union, in_truth in sums.T:
        if absent == "truth" and not in_truth:
            continue
        if union:
            values.append(both / union)
        elif absent in ("zero", "one"):
            values.append(float(absent == "one"))
    return 100 * np.mean(values) if values else np.nan


@pytest.mark.parametrize("void", [0.0, 0.3])
@pytest.mark.parametrize("absent", ABSENT_POLICIES)
def test_trimap_is_the_direct_one(absent, void):
    """Class 6 of 8 is predicted but in no truth, class 7 in neither: the policy shows."""
    pairs = images(void=void)
    pairs[0][0][5:9, 5:9] = 6
    results = run(TrimapIoU(num_classes=8, absent=absent), pairs)
    expected = [direct_trimap(pairs, 8, width, absent) for width in WIDTHS]
    assert list(results) == [*(f"trimap_mIoU_{width}px" for width in WIDTHS), "trimap_mIoU"]
    np.testing.assert_allclose(list(results.values()), [*expected, np.mean(expected)], rtol=0, atol=1e-9)
    assert len(set(results.values())) >= 4


@pytest.mark.parametrize("void", [0.0, 0.3])
def test_f_score_is_the_direct_one(void):
    pairs = images(void=void)
    results = run(BoundaryFScore(num_classes=7), pairs)
    expected = [direct_f_score(pairs, 7, radius) for radius in WIDTHS]
    assert list(results) == [*(f"boundary_F_{radius}px" for radius in WIDTHS), "boundary_F"]
    np.testing.assert_allclose(list(results.values()), [*expected, np.mean(expected)], rtol=0, atol=1e-9)
    assert len(set(results.values())) == 5


@pytest.mark.parametrize("void", [0.0, 0.3])
@pytest.mark.parametrize("absent", ABSENT_POLICIES)
def test_boundary_iou_is_the_direct_one(absent, void):
    pairs = images(void=void)
    pairs[0][0][5:9, 5:9] = 6
    results = run(BoundaryIoU(num_classes=8, absent=absent), pairs)
    assert list(results) == ["boundary_IoU"]
    assert results["boundary_IoU"] == pytest.approx(direct_boundary_iou(pairs, 8, absent), rel=0, abs=1e-9)


@needs_camvid
def test_real_labels():
    """Three truths of CamVid val, halved, moved by two pixels; void in the prediction is road."""
    pairs = []
    for record in camvid.load_camvid("val", REAL_ROOT)[::40]:
        truth = read_labels(record, num_classes=11)[::2, ::2]
        moved = np.roll(truth, 2, axis=1)
        pairs.append((np.where(moved == VOID, 3, moved).astype(np.uint8), truth))
    trimap, f_score, iou = boundary_parts(11)
    expected = [direct_trimap(pairs, 11, width) for width in WIDTHS]
    np.testing.assert_allclose(list(run(trimap, pairs).values())[:4], expected, rtol=0, atol=1e-9)
    assert run(f_score, pairs)["boundary_F_3px"] == pytest.approx(direct_f_score(pairs, 11, 3), rel=0, abs=1e-9)
    assert run(iou, pairs)["boundary_IoU"] == pytest.approx(direct_boundary_iou(pairs, 11), rel=0, abs=1e-9)


@needs_camvid
def test_the_simulated_error_of_the_literature():
    """24 truths of CamVid val seen at stride 4, nearest: trimap mIoU far below mIoU (81.6) and rising, F far above.

    Expected are numbers of another implementation, on maps it does not name, with a pixel more on each side.
    """
    trimap, f_score = TrimapIoU(num_classes=11, widths_px=(4, 6, 9, 13)), BoundaryFScore(num_classes=11)
    for record in camvid.load_camvid("val", REAL_ROOT)[:24]:
        truth = read_labels(record, num_classes=11)
        nearest = ndimage.distance_transform_edt(truth == VOID, return_distances=False, return_indices=True)
        coarse = np.kron(truth[tuple(nearest)][::4, ::4], np.ones((4, 4), np.uint8))
        for part in (trimap, f_score):
            part.update(coarse, truth, {})
    *widths, _ = trimap.results(trimap.counts()).values()
    *radii, _ = f_score.results(f_score.counts()).values()
    assert widths == pytest.approx([58.8, 66.8, 72.0, 75.0], abs=1.6)
    assert radii == pytest.approx([92.7, 95.3, 95.9, 96.2], abs=3.5)


@pytest.mark.parametrize("part", range(3))
def test_halves_add_up_bit_for_bit(part):
    pairs = images(seed=3)
    whole, one, two = (boundary_parts(6)[part] for _ in range(3))
    results = run(whole, pairs)
    run(one, pairs[::2]), run(two, pairs[1::2])
    added = {name: counts + two.counts()[name] for name, counts in one.counts().items()}
    for name, counts in whole.counts().items():
        assert counts.dtype == np.int64
        np.testing.assert_array_equal(added[name], counts)
    assert whole.results(added) == results


@pytest.mark.parametrize("part", range(3))
def test_void_may_have_another_number(part):
    pairs = images(seed=4)
    usual = run(boundary_parts(6)[part], pairs)
    renamed = [(prediction, np.where(truth == VOID, 9, truth).astype(np.uint8)) for prediction, truth in pairs]
    assert run(boundary_parts(6, ignore_label=9)[part], renamed) == usual


@pytest.mark.parametrize("part", range(3))
def test_right_everywhere_is_100_and_nothing_is_nan(part):
    truths = [truth for _, truth in images(seed=5, void=0.0)[:2]]
    assert set(run(boundary_parts(5)[part], [(truth, truth) for truth in truths]).values()) == {100.0}
    assert all(np.isnan(value) for value in boundary_parts(5)[part].results(boundary_parts(5)[part].counts()).values())


@pytest.mark.parametrize("part", range(3))
def test_views_are_counted_as_what_they_show(part):
    prediction, truth = images(seed=6)[0]
    one = run(boundary_parts(5)[part], [(prediction[:, ::-2], truth[:, ::-2])])
    assert one == run(boundary_parts(5)[part], [(prediction[:, ::-2].copy(), truth[:, ::-2].copy())])


def test_a_straight_edge_has_as_many_pixels_on_each_side_as_the_width_says():
    truth = np.repeat(np.array([0, 1], np.uint8), 20)[None].repeat(7, axis=0)
    part = TrimapIoU(num_classes=2)
    part.update(truth, truth, {})
    for width, counts in zip(WIDTHS, part.counts()["trimap"], strict=True):
        np.testing.assert_array_equal(counts, np.diag([7 * width] * 2))


def test_void_makes_no_edge_in_a_trimap():
    truth = np.array([[0, 0, 0, VOID, 1, 1, 1, 0, 0, 0]] * 2, np.uint8)
    assert edge_pixels(truth).tolist() == [[False] * 6 + [True] * 2 + [False] * 2] * 2


@pytest.mark.parametrize("reach", [0, 1, 4, 11, 15])
def test_bounded_distance_is_scipys(reach):
    rng = np.random.default_rng(reach)
    for height, width in ((140, 37), (65, 9), (3, 50), (1, 1), (1, 20), (4, 1), (2, 2)):
        mask = rng.random((height, width)) < 0.01
        mask[height // 2, width // 2] = True
        expected = np.rint(ndimage.distance_transform_edt(~mask) ** 2)
        squared = squared_distance(mask, reach).astype(int)
        near = expected <= reach**2
        np.testing.assert_array_equal(squared[near], expected[near])
        assert (squared[~near] > reach**2).all()


def test_the_window_holds_two_labels_exactly_on_the_bands_of_the_classes():
    for (_, truth), distance in zip(images(), (1, 2, 3, 1, 2, 1, 1, 4), strict=False):
        union = np.any(class_bands(truth, 256, distance), axis=0)
        np.testing.assert_array_equal(label_band(truth, distance), union)


def test_eroding_the_label_map_is_something_else():
    """Detectron2's band, label minus smallest label around, for two labels: it holds a label that is not there."""
    labels = np.full((20, 20), 5, np.uint8)
    labels[:, 10:] = 7
    eroded = cv2.erode(cv2.copyMakeBorder(labels, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0), np.ones((3, 3)))[
        1:-1, 1:-1
    ]
    assert set(np.unique(labels - eroded)) == {0, 2, 5, 7}
    assert set(np.unique(labels[label_band(labels, 1)])) == {5, 7}
    assert label_band(labels, 1)[5].tolist() == [True] + [False] * 8 + [True] * 2 + [False] * 8 + [True]
    assert not (labels - eroded)[5, 9], "the side of the smaller label is not in its band"


def test_the_band_is_two_percent_of_the_diagonal():
    assert [band_width_px(*size) for size in ((1024, 2048), (512, 683), (3, 4), (360, 480))] == [46, 17, 1, 12]


def test_more_classes_in_an_image_than_bits_in_a_word():
    rng = np.random.default_rng(7)
    truth = patches(rng, 60, 60, 3 * WORD_BITS, size=5)
    pairs = [(patches(rng, 60, 60, 3 * WORD_BITS, size=5), truth), (np.roll(truth, 3, axis=0), truth)]
    results = run(BoundaryFScore(num_classes=3 * WORD_BITS, radii_px=(2, 4)), pairs)
    expected = [direct_f_score(pairs, 3 * WORD_BITS, radius) for radius in (2, 4)]
    np.testing.assert_allclose([results["boundary_F_2px"], results["boundary_F_4px"]], expected, rtol=0, atol=1e-9)


def test_an_image_counts_for_the_classes_of_its_truth_alone():
    """Predicted, but not true: costs nothing. Nor does a class that fills an image. A missed one is 0."""
    truth = np.zeros((20, 20), np.uint8)
    truth[5:15, 5:15] = 1
    part = BoundaryFScore(num_classes=4)
    part.update(np.where(truth == 1, 0, 2).astype(np.uint8), truth, {})
    part.update(truth, np.zeros_like(truth), {})
    assert part.counts()["boundary_F_images"].tolist() == [1, 1, 0, 0]
    assert part.counts()["boundary_F"][0, 1] == 0


def test_wrong_arguments_are_refused():
    for part in (TrimapIoU, BoundaryIoU):
        with pytest.raises(ValueError, match=r"policy for absent classes is 'skip'.*exclude"):
            part(num_classes=3, absent="skip")
    with pytest.raises(ValueError, match=r"widths of a trimap are 1 .. 16 px, not \(3, 17\)"):
        TrimapIoU(num_classes=3, widths_px=(3, 17))
    with pytest.raises(ValueError, match=r"radii are ascending whole pixels, not \(5, 3\)"):
        BoundaryFScore(num_classes=3, radii_px=(5, 3))


def test_every_part_says_what_it_counts():
    notes = [part.note for part in boundary_parts(3)]
    assert "3, 5, 8, 12 px" in notes[0] and all("void" in note and "\n" not in note for note in notes)
    assert boundary.VOID == VOID
