"""From a record to a sample: the dict that the model takes.

Keys and types are Detectron2's, so that its models take these samples and ours take its. Added: at test time
"sem_seg_truth" (and "instance_truth"), the labels at the image's original size, decoded here, in a worker, because
decoding is the larger part of an evaluation's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from scaleeq.data.augmentation import TrainAugmentation, resize_image, resized_shape
from scaleeq.data.reading import IMAGE_FORMATS, has_labels, read_image, read_instances, read_pair
from scaleeq.engine import MetadataCatalog

from .sets.catalog import Record

Sample = dict[str, Any]


class SegmentationMapper:
    """Makes samples of records: with augmentation, for training; without, for testing."""

    def __init__(
        self,
        *,
        num_classes: int,
        ignore_label: int = 255,
        image_format: str = "RGB",
        augmentation: TrainAugmentation | None = None,
        test_short_side: int = 0,
        test_max_side: int = 1 << 30,
    ) -> None:
        """
        num_classes, ignore_label: other labels are refused.
        image_format: order of the channels that the model takes, "RGB" or "BGR".
        augmentation: None for testing.
        test_short_side, test_max_side: size in pixels of the image that the model sees at test time; 0: its own.
        """
        if image_format not in IMAGE_FORMATS:
            raise ValueError(f"INPUT.FORMAT is {image_format!r}, valid are {IMAGE_FORMATS}")
        if not 0 <= ignore_label <= 255 or ignore_label < num_classes:
            raise ValueError(f"the ignore label {ignore_label} must be in {num_classes}..255, outside the classes")
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.image_format = image_format
        self.augmentation = augmentation
        self.test_short_side = test_short_side
        self.test_max_side = test_max_side

    @classmethod
    def from_config(cls, cfg: Any, is_train: bool) -> SegmentationMapper:
        """The mapper that INPUT and MODEL.SEM_SEG_HEAD describe.

        In training, a flip exchanges the labels for left and right that the sets of DATASETS.TRAIN have (flip_pairs).
        ValueError: these sets do not have the same ones.
        """
        return cls(
            num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            ignore_label=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            image_format=cfg.INPUT.FORMAT,
            augmentation=TrainAugmentation.from_config(cfg, shared_flip_pairs(cfg.DATASETS.TRAIN))
            if is_train
            else None,
            test_short_side=cfg.INPUT.MIN_SIZE_TEST,
            test_max_side=cfg.INPUT.MAX_SIZE_TEST,
        )

    def __call__(self, record: Record, rng: np.random.Generator | None = None) -> Sample:
        """The sample of a record.

        rng: drives the augmentation; needed for training.
        Returns file_name, image_id, height and width (of the original) and "image": (3, H, W) uint8; in training
        "sem_seg": (H, W) int64; in testing, if there are labels, "sem_seg_truth": (height, width) uint8, and if there
        are instances, "instance_truth": (height, width) int32.
        Raises ValueError naming the file for labels of another size or outside the classes.
        """
        return self._test_sample(record) if self.augmentation is None else self._train_sample(record, rng)

    def _train_sample(self, record: Record, rng: np.random.Generator | None) -> Sample:
        assert self.augmentation is not None
        if rng is None:
            raise ValueError("a training sample needs a random generator: mapper(record, rng)")
        image, labels = read_pair(record, num_classes=self.num_classes, ignore_label=self.ignore_label)
        sample = self._sample(record, image)
        image, labels = self.augmentation(image, labels, rng)
        sample["image"] = self._to_tensor(image)
        sample["sem_seg"] = torch.from_numpy(labels.astype(np.int64))
        return sample

    def _test_sample(self, record: Record) -> Sample:
        if has_labels(record):
            image, labels = read_pair(record, num_classes=self.num_classes, ignore_label=self.ignore_label)
        else:
            image, labels = read_image(record), None
        sample = self._sample(record, image)
        if labels is not None:
            sample["sem_seg_truth"] = torch.from_numpy(labels)
        if (instances := read_instances(record)) is not None:
            sample["instance_truth"] = torch.from_numpy(instances)
        shape = resized_shape(image.shape, self.test_short_side, self.test_max_side)
        sample["image"] = self._to_tensor(resize_image(image, shape))
        return sample

    def _sample(self, record: Record, image: np.ndarray) -> Sample:
        height, width = image.shape[:2]
        return {
            "file_name": record["file_name"],
            "image_id": record.get("image_id", record["file_name"]),
            "height": height,
            "width": width,
        }

    def _to_tensor(self, image: np.ndarray) -> torch.Tensor:
        """image: (H, W, 3) in RGB -> (3, H, W) uint8 in the model's order."""
        channels = image.transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(channels if self.image_format == "RGB" else channels[::-1]))


def shared_flip_pairs(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """The labels that a horizontal flip exchanges in the data sets of the names.

    ValueError: the data sets do not agree.
    """
    pairs = {name: {tuple(sorted(pair)) for pair in MetadataCatalog.get(name).get("flip_pairs", ())} for name in names}
    for name in names[1:]:
        if pairs[name] != pairs[names[0]]:
            raise ValueError(
                f"DATASETS.TRAIN has {names[0]}, in which a flip exchanges the labels {sorted(pairs[names[0]])}, and "
                f"{name}, in which it exchanges {sorted(pairs[name])}; train on sets with the same labels"
            )
    return tuple(sorted(pairs[names[0]])) if names else ()
