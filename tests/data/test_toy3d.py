"""Toy 3-D scenes: the same everywhere, and their truths agree with each other."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from scaleeq.data.maps import KEYS, read_map
from scaleeq.data.reading import read_image, read_labels
from scaleeq.data.sets import toy3d
from scaleeq.data.surface import normals_from_depth
from scaleeq.engine import DatasetCatalog, MetadataCatalog
from scaleeq.evaluation.normals import angles

DIGEST = (
    "import hashlib; from scaleeq.data.sets import toy3d; s = toy3d.render_scene('val', 3); "
    "print(hashlib.sha256(b''.join(a.tobytes() for a in (s.image, s.labels, s.depth, s.normals))).hexdigest())"
)
SCENES = [toy3d.render_scene("train", index) for index in range(40)]


def test_a_scene_depends_on_split_and_index_alone():
    scene = toy3d.render_scene("val", 3)
    here = hashlib.sha256(b"".join(a.tobytes() for a in (scene.image, scene.labels, scene.depth, scene.normals)))
    command = [sys.executable, "-W", "ignore", "-c", DIGEST]
    elsewhere = subprocess.run(command, capture_output=True, text=True, check=True)
    assert elsewhere.stdout.split()[-1] == here.hexdigest()
    assert all((a.image != b.image).any() for i, a in enumerate(SCENES) for b in SCENES[:i])


def test_normals_are_those_of_the_depth():
    """Central differences of depth inside surfaces; edges and depth as wide as promised."""
    found = []
    for scene in SCENES:
        ids, inside = scene.surfaces, np.zeros(scene.labels.shape, bool)
        inner = ids[1:-1, 1:-1]
        inside[1:-1, 1:-1] = np.logical_and.reduce(
            [inner == other for other in (ids[:-2, 1:-1], ids[2:, 1:-1], ids[1:-1, :-2], ids[1:-1, 2:])]
        )
        normals = normals_from_depth(scene.depth, focal_px=toy3d.FOCAL_PX)
        inside &= np.linalg.norm(normals, axis=2) > 0.5
        found.append(angles(normals[inside].T, scene.normals[inside].T))
    degrees = np.concatenate(found)
    assert np.median(degrees) < 0.0005 and np.percentile(degrees, 99) < 1.1
    assert 0.045 < np.mean([scene.edges.mean() for scene in SCENES]) < 0.065
    assert all(scene.depth.min() > 1.5 and scene.depth.max() < 11 for scene in SCENES)
    assert all(np.allclose(np.linalg.norm(scene.normals, axis=2), 1, atol=1e-5) for scene in SCENES)


def test_shares_of_classes_and_parts():
    counts = sum(np.bincount(scene.labels.ravel(), minlength=5) for scene in SCENES)
    assert (counts / counts.sum() > 0.05).all()
    parts = np.unique(np.concatenate([scene.human_parts.ravel() for scene in SCENES]))
    assert {0, 1, 2, 3, 4, 5, 6} <= set(parts.tolist())
    assert all((scene.parts > 0).sum() == (scene.labels == toy3d.SPHERE).sum() for scene in SCENES)


def test_instances_and_panoptic_segments_cover_what_they_say():
    for scene in SCENES[:8]:
        instances = scene.instances()
        covered = sum(each["mask"].astype(int) for each in instances)
        assert (covered == scene.saliency).all()
        for each in instances:
            left, top, right, bottom = each["bbox"]
            assert each["mask"].sum() == each["mask"][top:bottom, left:right].sum()
            assert each["mask"][top:bottom, [left, right - 1]].any(0).all()
        ids, segments = scene.panoptic()
        assert sorted(np.unique(ids)) == [segment["id"] for segment in segments]
        for segment in segments:
            assert (scene.labels[ids == segment["id"]] == segment["category_id"]).all()
            assert segment["area"] == (ids == segment["id"]).sum()


@pytest.mark.parametrize(("split", "size"), [("train", 512), ("val", 64)])
def test_registered_and_read(split, size):
    records = DatasetCatalog.get(f"toy3d_{split}")
    assert len(records) == size == len({record["file_name"] for record in records})
    assert tuple(MetadataCatalog.get(f"toy3d_{split}").stuff_classes) == toy3d.CLASSES
    scene = toy3d.render_scene(split, 5)
    assert (read_image(records[5]) == scene.image).all() and (read_labels(records[5]) == scene.labels).all()
    for key in KEYS:
        assert (read_map(records[5], key) == getattr(scene, key)).all() or key == "normals"
    assert records[5]["read_panoptic"]()[0].shape == scene.labels.shape and records[5]["read_instances"]()


def test_refusals():
    with pytest.raises(ValueError, match="'test'"):
        toy3d.render_scene("test", 0)
    with pytest.raises(IndexError, match="64"):
        toy3d.render_scene("val", 64)


def test_what_is_seen_behind_a_card_keeps_its_own_texture():
    """A card that hangs askew covers a part of the window that is cast for it."""
    canvas = toy3d._Canvas()
    right, down = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])
    canvas.plane(toy3d.BACK_WALL, np.array([0, 0, 6.0]), right, down)
    before = canvas.texture.copy()
    slanted = np.array([1.0, 1, 0]) / np.sqrt(2), np.array([-1.0, 1, 0]) / np.sqrt(2)
    canvas.plane(toy3d.CARD, np.array([0, 0, 3.0]), *slanted, half=(0.5, 0.5))
    card = canvas.surfaces == 1
    assert 0.02 < card.mean() < 0.5
    np.testing.assert_array_equal(canvas.texture[:, ~card], before[:, ~card])
    assert (canvas.texture[:, card] != before[:, card]).any(0).mean() > 0.9
