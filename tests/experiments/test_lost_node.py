"""A comparison on a Ray cluster of two nodes on this machine, one of which is killed in the middle: real trainings."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import pytest
import torch

from scaleeq.experiments.execute import execute
from scaleeq.experiments.executors import Where
from scaleeq.experiments.plan import read_plan
from scaleeq.experiments.summary import summarize_comparison
from scaleeq.folder_lock import RUNNING
from tests.experiments.ray_nodes import kill_node, ray_cluster
from tests.experiments.test_cluster import wait_for
from tests.experiments.test_compare import EQUALIZED, TRAIN, scenes, write  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def two_nodes():
    pytest.importorskip("ray")
    with ray_cluster(2) as cluster:
        yield cluster


def test_a_comparison_that_loses_a_node_in_the_middle_is_that_of_one_machine(tmp_path, scenes, two_nodes):  # noqa: F811
    """Two trainings, one on each node; a node is killed when its run has a checkpoint, and the other takes that up."""
    changes = {"SOLVER.MAX_ITER": 30, "SOLVER.CHECKPOINT_PERIOD": 3}
    plan = read_plan(write(tmp_path, {"off": changes, "equalized": {**EQUALIZED, **changes}}))
    said, [_, victim] = [], two_nodes.list_all_nodes()
    lost = []

    def kill():
        watched = [tmp_path / "ray" / name / "seed_0" for name in ("off", "equalized")]
        wait_for(lambda: all(list(folder.glob("model_0*.pth")) for folder in watched), 300)
        # Before the kill: the run that goes on may have ended when the node is gone.
        running = {str(folder): json.loads((folder / RUNNING).read_text())["pid"] for folder in watched}
        pids = kill_node(victim)
        lost.extend(folder for folder, pid in running.items() if pid in pids)

    killer = threading.Thread(target=kill)
    killer.start()
    where = Where("ray", ray_address=two_nodes.address)
    assert execute(plan, tmp_path / "ray", train=[str(TRAIN)], where=where, say=said.append) == [], said
    killer.join()
    text = "\n".join(said)
    assert len(lost) == 1 and text.count("it goes on elsewhere from its last checkpoint") == 1, (lost, text)
    log = (Path(lost[0]) / "log.txt").read_text()
    first, second = map(int, re.findall(r"Starting training from iteration (\d+)", log))
    assert first == 0 and 3 <= second < 30
    # As on this machine.
    assert execute(plan, tmp_path / "local", train=[str(TRAIN)], where=Where(jobs=2), say=said.append) == []
    assert told(plan, tmp_path / "ray") == told(plan, tmp_path / "local")
    for name in ("off", "equalized"):
        lost_once, here = (weights(tmp_path / each / name / "seed_0") for each in ("ray", "local"))
        assert lost_once.keys() == here.keys() and all(torch.equal(lost_once[key], here[key]) for key in here)
    names = [{str(path.relative_to(tmp_path / each)) for path in files(tmp_path / each)} for each in ("ray", "local")]
    assert names[0] == names[1]


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("events.")]


def weights(folder):
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def told(plan, output):
    """What comparison.json says, but for times, memory, the folder's name in the command, and the losses.

    The logged loss is the median of a process's last twenty iterations, so that a run that went on has others.
    """
    content = summarize_comparison(plan, output)
    for variant in content["variants"].values():
        for run in variant["runs"].values():
            assert run.pop("seconds") > 0 and run.pop("peak_mib") > 0 and run.pop("command")
            assert run.pop("loss")
    return json.loads(json.dumps(content))
