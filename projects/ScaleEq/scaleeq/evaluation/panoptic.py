"""Panoptic quality, exactly: PQ, SQ and RQ of all classes, of things and of stuff, from counts that add up.

Source: Kirillov et al. (arXiv 1801.00868), and the rules of panopticapi, the program that COCO's numbers come from:

- A prediction and a segment of the truth of its class match where their IoU is above 1/2; pixels of the prediction on
  void are no part of the union. Crowds never match.
- A prediction without a match is no false positive where more than half of it lies on void, or on void and the crowd
  of its class; of several such crowds the last one counts.
- A class that is in no truth and no prediction has no quality; the mean is over the others.

Deviations: the area of a segment is counted in the picture (there it is read from the JSON file, where it is the same).
Counts are int64, and an IoU is rounded to a unit of 1 / FIXED_POINT, so that neither the order of the images nor the
number of processes changes a digit; against sums of float64 a PQ differs by less than 1e-12.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch

from scaleeq.engine import DatasetEvaluator, MetadataCatalog, comm
from scaleeq.records import JsonView

from .parts import FIXED_POINT, ModelOutput, Sample

logger = logging.getLogger(__name__)

VOID = 0
Segments = Sequence[JsonView]  # of an image: "id" (not 0), "category_id", and of a truth "iscrowd"


class PanopticQuality:
    """Counts matches of panoptic segments over images, and says what quality follows.

    counts: (K, 4) int64, a row a class: true positives, false positives, false negatives, and the IoU of the true
    positives in units of 1 / FIXED_POINT; those of several processes are added.
    """

    def __init__(self, *, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = np.zeros((num_classes, 4), np.int64)

    def update(
        self,
        prediction: tuple[np.ndarray, Segments],
        truth: tuple[np.ndarray, Segments],
        *,
        source: str = "this image",
    ) -> None:
        """Count an image.

        prediction, truth: ids (H, W), 0 for void, and the segments of these ids. Categories are 0 .. num_classes - 1.
        source: named in errors, usually the image's file.
        ValueError, counting nothing: another size, an id without a segment, a segment without a pixel (of a
        prediction), an id twice, or a category that is no class.
        """
        if prediction[0].shape != truth[0].shape:
            raise ValueError(f"the prediction of {source} is {prediction[0].shape}, its truth {truth[0].shape}")
        found = self._indexed(*prediction, what=f"the prediction of {source}")
        true = self._indexed(*truth, what=f"the truth of {source}", needs_pixels=False)
        # Intersections: rows are the truth's segments, columns the prediction's; the first ones are void.
        num = len(prediction[1]) + 1
        pairs = np.bincount(true.ravel() * num + found.ravel(), minlength=(len(truth[1]) + 1) * num)
        self.counts += self._matches(pairs.reshape(-1, num), prediction[1], truth[1])

    def _indexed(self, ids: np.ndarray, segments: Segments, *, what: str, needs_pixels: bool = True) -> np.ndarray:
        """ids: (H, W) -> (H, W) int64: 0 for void, else the number of the segment in the list, from 1 on."""
        listed = np.array([VOID, *(int(segment["id"]) for segment in segments)], np.int64)
        if len(set(listed.tolist())) < len(listed):
            raise ValueError(f"{what} has an id twice, or {VOID}, which is void, among {listed[1:].tolist()}")
        if strange := sorted({int(s["category_id"]) for s in segments} - set(range(self.num_classes))):
            raise ValueError(f"{what} has segments of {strange}; classes are 0 .. {self.num_classes - 1}")
        order = np.argsort(listed)
        places = np.searchsorted(listed[order], ids.ravel()).clip(max=len(listed) - 1)
        indexes = order[places].reshape(ids.shape)
        unknown = listed[indexes] != ids
        if unknown.any():
            first = np.unique(ids[unknown])[:3].tolist()
            raise ValueError(f"{what} has pixels of the ids {first}, which are no segment of its list")
        if needs_pixels and len(empty := np.flatnonzero(np.bincount(indexes.ravel(), minlength=len(listed))[1:] == 0)):
            raise ValueError(f"{what} lists the segment {listed[empty[0] + 1]}, which has no pixel")
        return indexes

    def _matches(self, pairs: np.ndarray, found: Segments, true: Segments) -> np.ndarray:
        """pairs: (T + 1, P + 1) pixels, void first -> (K, 4), what the image adds to the counts."""
        counts = np.zeros_like(self.counts)
        kinds = np.array([int(segment["category_id"]) for segment in found], np.int64)
        classes = np.array([int(segment["category_id"]) for segment in true], np.int64)
        crowd = np.array([bool(segment.get("iscrowd", 0)) for segment in true], bool)
        areas, found_areas = pairs.sum(1)[1:], pairs.sum(0)[1:]
        inside, on_void = pairs[1:, 1:], pairs[0, 1:]
        # Matches: above one half there is at most one of each segment.
        unions = areas[:, None] + found_areas[None] - inside - on_void[None]
        fits = (2 * inside > unions) & (classes[:, None] == kinds[None]) & ~crowd[:, None]
        for row, column in zip(*np.nonzero(fits), strict=True):
            overlap, union = int(inside[row, column]), int(unions[row, column])
            counts[classes[row], 0] += 1
            counts[classes[row], 3] += (2 * overlap * FIXED_POINT + union) // (2 * union)  # the nearest unit
        # What is left of the truth.
        missed = ~crowd & ~fits.any(1)
        counts[:, 2] = np.bincount(classes[missed], minlength=self.num_classes)
        # What is left of the prediction, but for what lies on void and crowds.
        crowds = {int(classes[row]): row for row in np.flatnonzero(crowd)}
        forgiven = on_void.copy()
        for column, kind in enumerate(kinds):
            if int(kind) in crowds:
                forgiven[column] += inside[crowds[int(kind)], column]
        wrong = ~fits.any(0) & (2 * forgiven <= found_areas)
        counts[:, 1] = np.bincount(kinds[wrong], minlength=self.num_classes)
        return counts

    def merge(self, counts: np.ndarray) -> None:
        """Add the counts of another process."""
        self.counts += counts

    def per_class(self) -> dict[str, np.ndarray]:
        """ "PQ", "SQ", "RQ": (K,) in [0, 1], NaN for classes that are in no truth and no prediction."""
        hits, extra, missed, overlap = (column.astype(np.float64) for column in self.counts.T)
        overlap /= FIXED_POINT
        total = hits + extra / 2 + missed / 2
        nothing = np.full(len(hits), np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            segmentation = np.where(hits > 0, overlap / hits, 0.0)
        return {
            "PQ": np.divide(overlap, total, out=nothing.copy(), where=total > 0),
            "SQ": np.where(total > 0, segmentation, np.nan),
            "RQ": np.divide(hits, total, out=nothing.copy(), where=total > 0),
        }

    def results(self, is_thing: Sequence[bool]) -> dict[str, float]:
        """PQ, SQ, RQ, and of things and stuff PQ_th, ..., RQ_st, in percent; NaN of no class.

        is_thing: of each class.
        """
        quality, things = self.per_class(), np.asarray(is_thing, bool)
        groups = {"": np.ones_like(things), "_th": things, "_st": ~things}
        return {
            f"{name}{suffix}": _percent(values[chosen])
            for suffix, chosen in groups.items()
            for name, values in quality.items()
        }


def _percent(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return 100 * float(known.mean()) if len(known) else float("nan")


class PanopticEvaluator(DatasetEvaluator):
    """PQ over the images of all processes; images without a panoptic truth are left out."""

    def __init__(
        self, dataset_name: str, *, classes: Sequence[str], things: Sequence[int], distributed: bool = True
    ) -> None:
        """
        dataset_name: for messages. classes: their names; things: which of them, the others are stuff.
        distributed: merge what all processes have counted.
        """
        self.dataset_name = dataset_name
        self.classes = list(classes)
        self.is_thing = [label in set(things) for label in range(len(classes))]
        self.distributed = distributed
        self.reset()

    @classmethod
    def of_dataset(cls, dataset_name: str, *, distributed: bool = True) -> PanopticEvaluator | None:
        """The evaluator of a data set whose metadata has "panoptic_things", the labels that are things; else None."""
        metadata = MetadataCatalog.get(dataset_name)
        things = metadata.get("panoptic_things")
        if things is None:
            return None
        return cls(dataset_name, classes=metadata.stuff_classes, things=things, distributed=distributed)

    def reset(self) -> None:
        """Forget all images."""
        self.quality = PanopticQuality(num_classes=len(self.classes))
        self.num_images = 0

    def process(self, inputs: Sequence[Sample], outputs: Sequence[ModelOutput]) -> None:
        """Count a batch.

        inputs: samples with "file_name" and "panoptic_truth": ids (H, W), and segments with "id", "category_id" and
        "iscrowd". outputs: "panoptic_seg": the same of the prediction, as Detectron2's models give it, whose
        categories are the labels of the data set.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            truth = sample.get("panoptic_truth")
            if truth is None:
                continue
            ids, segments = output["panoptic_seg"]
            prediction = (torch.as_tensor(ids).cpu().numpy(), segments)
            true = (torch.as_tensor(truth[0]).cpu().numpy(), truth[1])
            self.quality.update(prediction, true, source=str(sample["file_name"]))
            self.num_images += 1

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """{"panoptic_seg": metrics in percent} of all processes' images; None on all processes but the first."""
        own = (self.quality.counts, self.num_images)
        parts = comm.gather(own) if self.distributed else [own]
        if not parts:
            return None
        total = PanopticQuality(num_classes=len(self.classes))
        for counts, _ in parts:
            total.merge(counts)
        results = total.results(self.is_thing)
        lines = [f"{'':8}{'PQ':>8}{'SQ':>8}{'RQ':>8}{'classes':>9}"]
        for title, suffix, num in (
            ("all", "", len(self.classes)),
            ("things", "_th", sum(self.is_thing)),
            ("stuff", "_st", len(self.classes) - sum(self.is_thing)),
        ):
            values = "".join(f"{results[name + suffix]:8.3f}" for name in ("PQ", "SQ", "RQ"))
            lines.append(f"{title:8}{values}{num:9d}")
        logger.info("%s, panoptic, %d images\n%s", self.dataset_name, sum(n for _, n in parts), "\n".join(lines))
        return OrderedDict(panoptic_seg=results)
