"""Metrics of depth, normals, saliency, parts and edges, each against a few lines of float64; and how they add up."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from scaleeq.evaluation import edges as edge_metrics
from scaleeq.evaluation.classes import ClassesScore
from scaleeq.evaluation.depth import DepthRange, DepthScore
from scaleeq.evaluation.edges import EdgesScore, match_counts, ods_f, suppressed
from scaleeq.evaluation.normals import NormalsScore, angles
from scaleeq.evaluation.saliency import SaliencyScore
from scaleeq.evaluation.values import ValuesEvaluator, add

RNG = np.random.default_rng(0)
SIZES = [(12, 17), (9, 30), (21, 8)]


def unit(shape, rng=RNG):
    vectors = rng.normal(size=(3, *shape))
    return (vectors / np.linalg.norm(vectors, axis=0)).astype(np.float32)


def marks(shape, rng=RNG):
    return rng.choice(np.array([0, 0, 0, 1, 255], np.uint8), shape)


def depths(shape, rng=RNG):
    return (rng.uniform(0.5, 9, shape) * (rng.random(shape) > 0.2)).astype(np.float32)


# Score -> (score, prediction of a shape, truth of it, value of the padding of a truth).
CASES = {
    "depth": (DepthScore(), lambda s: RNG.uniform(0.1, 9, (1, *s)).astype(np.float32), depths, 0),
    "normals": (NormalsScore(), unit, lambda s: unit(s) * (RNG.random(s) > 0.2), 0),
    "saliency": (SaliencyScore(), lambda s: RNG.random((1, *s)).astype(np.float32), marks, 255),
    "images_15": (SaliencyScore("images_15"), lambda s: RNG.random((1, *s)).astype(np.float32), marks, 255),
    "human_parts": (
        ClassesScore("abcdefg"),
        lambda s: RNG.normal(size=(7, *s)).astype(np.float32),
        lambda s: RNG.choice(np.array([0, 1, 2, 3, 4, 5, 6, 255], np.uint8), s),
        255,
    ),
    "edges": (EdgesScore(tolerance=0.08), lambda s: RNG.random((1, *s)).astype(np.float32), marks, 255),
}


def scored(score, pairs):
    import copy

    score = copy.deepcopy(score)
    for prediction, truth in pairs:
        score.update(prediction, truth, "a.png")
    return score


def pairs_of(name):
    _, predict, truth, _ = CASES[name]
    return [(predict(size), truth(size)) for size in SIZES * 2]


@pytest.mark.parametrize("name", CASES)
def test_counts_of_one_two_and_three_parts_and_any_order_give_the_same_digits(name):
    score, pairs = CASES[name][0], pairs_of(name)
    whole = scored(score, pairs)
    expected = whole.results(whole.counts())
    assert all(math.isfinite(value) for value in expected.values())
    for parts in ([pairs[:1], pairs[1:]], [pairs[3:], pairs[:2], pairs[2:3]], [pairs[::-1], []]):
        assert score.results(add([scored(score, part).counts() for part in parts])) == expected


@pytest.mark.parametrize("name", [name for name in CASES if name != "edges"])
def test_padding_changes_no_metric(name):
    score, _, _, padding = CASES[name]
    pairs = pairs_of(name)
    wide = [
        (
            np.pad(prediction, ((0, 0), (0, 5), (0, 3)), constant_values=0.7),
            np.pad(truth, (*[(0, 0)] * (truth.ndim - 2), (0, 5), (0, 3)), constant_values=padding),
        )
        for prediction, truth in pairs
    ]
    counts = [scored(score, each).counts() for each in (pairs, wide)]
    assert score.results(counts[1]) == pytest.approx(score.results(counts[0]), rel=1e-12)


def test_no_image_is_nan_and_one_without_truth_adds_nothing():
    for name, (score, predict, _, padding) in CASES.items():
        assert all(math.isnan(value) for value in score.results(score.counts()).values()), name
        pairs = pairs_of(name)
        if name != "images_15":  # there it is one of the images
            nothing = (predict((5, 6)), np.full((3, 5, 6) if name == "normals" else (5, 6), padding, pairs[0][1].dtype))
            counts = [scored(score, each).counts() for each in (pairs, [*pairs, nothing])]
            assert score.results(counts[0]) == score.results(counts[1]), name


# --- depth ---


def test_depth_against_a_reference():
    pairs = pairs_of("depth")
    score = scored(DepthScore(), pairs)
    found = score.results(score.counts())
    p = np.concatenate([a[0][b > 0] for a, b in pairs]).astype(np.float64)
    t = np.concatenate([b[b > 0] for _, b in pairs]).astype(np.float64)
    logs = [np.log(a[0][b > 0].astype(np.float64)) - np.log(b[b > 0].astype(np.float64)) for a, b in pairs]
    ratio = np.maximum(p / t, t / p)
    expected = {
        "rmse": np.sqrt(np.mean((p - t) ** 2)),
        "absRel": np.mean(np.abs(p - t) / t),
        "sqRel": np.mean((p - t) ** 2 / t),
        "RMSElog": np.sqrt(np.mean((np.log(p) - np.log(t)) ** 2)),
        "SILog": 100 * np.mean([np.sqrt(np.mean(d**2) - np.mean(d) ** 2) for d in logs]),
        **{f"delta{k}": 100 * np.mean(ratio < 1.25**k) for k in (1, 2, 3)},
    }
    assert found == pytest.approx(expected, rel=1e-9)


def test_rmse_is_pooled_over_pixels_not_the_mean_of_images():
    """Errors of 0.1, 0.5 and 1.5 m: 0.915 pooled, 0.7 as a mean over images."""
    truth = np.full((4, 4), 2.0, np.float32)
    score = scored(DepthScore(), [((truth + error)[None], truth) for error in (0.1, 0.5, 1.5)])
    assert score.results(score.counts())["rmse"] == pytest.approx(math.sqrt((0.01 + 0.25 + 2.25) / 3), rel=1e-6)


def test_limits_and_crop_of_depth():
    limits = DepthRange(crop="eigen_nyu", closest=0.001, farthest=10.0)
    score = DepthScore(limits)
    truth = np.full((480, 640), 5.0, np.float32)
    truth[:, 300:] = 12.0
    score.update(np.full((1, 480, 640), 50.0, np.float32), truth, "a.png")
    assert score.counts()["pixels"] == 426 * (300 - 41)
    assert score.results(score.counts())["rmse"] == 5.0, "a prediction is brought inside the limits"
    assert "eigen_nyu" in score.note and "10 m" in score.note
    with pytest.raises(ValueError, match=r"480 x 640 pixels, but that of b\.png is 4 x 4"):
        score.update(np.ones((1, 4, 4), np.float32), np.ones((4, 4), np.float32), "b.png")
    with pytest.raises(ValueError, match=r"TEST\.DEPTH\.MAX is 1"):
        DepthRange(closest=2.0, farthest=1.0)


# --- normals ---


def test_normals_against_a_reference():
    pairs = pairs_of("normals")
    score = scored(NormalsScore(), pairs)
    found = score.results(score.counts())
    known = [np.linalg.norm(b, axis=0) > 0.5 for _, b in pairs]
    dots = np.concatenate([(a.astype(np.float64) * b).sum(0)[k] for (a, b), k in zip(pairs, known, strict=True)])
    degrees = np.degrees(np.arccos(np.clip(dots, -1, 1)))
    assert found["mean"] == pytest.approx(degrees.mean(), rel=1e-6)
    assert found["median"] == pytest.approx(np.median(degrees), abs=0.001)
    for limit in (11.25, 22.5, 30):
        assert found[f"below{limit:g}"] == pytest.approx(100 * np.mean(degrees < limit))


def test_traps_of_normals():
    same = unit((40, 50))
    assert angles(same.reshape(3, -1), same.reshape(3, -1)).max() == 0.0, "acos of float32 gives 0.0073 degrees"
    diagonal = np.array([1, -1, 0], np.float32)[:, None, None] / np.sqrt(np.float32(2))
    stored = np.array([-0.0039, 0.0039, 0.0039], np.float32)[:, None, None]  # zero, as 8 bits have it
    truth = np.concatenate([diagonal, stored], axis=2)
    score = scored(NormalsScore(), [(np.array([0, 0, -1], np.float32)[:, None, None] * np.ones((1, 1, 2)), truth)])
    assert score.counts()["pixels"] == 1 and score.results(score.counts())["mean"] == pytest.approx(90)
    nowhere = scored(NormalsScore(), [(np.zeros((3, 1, 1), np.float32), diagonal)])
    assert nowhere.results(nowhere.counts())["mean"] == pytest.approx(90)


# --- saliency ---


@pytest.mark.parametrize("kind", ["pooled_19", "pooled_255", "images_15"])
def test_max_f_against_a_reference(kind):
    pairs = pairs_of("saliency")
    score = scored(SaliencyScore(kind), pairs)
    thresholds = {"pooled_19": np.arange(1, 20) * 0.05, "pooled_255": np.arange(255) / 255}
    best = 0.0
    for threshold in thresholds.get(kind, np.linspace(0.2, 0.9, 15)).astype(np.float32):
        hits = [
            (((a[0] > threshold) & (b == 1)).sum(), ((a[0] > threshold) & (b != 255)).sum(), (b == 1).sum())
            for a, b in pairs
        ]
        if kind == "images_15":
            precision, recall = np.mean([h / max(p, 1) for h, p, _ in hits]), np.mean([h / t for h, _, t in hits])
        else:
            h, p, t = np.sum(hits, axis=0)
            precision, recall = h / max(p, 1), h / t
        best = max(best, 1.3 * precision * recall / max(0.3 * precision + recall, 1e-12))
    assert score.results(score.counts())["maxF"] == pytest.approx(100 * best, rel=1e-9)


# --- edges ---


def test_ods_sums_counts_before_f():
    counts = RNG.integers(1, 50, (7, 5, 4))
    counts[..., 1] += counts[..., 0]
    counts[..., 3] += counts[..., 2]
    f = lambda c: 2 * (c[2] / c[3]) * (c[0] / c[1]) / (c[2] / c[3] + c[0] / c[1])  # noqa: E731
    ods = max(f(counts[:, t].sum(0)) for t in range(5))
    best = [max(range(5), key=lambda t: f(counts[i, t])) for i in range(7)]
    ois = f(sum(counts[i, t] for i, t in enumerate(best)))
    assert ods_f(counts) == pytest.approx((ods, ois), rel=1e-12)


@pytest.mark.parametrize("tolerance", [0.05, 0.12])
def test_matches_are_those_of_the_cheapest_assignment(tolerance, monkeypatch):
    """BSDS's costs: the distance of a pair, a hundred times the largest one for a pixel that stays alone."""
    monkeypatch.setattr(edge_metrics, "THRESHOLDS", np.array([0.1, 0.5, 0.9]))
    edges, truth = RNG.random((14, 15)).astype(np.float32) * (RNG.random((14, 15)) < 0.3), RNG.random((14, 15)) < 0.2
    counts = match_counts(edges, truth, tolerance)
    radius = tolerance * np.hypot(14, 15)
    for index, threshold in enumerate((0.1, 0.5, 0.9)):
        one, two = np.argwhere(edges > threshold), np.argwhere(truth)
        distance = np.linalg.norm(one[:, None] - two[None], axis=2)
        rows, columns = linear_sum_assignment(np.where(distance <= radius, distance, 200 * radius))
        matched = int((distance[rows, columns] <= radius).sum())
        assert counts[index].tolist() == [matched, len(two), matched, len(one)]


def test_a_perfect_thin_edge_scores_100_and_a_shifted_one_by_tolerance():
    truth = np.zeros((64, 64), np.uint8)
    truth[8:56, 30] = 1
    for shift, expected in ((0, 100.0), (1, 100.0), (9, 0.0)):
        prediction = np.roll(truth, shift, axis=1)[None].astype(np.float32) * 0.9
        score = scored(EdgesScore(tolerance=0.02), [(prediction, truth)])
        found = score.results(score.counts())
        assert found["odsF"] == pytest.approx(expected, abs=3) and found["oisF"] == pytest.approx(expected, abs=3)
        assert found["plainF"] == (100.0 if shift == 0 else 0.0)


def test_a_wide_edge_is_made_thin_across_its_direction():
    x, y = np.meshgrid(np.arange(60), np.arange(60))
    for distance in (np.abs(x - 30), np.abs(y - 30), np.abs(x - y) / np.sqrt(2)):
        wide = np.exp(-(distance**2) / 8).astype(np.float32)
        thin = suppressed(wide)
        inside = thin[10:50, 10:50]
        assert (inside > 0.01).sum() <= 2 * 40 and (inside[distance[10:50, 10:50] < 0.5] > 0.9).all()


def test_only_plain_pixels_where_nothing_is_matched():
    score = scored(EdgesScore(match=False), pairs_of("edges"))
    assert list(score.results(score.counts())) == ["plainF"]


# --- the evaluator ---


def test_the_evaluator_leaves_out_what_has_no_truth_and_refuses_what_cannot_be():
    evaluator = ValuesEvaluator("set", task="depth", score=DepthScore())
    sample = {"file_name": "a.png", "depth_truth": torch.full((3, 4), 2.0)}
    evaluator.process([sample, {"file_name": "b.png"}], [{"depth": torch.full((1, 3, 4), 2.5)}] * 2)
    assert evaluator.num_images == 1 and evaluator.evaluate()["depth"]["rmse"] == 0.5
    evaluator.reset()
    assert math.isnan(evaluator.evaluate()["depth"]["rmse"])
    with pytest.raises(ValueError, match=r"a\.png is \(1, 3, 5\)"):
        evaluator.process([sample], [{"depth": torch.zeros(1, 3, 5)}])
    with pytest.raises(FloatingPointError, match=r"a\.png is not finite"):
        evaluator.process([sample], [{"depth": torch.full((1, 3, 4), math.nan)}])
