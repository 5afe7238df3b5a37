"""Metrics, losses and Delta_m against LibMTL's own code (MIT), which is run where it is installed, and skipped else.

Its Delta_m is in the package (pip install --no-deps LibMTL). What it scores NYUv2 with is in a file of its repository,
examples/nyu/utils.py, whose path SCALEEQ_LIBMTL_NYU names. The package itself cannot be imported with torchvision of
today, so its modules are imported without it.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys
import types

import numpy as np
import pytest
import torch

from scaleeq.evaluation.confusion import ConfusionMatrix
from scaleeq.evaluation.depth import DepthScore
from scaleeq.evaluation.multi_task import delta_m
from scaleeq.evaluation.normals import NormalsScore
from scaleeq.tasks import DepthTask, SemanticTask

CLASSES, VOID = 5, -1
NYU = os.environ.get("SCALEEQ_LIBMTL_NYU", "")


@pytest.fixture
def libmtl(monkeypatch):
    """Its modules that need torch alone."""
    found = importlib.util.find_spec("LibMTL")
    if found is None:
        pytest.skip("LibMTL is not installed")
    package = types.ModuleType("LibMTL")
    package.__path__ = list(found.submodule_search_locations)  # its __init__ stays unread
    monkeypatch.setitem(sys.modules, "LibMTL", package)
    yield package
    for name in [name for name in sys.modules if name.startswith("LibMTL.")]:
        del sys.modules[name]


@pytest.fixture
def nyu(libmtl):
    if not NYU:
        pytest.skip("SCALEEQ_LIBMTL_NYU names no examples/nyu/utils.py of LibMTL's repository")
    return runpy.run_path(NYU)


@pytest.fixture
def maps():
    """Of three images of unlike numbers of known pixels: predictions and truths of each task."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (3, 16, 20), generator=rng)
    depth = torch.rand(3, 1, 16, 20, generator=rng) * 9 + 0.5
    normals = torch.nn.functional.normalize(torch.randn(3, 3, 16, 20, generator=rng), dim=1)
    labels[0, :9], depth[1, :, 5:], normals[2, :, :, 7:] = VOID, 0, 0
    predicted = {
        "sem_seg": torch.randn(3, CLASSES, 16, 20, generator=rng),
        "depth": depth.clamp(min=2) + torch.rand(depth.shape, generator=rng),
        "normals": normals + torch.randn(normals.shape, generator=rng),
    }
    return predicted, {"sem_seg": labels, "depth": depth, "normals": normals}


def test_delta_m(libmtl):
    from LibMTL.utils import count_improvement

    rng = np.random.default_rng(0)
    for _ in range(20):
        single, several = ({task: float(rng.uniform(1, 9)) for task in "abcd"} for _ in range(2))
        lower = [task for task in "abcd" if rng.random() < 0.5]
        expected = count_improvement(
            {task: [value] for task, value in single.items()},
            {task: [value] for task, value in several.items()},
            {task: [int(task not in lower)] for task in "abcd"},
        )
        assert delta_m(several, single, lower_is_better=lower) == pytest.approx(100 * expected, rel=1e-12)


def scored(metric, predicted, truth):
    for a, b in zip(predicted, truth, strict=True):
        metric.update_fun(a[None], b[None])
    return metric.score_fun()


def test_classes(nyu, maps):
    predicted, truth = (each["sem_seg"] for each in maps)
    miou, accuracy = scored(nyu["SegMetric"](CLASSES), predicted, truth)
    confusion = ConfusionMatrix(num_classes=CLASSES)
    for logits, labels in zip(predicted, truth, strict=True):
        confusion.update(
            logits.argmax(0).to(torch.uint8).numpy(), torch.where(labels == VOID, 255, labels).to(torch.uint8).numpy()
        )
    found = confusion.metrics()
    assert (found.mean_iou, found.pixel_accuracy) == pytest.approx((miou, accuracy), rel=1e-6)


def test_depth(nyu, maps):
    """Its relative error is pooled over pixels, as every error here is."""
    predicted, truth = (each["depth"] for each in maps)
    _, relative = scored(nyu["DepthMetric"](), predicted, truth)
    score = DepthScore()
    for a, b in zip(predicted.numpy(), truth.numpy(), strict=True):
        score.update(a, b[0], "a.png")
    assert score.results(score.counts())["absRel"] == pytest.approx(relative, rel=1e-6)


def test_normals(nyu, maps):
    predicted, truth = (each["normals"] for each in maps)
    expected = scored(nyu["NormalMetric"](), predicted, truth)
    score = NormalsScore()
    for a, b in zip(torch.nn.functional.normalize(predicted, dim=1).numpy(), truth.numpy(), strict=True):
        score.update(a, b, "a.png")
    found = score.results(score.counts())
    assert (found["mean"], found["median"]) == pytest.approx(expected[:2], abs=2e-3)
    shares = [found[name] for name in ("below11.25", "below22.5", "below30")]
    assert shares == pytest.approx([100 * share for share in expected[2:]], abs=1e-4)


def test_losses(nyu, maps):
    """Cross entropy and the absolute error of depth; of normals it has another loss, 1 - cosine."""
    predicted, truth = maps
    labels = torch.where(truth["sem_seg"] == VOID, 255, truth["sem_seg"])
    (found,) = SemanticTask(num_classes=CLASSES).losses(predicted["sem_seg"], labels).values()
    torch.testing.assert_close(found, nyu["SegLoss"]().compute_loss(predicted["sem_seg"], truth["sem_seg"]))
    (found,) = DepthTask().losses(predicted["depth"], truth["depth"][:, 0]).values()
    torch.testing.assert_close(found, nyu["DepthLoss"]().compute_loss(predicted["depth"], truth["depth"]))
