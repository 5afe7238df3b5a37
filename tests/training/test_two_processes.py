"""Two processes compute what one does with the same batch of four samples, two each. Oracle: one process.

In float64, so that rounding does not hide a wrong weight of a sample; labels are void in unlike shares, wholly in one.
"""

from __future__ import annotations

import json
import os
from argparse import Namespace

import pytest
import torch
from filelock import FileLock

from tests.training import two_processes
from tests.training.starting import WAYS, Job, commands
from tests.training.tiny import BASE, OPTIONS
from tests.training.two_processes_table import (
    CASES,
    compare,
    confusion,
    difference,
    gradient_differences,
    is_weight,
    measure,
)

pytestmark = pytest.mark.slow  # two trainings of two processes, made once for all tests


def once(tmp_path_factory, name, make):
    """A folder that `make` has filled; once for all of xdist's workers, who steal tests of a module from each other."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / name
    with FileLock(f"{folder}.lock"):
        if not (folder / "made").exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            (folder / "made").touch()
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Folder, and what the only rank found."""
    folder = once(tmp_path_factory, "one_process", lambda folder: two_processes.main(Namespace(opts=[str(folder)])))
    return folder, torch.load(folder / "rank0.pt", weights_only=True)


@pytest.fixture(scope="module")
def two(one, tmp_path_factory):
    """Folder, and what each rank found."""
    weights = str(one[0] / "synchronized" / "model_final.pth")
    folder = once(tmp_path_factory, "two_processes", lambda folder: measure(folder, WAYS[0], weights))
    return folder, [torch.load(file, weights_only=True) for file in sorted(folder.glob("rank*.pt"))]


@pytest.mark.parametrize("case", CASES)
def test_gradients_and_weights_are_those_of_the_whole_batch(one, two, case):
    expected, found = one[1][case], two[1][0][case]
    differences = gradient_differences(expected["gradients"], found["gradients"])
    worst = max(differences, key=lambda name: differences[name])
    assert differences[worst] < 1e-10, worst
    assert max(float(gradient.abs().max()) for gradient in expected["gradients"].values()) > 1e-3, "there is something"
    for name, weight in expected["model"].items():
        assert not is_weight(name) or difference(found["model"][name], weight) < 1e-10, name


@pytest.mark.parametrize("case", CASES)
def test_the_losses_on_record_are_those_of_the_whole_batch(one, two, case):
    assert len(one[1][case]["losses"]) == 3
    for found, expected in zip(two[1][0][case]["losses"], one[1][case]["losses"], strict=True):
        assert found == pytest.approx(expected, rel=1e-6)
    assert all(losses == {} for losses in two[1][1][case]["losses"]), "on the main process alone"


@pytest.mark.parametrize("case", CASES)
def test_statistics_are_those_of_one_process(one, two, case):
    """SyncBN normalises over all processes in calibration too."""
    expected, found = one[1][case]["model"], two[1][0][case]["model"]
    names = [name for name in expected if name.endswith((".mean", ".std"))]
    assert len(names) == 2 * 9, "five branches of the pooling, four of the fusion"
    for name in names:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-12)


def test_all_ranks_have_the_same_bits(two):
    first, second = two[1]
    for case in CASES:
        for kind in ("model", "ema"):
            assert first[case][kind].keys() == second[case][kind].keys()
            for name, tensor in first[case][kind].items():
                assert torch.equal(second[case][kind][name], tensor), f"{case}, {kind}, {name}"


@pytest.mark.parametrize(
    ("norm", "values_per_channel"),
    [("context.branches.pool1.lateral.1", 4), ("context.branches.pool6.lateral.1", 144), ("fusion.mix", 1024)],
)
def test_only_the_running_variance_of_sync_bn_differs(one, two, norm, values_per_channel):
    """One process has torch's unbiased one, NaiveSyncBatchNorm the biased one: n / (n - 1) between them."""
    expected, found = (model["synchronized"]["model"] for model in (one[1], two[1][0]))
    name = f"sem_seg_head.{norm}.norm.running"
    torch.testing.assert_close(found[f"{name}_mean"], expected[f"{name}_mean"], rtol=1e-10, atol=1e-12)
    start = 0.9**3  # what three steps leave of the first value, 1
    ratio = (expected[f"{name}_var"] - start) / (found[f"{name}_var"] - start)
    n = values_per_channel
    torch.testing.assert_close(ratio, torch.full_like(ratio, n / (n - 1)), rtol=1e-6, atol=0)


def test_the_confusion_over_an_odd_number_of_images_is_equal(one, two):
    (folder, found), (other, ranks) = one, two
    assert confusion(other) == confusion(folder)
    record = json.loads((other / "evaluated" / "sem_seg_evaluation.json").read_text())
    assert record["num_images"] == two_processes.ODD
    assert ranks[0]["evaluated"] == found["evaluated"]
    assert ranks[1]["evaluated"] == {}, "results are the main process's"


def test_a_resumed_job_ends_as_the_unbroken_one(two):
    for rank in two[1]:
        for kind in ("model", "ema"):
            for name, tensor in rank["synchronized"][kind].items():
                assert torch.equal(rank["resumed"][kind][name], tensor), name


@pytest.mark.parametrize("way", WAYS[1:])
def test_the_way_of_starting_does_not_matter(one, tmp_path, way):
    ranks = measure(tmp_path, way, str(one[0] / "synchronized" / "model_final.pth"))
    row = compare(way, [one[1]], ranks, (one[0], tmp_path))
    assert row.gradients < 1e-10, row.worst_parameter
    assert max(row.weights, row.losses / 1e4) < 1e-10
    assert row.statistics < 1e-12
    assert row.confusion_equal
    assert row.resumed_equal


# ---------------------------------------------------------------------------------------------------- the command

COMMAND_OPTIONS = {
    **OPTIONS,
    "MODEL.TIMM.NAME": "test_convnext",
    "MODEL.SEM_SEG_HEAD.NORM": "LN",
    "MODEL.SCALE_EQUALIZER.ENABLED": True,
    "DATASETS.TEST": ("toy_sem_seg_val",),
    "SOLVER.OPTIMIZER": "SGD",
    "SOLVER.IMS_PER_BATCH": 4,
}


def trained(folder, way):
    """metrics.json's last training line and last evaluation, of tools/train_net.py started in one way."""
    options = {**COMMAND_OPTIONS, "OUTPUT_DIR": folder / "run"}
    words = ["--config-file", str(BASE), *(str(word) for pair in options.items() for word in pair)]
    Job(commands(way, ["tools/train_net.py"], words), folder).run()
    lines = [json.loads(line) for line in (folder / "run" / "metrics.json").read_text().splitlines()]
    return tuple(
        {key: value for line in lines for key, value in line.items() if word in key} for word in ("loss", "mIoU")
    )


def test_the_command_trains_alike_however_it_is_started(tmp_path):
    losses, miou = trained(tmp_path / "one", "")
    assert miou.keys() == {"sem_seg/mIoU"}
    for number, way in enumerate(WAYS):
        found, found_miou = trained(tmp_path / str(number), way)
        assert found == pytest.approx(losses, rel=1e-6), way
        assert found_miou == pytest.approx(miou, abs=0.01), way  # a pixel of two equal logits may change sides
