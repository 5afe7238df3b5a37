"""Two processes compute of two tasks what one does with the same batch, samples without a truth among them. Oracle: one
process, in float64."""

from __future__ import annotations

import pytest
import torch

from tests.training.starting import WAYS
from tests.training.two_processes_table import difference, gradient_differences, is_weight, measure

PROGRAM = ["-m", "tests.training.two_tasks"]


pytestmark = pytest.mark.slow  # they start two processes


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What one process found, and what the first of two."""
    (one,) = measure(tmp_path_factory.mktemp("one"), "", program=PROGRAM)
    first, second = measure(tmp_path_factory.mktemp("two"), WAYS[0], program=PROGRAM)
    assert all(torch.equal(second["model"][name], tensor) for name, tensor in first["model"].items())
    return one, first


def test_gradients_weights_and_losses_are_those_of_the_whole_batch(found):
    one, first = found
    differences = gradient_differences(one["gradients"], first["gradients"])
    assert max(differences.values()) < 1e-10
    for name, weight in one["model"].items():
        assert not is_weight(name) or difference(first["model"][name], weight) < 1e-10, name
    assert len(one["losses"]) == 3 and {"loss_sem_seg", "loss_mean_colour", "total_loss"} < one["losses"][0].keys()
    for losses, expected in zip(first["losses"], one["losses"], strict=True):
        assert losses == pytest.approx(expected, rel=1e-6)
    assert first["results"].keys() == {"sem_seg", "mean_colour"}
    assert first["results"]["mean_colour"]["mae"] == pytest.approx(one["results"]["mean_colour"]["mae"], rel=1e-6)


def test_gradients_of_each_task_are_those_of_the_whole_batch(found):
    records = [each["scales"]["at_start"]["fusions"] for each in found]
    numbers = [
        {
            f"{fusion}/{branch}/{name}": value
            for fusion, content in record.items()
            for branch, values in content["branches"].items()
            for name, value in values.items()
            if name.endswith(("_gradient_sem_seg", "_gradient_mean_colour"))
        }
        for record in records
    ]
    assert len(numbers[0]) > 10 and numbers[1] == pytest.approx(numbers[0], rel=1e-6)
