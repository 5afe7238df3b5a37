"""Cityscapes' metrics beside the IoU of classes: IoU by category, and iIoU (Cordts et al., 2016) by class and category.

iIoU weighs a pixel of an instance by the average size of its class's instances over this instance's size, so that
small ones count as much as large ones:  iIoU = iTP / (iTP + iFP + iFN).  iTP + iFN is therefore the average size times
the number of instances, iTP the average size times the sum of the share of each instance that is right, and iFP is not
weighted: false positives belong to no instance. A category is right where any of its classes is predicted.

Source: cityscapesscripts 2.3.0, evalPixelLevelSemanticLabeling, whose numbers these are: its average sizes; groups (ids
below 1000, "persongroup") are no instances, but their pixels count for IoU and as false positives of other classes;
pixels of void and of the labels that are not evaluated (caravan, trailer, parking, ...) are left out; what is
undefined enters no mean. Deviations: nothing is written to files; a pass over the pixels of all instances at once
replaces a mask for each; shares are int64 in units of 1 / FIXED_POINT (2^-41 of an instance at most is rounded), so
that neither the order of images nor the number of processes changes a digit.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from .confusion import divide, mean
from .parts import CONFUSION, FIXED_POINT, Sample

# Of each class in the order of the training labels: labelId, name, category, and in pixels the average size of its
# instances (None: it has none), fixed for all evaluations.
CLASS_TABLE: tuple[tuple[int, str, str, float | None], ...] = (
    (7, "road", "flat", None),
    (8, "sidewalk", "flat", None),
    (11, "building", "construction", None),
    (12, "wall", "construction", None),
    (13, "fence", "construction", None),
    (17, "pole", "object", None),
    (19, "traffic light", "object", None),
    (20, "traffic sign", "object", None),
    (21, "vegetation", "nature", None),
    (22, "terrain", "nature", None),
    (23, "sky", "sky", None),
    (24, "person", "human", 3462.4756337644),
    (25, "rider", "human", 3930.4788056518),
    (26, "car", "vehicle", 12794.0202738185),
    (27, "truck", "vehicle", 27855.1264367816),
    (28, "bus", "vehicle", 35732.1511111111),
    (31, "train", "vehicle", 67583.7075812274),
    (32, "motorcycle", "vehicle", 6298.7200839748),
    (33, "bicycle", "vehicle", 4672.3249222261),
)
LABEL_IDS = tuple(row[0] for row in CLASS_TABLE)
CLASSES = tuple(row[1] for row in CLASS_TABLE)
CATEGORIES = tuple(dict.fromkeys(row[2] for row in CLASS_TABLE))
CATEGORY_OF = np.array([CATEGORIES.index(row[2]) for row in CLASS_TABLE])
WITH_INSTANCES = np.array([label for label, row in enumerate(CLASS_TABLE) if row[3] is not None])
AVERAGE_SIZES = np.array([row[3] for row in CLASS_TABLE if row[3] is not None])

# An instance's id is 1000 times its labelId plus its number. Below 1000 are groups and what has no instances.
IDS_PER_LABEL = 1000
FIRST_ID, END_ID = 24 * IDS_PER_LABEL, 34 * IDS_PER_LABEL
PLACE = np.full(34, -1)  # labelId -> place in WITH_INSTANCES; -1 for caravan and trailer, which are not evaluated
PLACE[[LABEL_IDS[label] for label in WITH_INSTANCES]] = np.arange(len(WITH_INSTANCES))
IN_CATEGORY = CATEGORY_OF[WITH_INSTANCES][:, None] == CATEGORY_OF  # (8, 19): predictions that are right for a category

logger = logging.getLogger(__name__)


class InstanceIoU:
    """IoU_category, iIoU and iIoU_category, of the same pass as the confusion matrix (a Part)."""

    note = (
        "IoU_category: of 7 groups of classes; iIoU: pixels weighted by average / own size of their instance, over the "
        "8 classes (2 categories) that have instances"
    )

    def __init__(self, class_names: Sequence[str]) -> None:
        """class_names: of the data set, in the order of its labels. ValueError: they are not Cityscapes' 19."""
        if tuple(class_names) != CLASSES:
            raise ValueError(f"Cityscapes' metrics need its 19 classes {CLASSES}, not {tuple(class_names)}")
        self._shares = np.zeros((3, len(WITH_INSTANCES)), np.int64)
        self._without_instances = 0

    def update(self, prediction: np.ndarray, truth: np.ndarray, sample: Sample) -> None:
        """Count an image.

        prediction, truth: (H, W) uint8.
        sample: "instance_truth": (H, W) int32, the ids of instanceIds files; without it there is no iIoU.
        ValueError: instances of another size, or ids that are not Cityscapes'.
        """
        if sample.get("instance_truth") is None:
            if not self._without_instances:
                logger.warning("no iIoU: %s comes without instances (gtFine_instanceIds.png)", sample.get("file_name"))
            self._without_instances += 1
            return
        instances = np.asarray(sample["instance_truth"])
        if instances.shape != prediction.shape:
            raise ValueError(
                f"the instances of {sample.get('file_name')} are {instances.shape}, its prediction {prediction.shape}"
            )
        self._shares += instance_shares(prediction, instances, source=str(sample.get("file_name")))

    def counts(self) -> dict[str, np.ndarray]:
        """Of each class with instances: how many, their right shares, and their shares in the right category."""
        number, right, in_category = self._shares
        return {
            "instances": number,
            "instance_shares": right,
            "instance_category_shares": in_category,
            "images_without_instances": np.array([self._without_instances], np.int64),
        }

    def results(self, counts: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Metric -> percent. counts: as Part has it."""
        # IoU of categories.
        confusion = counts[CONFUSION]
        categories = np.zeros((len(CATEGORIES), len(CATEGORIES)), np.int64)
        np.add.at(categories, (CATEGORY_OF[:, None], CATEGORY_OF[None, :]), confusion)
        right = categories.diagonal()
        category_iou = divide(right, categories.sum(axis=0) + categories.sum(axis=1) - right)

        # iIoU of classes, then categories.
        number = AVERAGE_SIZES * counts["instances"]
        shares, category_shares = (
            AVERAGE_SIZES * (counts[name] / FIXED_POINT) for name in ("instance_shares", "instance_category_shares")
        )
        iiou = divide(shares, number + _false_positives(confusion)[WITH_INSTANCES])
        of_category = CATEGORY_OF[WITH_INSTANCES]
        with_instances = np.unique(of_category)
        summed = [
            np.array([values[of_category == category].sum() for category in with_instances])
            for values in (category_shares, number)
        ]
        category_iiou = divide(summed[0], summed[1] + _false_positives(categories)[with_instances])
        if counts["images_without_instances"].any():
            iiou, category_iiou = np.full_like(iiou, np.nan), np.full_like(category_iiou, np.nan)

        # Means, then single values.
        values = {"iIoU": mean(iiou), "IoU_category": mean(category_iou), "iIoU_category": mean(category_iiou)}
        values |= {f"iIoU-{CLASSES[i]}": v for i, v in zip(WITH_INSTANCES, iiou, strict=True)}
        values |= {f"IoU_category-{name}": v for name, v in zip(CATEGORIES, category_iou, strict=True)}
        values |= {f"iIoU_category-{CATEGORIES[i]}": v for i, v in zip(with_instances, category_iiou, strict=True)}
        return {name: 100 * float(value) for name, value in values.items()}


def instance_shares(prediction: np.ndarray, instances: np.ndarray, *, source: str = "this image") -> np.ndarray:
    """Sums over the instances of each class that has them: (3, 8) int64.

    prediction: (H, W) uint8. instances: (H, W), ids.
    Rows: how many there are; the share of each that is right, and that is in the right category, times FIXED_POINT.
    """
    # Pixels of instances.
    where = np.flatnonzero(instances.ravel() >= FIRST_ID)
    ids = instances.ravel()[where]
    if ids.size and ids.max() >= END_ID:
        raise ValueError(
            f"the instances of {source} hold the id {ids.max()}; Cityscapes' are labelId * 1000 + number, "
            f"below {END_ID}"
        )
    # One histogram of (instance, prediction). A prediction that is no class can only be on void, such as a caravan.
    num_bins = len(CLASSES) + 1
    cells = (ids.astype(np.int64) - FIRST_ID) * num_bins
    cells += np.minimum(prediction.ravel()[where], len(CLASSES))
    pairs = np.bincount(cells, minlength=(END_ID - FIRST_ID) * num_bins).reshape(-1, num_bins)
    present = np.flatnonzero(pairs.any(axis=1))
    place = PLACE[(present + FIRST_ID) // IDS_PER_LABEL]
    present, place = present[place >= 0], place[place >= 0]

    # Shares of each instance.
    pairs = pairs[present]
    size = pairs.sum(axis=1)
    right = pairs[np.arange(len(pairs)), WITH_INSTANCES[place]]
    in_category = (pairs[:, :-1] * IN_CATEGORY[place]).sum(axis=1)
    sums = np.zeros((3, len(WITH_INSTANCES)), np.int64)
    np.add.at(sums[0], place, 1)
    for row, part in zip(sums[1:], (right, in_category), strict=True):
        np.add.at(row, place, np.rint(part / size * FIXED_POINT).astype(np.int64))
    return sums


def _false_positives(confusion: np.ndarray) -> np.ndarray:
    return confusion.sum(axis=0) - confusion.diagonal()
