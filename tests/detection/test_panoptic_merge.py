"""The merge of objects and labels: by hand, and against Detectron2's own where it is installed."""

from __future__ import annotations

import pytest
import torch

from scaleeq.detection.panoptic import MergeOptions, merge

try:
    from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
    from detectron2.structures import Instances
except ImportError:
    combine_semantic_and_instance_outputs = None


def found(*objects, shape=(10, 12)):
    """objects: (score, label, rows, columns)."""
    masks = torch.zeros(len(objects), *shape, dtype=torch.bool)
    for mask, (_, _, rows, columns) in zip(masks, objects, strict=True):
        mask[rows, columns] = True
    scores = torch.tensor([float(score) for score, *_ in objects])
    return {"scores": scores, "labels": torch.tensor([label for _, label, *_ in objects]), "masks": masks}


def test_better_objects_first_then_stuff_that_is_large_enough():
    labels = torch.zeros(10, 12, dtype=torch.int64)
    labels[:, 8:], labels[0, :3], labels[9] = 1, 2, 4
    instances = found(
        (0.6, 0, slice(2, 6), slice(0, 6)),  # half of it is taken: what is free remains
        (0.9, 1, slice(2, 6), slice(3, 9)),
        (0.7, 1, slice(2, 4), slice(4, 9)),  # wholly taken: dropped
        (0.4, 0, slice(7, 9), slice(0, 4)),  # not certain
    )
    ids, segments = merge(instances, labels, things=(3, 4), options=MergeOptions(stuff_area=10))
    kinds = [(segment["category_id"], segment["isthing"]) for segment in segments]
    assert kinds == [(4, True), (3, True), (0, False), (1, False)]
    assert [segment.get("instance_id") for segment in segments] == [1, 0, None, None]
    areas = [int((ids == segment["id"]).sum()) for segment in segments]
    assert areas == [24, 12, 9 * 8 - 3 - 4 * 8, 9 * 4 - 4]
    assert (ids[9] == 0).all(), "a thing's label is no stuff"
    assert (ids[0, :3] == 0).all(), "three pixels are too few"


def test_nothing_is_void():
    ids, segments = merge(found(), torch.full((10, 12), 3), things=(3, 4))
    assert not ids.any()
    assert segments == []


@pytest.mark.skipif(combine_semantic_and_instance_outputs is None, reason="Detectron2 is not installed")
@pytest.mark.parametrize("seed", range(5))
def test_detectron2_makes_the_same_segments(seed):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda high: int(torch.randint(high, (), generator=generator))  # noqa: E731
    objects = [
        (0.3 + 0.07 * draw(10) + 0.001 * n, draw(2), slice(draw(20), 20 + draw(20)), slice(draw(25), 25 + draw(25)))
        for n in range(8)
    ]
    ours = found(*objects, shape=(40, 50))
    labels = torch.randint(0, 4, (5, 5), generator=generator).repeat_interleave(8, 0).repeat_interleave(10, 1)
    theirs = Instances((40, 50), scores=ours["scores"], pred_classes=ours["labels"], pred_masks=ours["masks"])
    expected, infos = combine_semantic_and_instance_outputs(theirs, labels, 0.5, 60, 0.5)
    options = MergeOptions(overlap=0.5, score=0.5, stuff_area=60)
    ids, segments = merge(ours, labels, things=(0, 1), skipped={0}, options=options)
    assert torch.equal(ids, expected)
    assert segments == infos
    assert len(segments) >= 4
