"""Two processes compute of two tasks, and of four that interact, what one does with the same batch, samples without a
truth among them. Oracle: one process, in float64."""

from __future__ import annotations

import pytest
import torch

from tests.training.starting import WAYS
from tests.training.two_processes_table import difference, gradient_differences, is_weight, measure

PROGRAM = ["-m", "tests.training.two_tasks"]


pytestmark = pytest.mark.slow  # they start two processes


TASKS = {"": ["sem_seg", "mean_colour"], "four": ["sem_seg", "depth", "normals", "edges"]}


@pytest.fixture(scope="module", params=TASKS, ids=["two", "four"])
def found(request, tmp_path_factory):
    """What one process found, and what the first of two; and of which tasks."""
    (one,) = measure(tmp_path_factory.mktemp("one"), "", request.param, program=PROGRAM)
    first, second = measure(tmp_path_factory.mktemp("two"), WAYS[0], request.param, program=PROGRAM)
    assert all(torch.equal(second["model"][name], tensor) for name, tensor in first["model"].items())
    return one, first, TASKS[request.param]


def test_gradients_weights_and_losses_are_those_of_the_whole_batch(found):
    one, first, tasks = found
    differences = gradient_differences(one["gradients"], first["gradients"])
    assert max(differences.values()) < 1e-10
    for name, weight in one["model"].items():
        assert not is_weight(name) or difference(first["model"][name], weight) < 1e-10, name
    assert len(one["losses"]) == 3 and {"total_loss", *(f"loss_{task}" for task in tasks)} < one["losses"][0].keys()
    for losses, expected in zip(first["losses"], one["losses"], strict=True):
        assert losses == pytest.approx(expected, rel=1e-6)
    assert first["results"].keys() == set(tasks)
    for task in tasks:
        assert first["results"][task] == pytest.approx(one["results"][task], rel=1e-6, nan_ok=True), task


def test_gradients_of_each_task_are_those_of_the_whole_batch(found):
    *jobs, tasks = found
    records = [each["scales"]["at_start"]["fusions"] for each in jobs]
    numbers = [
        {
            f"{fusion}/{branch}/{name}": value
            for fusion, content in record.items()
            for branch, values in content["branches"].items()
            for name, value in values.items()
            if name.endswith(tuple(f"_gradient_{task}" for task in tasks))
        }
        for record in records
    ]
    assert len(numbers[0]) > 10 and numbers[1] == pytest.approx(numbers[0], rel=1e-6)
