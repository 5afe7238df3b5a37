"""Pictures of depth, normals, edges and parts: one range for truth and prediction, what is unknown, words and scores.

Oracles: the ends of viridis, (n + 1) / 2 by hand, root mean squares by numpy.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scaleeq.pictures import UNKNOWN_COLOR, nice_end
from scaleeq.reports.pictures import Classes, Seen, prediction_sheet
from scaleeq.reports.pictures.sheets import (
    overview_section,
    overview_sheet,
    prediction_sections,
    scores_in_words,
    view_panels,
)
from scaleeq.tasks import DepthTask, EdgesTask, HumanPartsTask, NormalsTask
from scaleeq.training.examples import task_views

CLASSES = Classes(("sky", "road"), ((10, 20, 30), (40, 50, 60)))
LOW, HIGH = (68, 1, 84), (253, 231, 37)  # the ends of viridis
TASKS = {"depth": DepthTask(mean=4.0), "normals": NormalsTask(), "edges": EdgesTask(), "human_parts": HumanPartsTask()}
SHAPE = (24, 32)
IMAGE = np.zeros((*SHAPE, 3), np.uint8)


def output_and_sample() -> tuple[dict, dict]:
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 9, SHAPE).astype(np.float32)
    truth = np.where(rng.random(SHAPE) < 0.2, 0, depth + 0.5).astype(np.float32)
    normals = torch.zeros(3, *SHAPE)
    normals[2] = -1
    edges = (rng.random(SHAPE) < 0.1).astype(np.uint8)
    output = {
        "depth": torch.from_numpy(depth)[None],
        "normals": normals,
        "edges": torch.from_numpy(edges)[None].float(),
        "human_parts": torch.randn(7, *SHAPE),
    }
    parts = np.full(SHAPE, 255, np.uint8)
    sample = {"depth_truth": truth, "normals_truth": normals, "edges_truth": edges, "human_parts_truth": parts}
    return output, sample


def test_depth_has_one_range_and_holes_are_grey():
    """0 to twice the mean of 4 m, rounded up; the same metres have the same colour in every picture."""
    task = DepthTask(mean=4.0)
    assert (task.scale.low, task.scale.high, task.scale.unit) == (0, 10, "m")
    assert DepthTask(mean=4.0, farthest=80.0).scale.high == 80
    near, far = torch.tensor([[[2.0, 3.0]]]), torch.tensor([[2.0, 900.0, 0.0]])
    assert (task.picture(near)[0, 0] == task.picture(far)[0, 0]).all()
    assert tuple(task.picture(far)[0, 1]) == HIGH and tuple(task.picture(far)[0, 2]) == UNKNOWN_COLOR
    assert tuple(task.picture(torch.tensor([[[-1.0]]]))[0, 0]) == LOW


@pytest.mark.parametrize(("value", "end"), [(0.3, 0.5), (1, 1), (6, 10), (10, 10), (10.1, 20), (37, 50)])
def test_ends_are_round(value, end):
    assert nice_end(value) == pytest.approx(end)


def test_what_is_unknown_is_grey_and_no_range_depends_on_the_picture():
    faint = torch.full((1, 1, 2), 0.02)
    assert (np.abs(EdgesTask().picture(faint).astype(int) - LOW) < 12).all(), "near no edge, though alike everywhere"
    truth = torch.tensor([[0, 1, 255]], dtype=torch.uint8)
    assert [tuple(color) for color in EdgesTask().picture(truth)[0]] == [LOW, HIGH, UNKNOWN_COLOR]
    assert tuple(NormalsTask().picture(torch.zeros(3, 1, 1))[0, 0]) == UNKNOWN_COLOR
    parts = HumanPartsTask().picture(torch.tensor([[0, 1, 255]], dtype=torch.uint8))[0]
    legend = HumanPartsTask().legend()
    assert [tuple(color) for color in parts] == [legend["background"], legend["head"], UNKNOWN_COLOR]
    assert NormalsTask().legend()["up"] == (128, 0, 128) and NormalsTask().legend()["to the camera"] == (128, 128, 0)


def test_scores_of_one_image_are_in_words():
    output, sample = output_and_sample()
    views = task_views(TASKS, sample, output, IMAGE)
    known = sample["depth_truth"] > 0
    error = output["depth"][0].numpy()[known].astype(float) - sample["depth_truth"][known]
    assert views["depth"].score == f"depth/rmse {np.sqrt((error**2).mean()):.3g} m"
    assert views["normals"].score == "normals/mean 0 degrees" and views["edges"].score == "edges/plainF 100 %"
    assert views["human_parts"].score == "", "nothing is known"
    seen = Seen(np.zeros((*SHAPE, 3), np.uint8), views=views)
    assert scores_in_words(seen, CLASSES).startswith("depth/rmse 0.5 m, normals/mean 0 degrees")
    assert scores_in_words(Seen(seen.image, views=task_views(TASKS, {}, output, IMAGE)), CLASSES) == "no truth"


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("truth", [False, True])
@pytest.mark.parametrize("tasks", [["depth"], ["depth", "normals", "edges"], list(TASKS)])
def test_no_sheet_has_a_gap(labels, truth, tasks):
    """Every row of panels is full; the sheets of all combinations can be drawn."""
    output, sample = output_and_sample()
    views = task_views({name: TASKS[name] for name in tasks}, sample if truth else {}, output, IMAGE)
    of_classes = np.zeros(SHAPE, np.uint8)
    image = np.full((*SHAPE, 3), 77, np.uint8)
    seen = Seen(image, of_classes if labels else None, of_classes if labels and truth else None, views=views)
    sections = [*prediction_sections(seen, CLASSES), overview_section("a", seen, CLASSES, 64)]
    assert all(len(section.panels) % section.columns == 0 for section in sections)
    titles = [panel.title for section in sections for panel in section.panels]
    assert all(titles.count(name) == 2 and titles.count(f"{name}, truth") == 2 * truth for name in tasks)
    assert prediction_sheet("a", seen, CLASSES).ndim == overview_sheet("b", {"a": seen}, CLASSES).ndim == 3


def test_a_task_without_truth_beside_others_has_a_light_panel():
    output, sample = output_and_sample()
    views = task_views(
        {name: TASKS[name] for name in ("depth", "normals")}, sample | {"depth_truth": None}, output, IMAGE
    )
    seen = Seen(np.zeros((*SHAPE, 3), np.uint8), views=views)
    titles = [[panel.title for panel in section.panels] for section in prediction_sections(seen, CLASSES)]
    assert titles == [["image", "depth: no truth", "depth"], ["image", "normals, truth", "normals"]]


def test_bars_tell_the_range():
    output, sample = output_and_sample()
    views = task_views(TASKS, sample, output, IMAGE)
    panels = view_panels("depth", views["depth"], (48, 64))
    assert [(panel.title, panel.bar, panel.unit) for panel in panels] == [
        ("depth, truth", (0.0, 10.0), "m"),
        ("depth", (0.0, 10.0), "m"),
    ]
    assert [panel.bar for panel in view_panels("normals", views["normals"], (48, 64))] == [None, None]
