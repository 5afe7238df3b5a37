"""The confusion matrix against numpy's bincount, torchmetrics and closed forms. What peers make of absent classes is in
test_absent_classes.py."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from scaleeq.evaluation import confusion
from scaleeq.evaluation.confusion import (
    ABSENT_POLICIES,
    ConfusionMatrix,
    PairCounts,
    add_pixels,
    add_runs,
    find_changes,
    metrics_from_counts,
)


def random_pair(rng, num_classes, shape=(37, 53), void=0.1, absent=(), never_true=()):
    """Prediction and truth; absent classes are in neither, never_true ones are predicted only."""
    classes = [label for label in range(num_classes) if label not in absent]
    true = [label for label in classes if label not in never_true]
    truth = rng.choice(true, shape).astype(np.uint8)
    guess = rng.choice(classes, shape).astype(np.uint8)
    prediction = np.where(rng.random(shape) < 0.6, truth, guess).astype(np.uint8)
    truth[rng.random(shape) < void] = 255
    return prediction, truth


def used_scratch(size):
    """What the buffers held before makes no difference."""
    return np.full((2, -(-size // 8) * 8), 7, np.uint8)


def runs(prediction, truth):
    """(256, 256) counts, by runs alone."""
    counts = np.zeros((256, 256), np.int64)
    words = find_changes(prediction, truth, scratch=used_scratch(truth.size))
    add_runs(prediction, truth, counts, words, np.flatnonzero(words))
    return counts


def pixels(prediction, truth):
    """(256, 256) counts, pixel by pixel alone."""
    histogram = np.zeros((256, 256), np.float32)
    add_pixels(prediction, truth, histogram)
    return histogram


def ways_used(monkeypatch):
    """The names of the functions that count from now on."""
    used = []
    for name in ("add_runs", "add_pixels"):
        function = getattr(confusion, name)
        monkeypatch.setattr(confusion, name, lambda *a, f=function, n=name: (used.append(n), f(*a)))
    return used


@pytest.mark.parametrize("count", [pixels, runs])
@pytest.mark.parametrize("num_classes", [1, 2, 3, 7, 19, 150, 254, 255])
def test_every_pair_lands_in_its_cell(num_classes, count):
    """Each pair (t, p) occurs (t * K + p) % 5 + 1 times; bincount is the oracle. Bins of floats round nothing wrong."""
    cells = np.repeat(np.arange(num_classes**2), np.arange(num_classes**2) % 5 + 1)
    truth, prediction = (part.astype(np.uint8) for part in np.divmod(cells, num_classes))
    expected = np.zeros((256, 256), int)
    expected[:num_classes, :num_classes] = np.bincount(cells, minlength=num_classes**2).reshape(num_classes, -1)
    np.testing.assert_array_equal(count(prediction, truth), expected)


@pytest.mark.parametrize("mean_run", [1, 2, 7, 10, 13, 30, 10_000])
def test_runs_of_any_length(mean_run, monkeypatch):
    """Both ways of counting, and the one that is chosen, are bincount's; long runs are counted as runs."""
    rng, number = np.random.default_rng(mean_run), 40_000 // mean_run + 50
    truth, prediction = (
        np.repeat(rng.integers(0, 7, number, np.uint8), rng.geometric(1 / (2 * mean_run), number))[:40_000]
        for _ in range(2)
    )
    expected = np.bincount(truth.astype(int) * 7 + prediction, minlength=49).reshape(7, 7)
    matrix, used = ConfusionMatrix(num_classes=7), ways_used(monkeypatch)
    matrix.update(prediction.reshape(200, 200), truth.reshape(200, 200))
    for counts in (matrix.counts, runs(prediction, truth)[:7, :7], pixels(prediction, truth)[:7, :7]):
        np.testing.assert_array_equal(counts, expected)
    if mean_run != 10:  # near the limit
        assert used[0] == ("add_pixels" if mean_run < 10 else "add_runs")


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 63, 64, 65])
def test_words_that_are_not_full(size):
    """Sizes around multiples of eight pixels, as one row and as one column; all ways."""
    rng = np.random.default_rng(size)
    truth, prediction = (np.sort(rng.integers(0, 3, size, np.uint8)) for _ in range(2))
    expected = np.bincount(truth.astype(int) * 3 + prediction, minlength=9).reshape(3, 3)
    for shape in ((1, size), (size, 1)):
        matrix = ConfusionMatrix(num_classes=3)
        matrix.update(prediction.reshape(shape), truth.reshape(shape))
        np.testing.assert_array_equal(matrix.counts, expected)
    np.testing.assert_array_equal(runs(prediction, truth)[:3, :3], expected)
    np.testing.assert_array_equal(PairCounts().of(prediction, truth)[:3, :3], expected)


def test_images_of_different_sizes_share_the_buffers():
    """A smaller image after a larger one; stripes are counted by runs."""
    matrix, expected = ConfusionMatrix(num_classes=9), np.zeros(81, int)
    for height, width in ((90, 120), (40, 60), (91, 119), (1, 2000), (2000, 1)):
        truth, prediction = (
            np.resize(np.repeat(np.arange(9, dtype=np.uint8), run), (height, width)) for run in (40, 47)
        )
        matrix.update(prediction, truth)
        expected += np.bincount((truth.astype(int) * 9 + prediction).ravel(), minlength=81)
    np.testing.assert_array_equal(matrix.counts.ravel(), expected)


@pytest.mark.parametrize("num_classes", [2, 11, 150])
def test_void_is_dropped(num_classes):
    prediction, truth = random_pair(np.random.default_rng(0), num_classes)
    matrix = ConfusionMatrix(num_classes=num_classes)
    matrix.update(prediction, truth)
    kept = truth != 255
    flat = truth[kept].astype(int) * num_classes + prediction[kept]
    np.testing.assert_array_equal(matrix.counts.ravel(), np.bincount(flat, minlength=num_classes**2))
    assert matrix.counts.dtype == np.int64


@pytest.mark.parametrize("always", ["runs", "pixels"])
def test_counts_beyond_float32_are_exact(monkeypatch, always):
    """17 million pixels in one cell: a float32 bin would stop at 2^24."""
    monkeypatch.setattr(confusion, "MANY_CHANGES", {"runs": 2, "pixels": -1}[always])
    size = (1 << 24) + 12_345
    prediction, truth = np.zeros((1, size), np.uint8), np.zeros((1, size), np.uint8)
    truth[0, :2000:2] = 1
    matrix = ConfusionMatrix(num_classes=2)
    matrix.update(prediction, truth)
    np.testing.assert_array_equal(matrix.counts, [[size - 1000, 0], [1000, 0]])


@pytest.mark.parametrize("void", [0, 0.1])
def test_tiles_add_up(monkeypatch, void):
    """Tiles that are counted in either way, the last one short."""
    monkeypatch.setattr(confusion, "TILE_PIXELS", 96)
    used = ways_used(monkeypatch)
    prediction, truth = random_pair(np.random.default_rng(1), 5, void=void)
    prediction[10:20], truth[10:20] = 2, 3
    matrix = ConfusionMatrix(num_classes=5)
    matrix.update(prediction, truth)
    kept = truth != 255
    expected = np.bincount(truth[kept].astype(int) * 5 + prediction[kept], minlength=25).reshape(5, 5)
    np.testing.assert_array_equal(matrix.counts, expected)
    assert set(used) == {"add_runs", "add_pixels"}


def test_views_are_counted_as_what_they_show():
    prediction, truth = random_pair(np.random.default_rng(2), 4)
    one, two = ConfusionMatrix(num_classes=4), ConfusionMatrix(num_classes=4)
    one.update(prediction[:, ::-2], truth[:, ::-2])
    two.update(prediction[:, ::-2].copy(), truth[:, ::-2].copy())
    np.testing.assert_array_equal(one.counts, two.counts)


def test_working_memory_is_not_sent_along():
    matrix = ConfusionMatrix(num_classes=3)
    matrix.update(*random_pair(np.random.default_rng(0), 3))
    sent = pickle.dumps(matrix)
    assert len(sent) < 2000
    np.testing.assert_array_equal(pickle.loads(sent).counts, matrix.counts)


def test_parts_merge_to_the_whole():
    rng = np.random.default_rng(3)
    whole, parts = ConfusionMatrix(num_classes=6), [ConfusionMatrix(num_classes=6) for _ in range(2)]
    for index in range(6):
        pair = random_pair(rng, 6)
        whole.update(*pair)
        parts[index % 2].update(*pair)
    parts[0].merge(parts[1])
    np.testing.assert_array_equal(parts[0].counts, whole.counts)
    with pytest.raises(ValueError, match="cannot be merged"):
        whole.merge(ConfusionMatrix(num_classes=7))


def test_by_hand():
    metrics = metrics_from_counts(np.array([[6, 2], [1, 1]]))
    np.testing.assert_allclose(metrics.iou, [6 / 9, 1 / 4], rtol=1e-15)
    np.testing.assert_allclose(metrics.accuracy, [6 / 8, 1 / 2], rtol=1e-15)
    assert metrics.mean_iou == pytest.approx((6 / 9 + 1 / 4) / 2, rel=1e-15)
    assert metrics.frequency_weighted_iou == pytest.approx(0.8 * 6 / 9 + 0.2 / 4, rel=1e-15)
    assert metrics.mean_accuracy == pytest.approx(0.625, rel=1e-15)
    assert metrics.pixel_accuracy == pytest.approx(0.7, rel=1e-15)


@pytest.mark.parametrize(
    ("absent", "never_true"),
    [((), ()), ((2, 5), ()), ((), (3,)), ((0, 7), (1, 4))],
    ids=["all", "absent", "ghost", "both"],
)
def test_equal_to_torchmetrics_jaccard(absent, never_true):
    """torchmetrics reduces in float32: its classes' values are compared through float64 of its own integer matrix,
    and the reduced value at float32's precision, which also fixes which classes it leaves out."""
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.classification")
    rng = np.random.default_rng(4)
    ours = ConfusionMatrix(num_classes=9)
    theirs = classification.MulticlassJaccardIndex(9, average="macro", ignore_index=255)
    for _ in range(4):
        prediction, truth = random_pair(rng, 9, absent=absent, never_true=never_true)
        ours.update(prediction, truth)
        theirs.update(torch.from_numpy(prediction).long()[None], torch.from_numpy(truth).long()[None])
    metrics = ours.metrics()
    matrix = theirs.confmat.numpy().astype(np.float64)
    np.testing.assert_array_equal(ours.counts, matrix)
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    present = union > 0
    iou = np.diag(matrix)[present] / union[present]
    np.testing.assert_allclose(metrics.iou[present], iou, rtol=1e-12)
    assert np.isnan(metrics.iou[~present]).all() and set(np.flatnonzero(~present)) == set(absent)
    assert metrics.mean_iou == pytest.approx(iou.mean(), abs=1e-9)
    assert metrics.mean_iou == pytest.approx(theirs.compute().item(), abs=1e-6)


def test_policies_for_absent_classes():
    counts = np.array([[8, 0, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 10]])  # 1 absent, 2 only predicted
    by_policy = {policy: metrics_from_counts(counts, absent=policy) for policy in ABSENT_POLICIES}
    nan = np.nan
    expected = {
        "exclude": ([0.8, nan, 0, 1], [0.8, nan, nan, 1], 0.6, 0.9),
        "zero": ([0.8, 0, 0, 1], [0.8, 0, 0, 1], 0.45, 0.45),
        "one": ([0.8, 1, 0, 1], [0.8, 1, 1, 1], 0.7, 0.95),
        "truth": ([0.8, nan, nan, 1], [0.8, nan, nan, 1], 0.9, 0.9),
    }
    assert set(expected) == set(by_policy)
    for policy, (iou, accuracy, mean_iou, mean_accuracy) in expected.items():
        metrics = by_policy[policy]
        np.testing.assert_allclose(metrics.iou, iou, err_msg=policy)
        np.testing.assert_allclose(metrics.accuracy, accuracy, err_msg=policy)
        assert (metrics.mean_iou, metrics.mean_accuracy) == pytest.approx((mean_iou, mean_accuracy)), policy
        assert metrics.frequency_weighted_iou == metrics.pixel_accuracy == pytest.approx(0.9), policy
    with pytest.raises(ValueError, match=r"'two'; choose one of exclude, zero, one, truth"):
        metrics_from_counts(counts, absent="two")


def test_nothing_but_void_has_no_metrics():
    matrix = ConfusionMatrix(num_classes=3)
    matrix.update(np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8))
    metrics = matrix.metrics()
    assert np.isnan([metrics.mean_iou, metrics.mean_accuracy, metrics.pixel_accuracy]).all()
    assert np.isnan(metrics.frequency_weighted_iou)


@pytest.mark.parametrize("run", [1, 60], ids=["noise", "long runs"])
def test_undeclared_labels_are_refused_and_not_counted(run, monkeypatch):
    """Both ways of counting see them."""
    prediction, truth = (
        np.repeat(labels, run, axis=1) for labels in random_pair(np.random.default_rng(5), 4, shape=(37, 53))
    )
    matrix, used = ConfusionMatrix(num_classes=4), ways_used(monkeypatch)
    wrong = truth.copy()
    wrong[3, 5], wrong[9, 9] = 4, 17
    with pytest.raises(ValueError, match=r"truth of street.png holds \[4, 17\].*0 .. 3 and 255"):
        matrix.update(prediction, wrong, source="street.png")
    wrong = prediction.copy()
    wrong[truth != 255] = 9
    with pytest.raises(ValueError, match=r"prediction of street.png holds \[9\]"):
        matrix.update(wrong, truth, source="street.png")
    assert matrix.counts.sum() == 0
    wrong = np.where(truth == 255, 9, prediction).astype(np.uint8)
    matrix.update(wrong, truth)  # a prediction on void is nobody's business
    assert matrix.counts.sum() == (truth != 255).sum()
    assert set(used) == {"add_pixels" if run == 1 else "add_runs"}


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (np.zeros((4, 5), np.uint8), np.zeros((4, 4), np.uint8), r"\(4, 5\).*\(4, 4\)"),
        (np.zeros((4, 4), np.int64), np.zeros((4, 4), np.uint8), "int64"),
        (np.zeros((4, 4), np.uint8), np.zeros((1, 4, 4), np.uint8), r"\(1, 4, 4\)"),
    ],
)
def test_shapes_and_types_are_checked(prediction, truth, message):
    with pytest.raises(ValueError, match=message):
        ConfusionMatrix(num_classes=4).update(prediction, truth)


@pytest.mark.parametrize("arguments", [{"num_classes": 0}, {"num_classes": 256}, {"num_classes": 8, "ignore_label": 7}])
def test_impossible_classes_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        ConfusionMatrix(**arguments)
