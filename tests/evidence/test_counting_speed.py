"""The benchmark: its maps are as it says, every contender counts, absent peers are named, and the documents' tables are
those of the recorded run."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from evidence.counting_speed import peer
from evidence.counting_speed.contenders import SUBJECTS, Subject, benchmark_table, compared, time_counting
from evidence.counting_speed.maps import label_pair, scene_with_instances
from evidence.counting_speed.record import in_document, machine, printed
from evidence.counting_speed.stored import PILLOW, STORED, memory_growth, time_stored
from scaleeq.data import read_labels
from scaleeq.data.reading import read_instances
from scaleeq.evaluation.cityscapes import LABEL_IDS
from scaleeq.evaluation.predictions import Reader

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = {"mmsegmentation": "mmseg"}  # where a package is imported by another name


def runs(labels):
    """Mean length along rows, in pixels."""
    return labels.size / (len(labels) + (labels[:, 1:] != labels[:, :-1]).sum())


def test_maps_are_like_real_ones():
    """Void, classes in an image, and mean runs along rows as in the truths of ADE20K and CamVid; of pairs shorter."""
    rng = np.random.default_rng(0)
    for noise in (False, True):
        prediction, truth = label_pair(rng, 512, 683, 150, noise=noise)
        assert prediction.dtype == truth.dtype == np.uint8 and prediction.shape == truth.shape == (512, 683)
        assert prediction.max() < 150 and 0.02 < (truth == 255).mean() < 0.2
        assert 14 <= len(np.unique(truth[truth != 255])) <= 20
        assert 40 < runs(truth) < 60
        assert runs(truth * np.uint16(256) + prediction) < (2 if noise else 30)
    assert (prediction == truth).mean() < 0.02


def test_instances_are_cityscapes():
    truth, instances = scene_with_instances(np.random.default_rng(0), 256, 512)
    inside = instances >= 1000
    assert 0.05 < inside.mean() < 0.9 and len(np.unique(instances[inside])) > 10
    labelled = truth != 255
    np.testing.assert_array_equal(
        np.take(LABEL_IDS, truth[labelled]), np.where(inside, instances // 1000, instances)[labelled]
    )


def contenders(groups, kind, **options):
    subject = Subject(40, 130, 19, kind, groups)
    return time_counting(images=2, rounds=1, threads=[1], subjects=[subject], keep_memory=False, **options)


def test_who_is_not_installed_is_named():
    rows = contenders(((peer.OURS, peer.COPY, peer.MMSEGMENTATION),), "smooth")
    here = [True, True, importlib.util.find_spec("mmseg") is not None]
    assert [row["images_per_s_wall"] is not None for row in rows] == here == [bool(row["version"]) for row in rows]
    assert rows[0]["times_ours_cpu"] == 1
    table = benchmark_table(rows)
    assert ("not installed" in table) != all(here) and all(row["contender"] in table for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("subject", [SUBJECTS[0], SUBJECTS[-1]], ids=lambda subject: subject.kind)
def test_every_installed_contender_counts(subject):
    for row in contenders(subject.groups, subject.kind):
        package = peer.CONTENDERS[row["contender"]][1]
        if package not in ("numpy", "pillow"):
            installed = importlib.util.find_spec(INSTALLED.get(package, package)) is not None
            assert (row["version"] is not None) == installed, row


def test_ratios_are_of_the_same_round():
    ours, other = [(9, 9), (1, 2), (2, 2), (4, 2)], [(1, 1), (3, 8), (6, 8), (12, 4)]
    row = compared(other, ours)
    assert row == {"images_per_s_cpu": 1 / 8, "times_ours_cpu": 4, "images_per_s_wall": 1 / 6, "times_ours_wall": 3}


def test_an_interpreter_without_the_peer_is_refused():
    if importlib.util.find_spec("mmseg"):
        pytest.skip("this interpreter has mmsegmentation")
    with pytest.raises(ValueError, match="has no mmsegmentation"):
        contenders(((peer.MMSEGMENTATION,),), "smooth", peer_python=sys.executable)


def test_stored_predictions_are_scored_and_decoded():
    reader = Reader(labels=read_labels, instances=read_instances)
    rows = time_stored(reader, images=10, rounds=1, workers=2, subjects=[Subject(40, 130, 19, "smooth", ())])
    assert [row["contender"] for row in rows][:2] == [STORED, PILLOW]
    assert all(row["images_per_s_cpu"] > 0 and row["threads"] == "2 processes" for row in rows)


def test_memory_is_flat():
    memory = memory_growth(260)
    assert memory["images"] == [200, 260] and memory["growth_mb"] == memory["peak_mb"][1] - memory["peak_mb"][0] < 5


def test_the_document_prints_the_recorded_run():
    record = json.loads((ROOT / "docs" / "results" / "evaluation_speed.json").read_text())
    page = (ROOT / "docs" / "evaluation.md").read_text()
    assert in_document(page, record) == page, (
        "run python -m evidence.benchmark_evaluation --show ... --document docs/evaluation.md"
    )
    assert benchmark_table(record["counting"] + record["stored"]) in page
    with pytest.raises(ValueError, match="has not both marks"):
        in_document("# A page", record)


def test_what_is_printed_names_machine_and_memory():
    record = {
        "machine": machine([3.14, 2.0]),
        "counting": [
            {"maps": "m", "threads": "1", "contender": "c", "version": "v 1"} | compared([(1, 1)] * 2, [(1, 1)] * 2)
        ],
        "memory": {"images": [200, 300], "peak_mb": [10.0, 10.5], "growth_mb": 0.5},
    }
    text = printed(record)
    assert "load average 3.1 before and 2.0 after" in text and "v 1" in text and "300 images 10.5 MB" in text
