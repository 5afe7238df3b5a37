"""Panoptic segments of objects with masks and of a map of labels.

Source: Kirillov et al. (arXiv 1901.02446, section 3.1), as Detectron2's combine_semantic_and_instance_outputs does it;
with the same inputs the segments are the same. Objects go first, by their scores, each where no better one is: one of
which less than half is left is dropped. Then stuff of the map, where it is large enough, in what is free.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import torch

from scaleeq.records import Json


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """overlap: an object is dropped if more than this share of it is taken already. score: of the least certain object.
    stuff_area: pixels of the smallest piece of stuff.
    """

    overlap: float = 0.5
    score: float = 0.5
    stuff_area: int = 4096


def merge(
    instances: Mapping[str, torch.Tensor],
    labels: torch.Tensor,
    *,
    things: Sequence[int],
    skipped: Collection[int] | None = None,
    options: MergeOptions | None = None,
) -> tuple[torch.Tensor, list[Json]]:
    """Ids (H, W) int32, 0 void, and their segments: id, category_id (a label), isthing, and of things score.

    Args:
        instances: "scores" (N,), "labels" (N,), "masks" (N, H, W) bool.
        labels: (H, W), the best label of each pixel.
        things: the label of each class of objects.
        skipped: labels of the map that are no stuff; default those of the things.
    """
    options = options or MergeOptions()
    skipped = set(things if skipped is None else skipped)
    ids = torch.zeros(labels.shape, dtype=torch.int32, device=labels.device)
    segments: list[Json] = []
    # Objects, the most certain first.
    for index in torch.argsort(-instances["scores"]).tolist():
        score = float(instances["scores"][index])
        if score < options.score:
            break
        mask = instances["masks"][index]
        area = int(mask.sum())
        if not area:
            continue
        taken = mask & (ids > 0)
        if int(taken.sum()) / area > options.overlap:
            continue
        ids[mask & (ids == 0)] = len(segments) + 1
        label = things[int(instances["labels"][index])]
        segments.append(
            {"id": len(segments) + 1, "isthing": True, "score": score, "category_id": label, "instance_id": index}
        )
    # Stuff, in what is free.
    for label in torch.unique(labels).tolist():
        free = (labels == label) & (ids == 0)
        area = int(free.sum())
        if label in skipped or area < options.stuff_area:
            continue
        ids[free] = len(segments) + 1
        segments.append({"id": len(segments) + 1, "isthing": False, "category_id": int(label), "area": area})
    return ids, segments
