"""From a record to a sample: the dict that the model takes.

What is trained on comes as targets (`targets`); without any, it is the labels of semantic segmentation. Their keys and
types are Detectron2's, so that its models take these samples and ours take its. Added: at test time "sem_seg_truth" (or
the truth of another target) and "instance_truth", at the image's original size, decoded here, in a worker, because
decoding is the larger part of an evaluation's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from scaleeq.choices import one_of
from scaleeq.engine import CfgNode, MetadataCatalog
from scaleeq.geometry import Map
from scaleeq.records import Record

from .augmentation import IMAGE, TrainAugmentation, resized_shape
from .instances import Instances
from .own_augmentation import OwnAugmentation, augmented_by, own_augmentation
from .panoptic_file import has_panoptic, read_panoptic
from .reading import IMAGE_FORMATS, check_same_size, read_image, read_instances
from .sets.catalog import IGNORE_LABEL
from .targets import Labels, Target

Sample = Record


class SegmentationMapper:
    """Makes samples of records: with augmentation, for training; without, for testing."""

    def __init__(
        self,
        *,
        num_classes: int = 0,
        ignore_label: int = IGNORE_LABEL,
        targets: Sequence[Target] = (),
        image_format: str = "RGB",
        augmentation: TrainAugmentation | None = None,
        own: OwnAugmentation | None = None,
        test_short_side: int = 0,
        test_max_side: int = 1 << 30,
    ) -> None:
        """
        num_classes, ignore_label: of labels, where no targets are given; other labels are refused.
        targets: what is read beside the image, each under its key.
        image_format: order of the channels that the model takes, "RGB" or "BGR".
        augmentation: None for testing. own: a user's, after it.
        test_short_side, test_max_side: size in pixels of the image that the model sees at test time; 0: its own.
        """
        one_of(image_format, IMAGE_FORMATS, key="INPUT.FORMAT")
        self.targets = tuple(targets) or (Labels(num_classes=num_classes, ignore_label=ignore_label),)
        self.image_format = image_format
        self.augmentation = augmentation
        self.own = own
        self.test_short_side = test_short_side
        self.test_max_side = test_max_side

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool, targets: Sequence[Target] = ()) -> SegmentationMapper:
        """The mapper that INPUT describes, for the targets of MODEL.TASKS.

        targets: none: the labels that MODEL.SEM_SEG_HEAD describes.

        In training, a flip exchanges the labels for left and right that the sets of DATASETS.TRAIN have (flip_pairs).
        ValueError: these sets do not have the same ones; or MODEL.TASKS.NAMES names others, and no targets are given.
        """
        names = list(cfg.MODEL.TASKS.NAMES)
        if not targets and names != [Labels.target_key]:
            raise ValueError(f"MODEL.TASKS.NAMES is {names}; give the mapper their targets: tasks.build_tasks(cfg)")
        augmentation = TrainAugmentation.from_config(cfg, shared_flip_pairs(cfg.DATASETS.TRAIN)) if is_train else None
        return cls(
            targets=targets or (Labels.from_config(cfg),),
            image_format=cfg.INPUT.FORMAT,
            augmentation=augmentation,
            own=own_augmentation(cfg.INPUT.AUGMENTATION) if is_train else None,
            test_short_side=cfg.INPUT.MIN_SIZE_TEST,
            test_max_side=cfg.INPUT.MAX_SIZE_TEST,
        )

    def __call__(self, record: Record, rng: np.random.Generator | None = None) -> Sample:
        """The sample of a record.

        rng: drives the augmentation; needed for training.
        Returns file_name, image_id, height and width (of the original) and "image": (3, H, W) uint8; in training each
        target that the record has, of its type, (H, W) or (C, H, W): "sem_seg" is int64; in testing the same at the
        original size, as it was read, under "<key>_truth", and if there are instances, "instance_truth": (height,
        width) int32.
        Raises ValueError naming the file for maps of another size, labels outside the classes, and for a record to
        train on that has none of the targets.
        """
        return self._test_sample(record) if self.augmentation is None else self._train_sample(record, rng)

    def _train_sample(self, record: Record, rng: np.random.Generator | None) -> Sample:
        assert self.augmentation is not None
        if rng is None:
            raise ValueError("a training sample needs a random generator: mapper(record, rng)")
        image, truths = self._read(record)
        if not truths:
            keys = " or ".join(repr(target.target_key) for target in self.targets)
            raise ValueError(f"{record['file_name']} has no {keys} to train on")
        sample = self._sample(record, image)
        geometries = {target.target_key: target.geometry for target in self.targets}
        maps = {key: Map(values, geometries[key]) for key, values in truths.items()}
        image, augmented = self.augmentation(image, maps, rng)
        if self.own is not None:
            image, augmented = augmented_by(self.own, image, augmented, rng, source=str(record["file_name"]))
        sample["image"] = self._to_tensor(image)
        for target in self.targets:
            if (values := augmented.get(target.target_key)) is not None:
                sample[target.target_key] = trained_on(values, target.dtype)
        return sample

    def _test_sample(self, record: Record) -> Sample:
        image, truths = self._read(record)
        sample = self._sample(record, image)
        for key, values in truths.items():
            sample[f"{key}_truth"] = values if isinstance(values, Instances) else channels_first(values)
            if isinstance(values, Instances) and has_panoptic(record):
                sample["panoptic_truth"] = read_panoptic(record)
        if (instances := read_instances(record)) is not None:
            sample["instance_truth"] = torch.from_numpy(instances)
        shape = resized_shape(image.shape, self.test_short_side, self.test_max_side)
        sample["image"] = self._to_tensor(IMAGE.resized(image, shape))
        return sample

    def _read(self, record: Record) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Image: (H, W, 3) uint8 in RGB, and the targets that the record has, key -> (H, W) or (H, W, C)."""
        image, truths = read_image(record), {}
        for target in self.targets:
            if (values := target.read(record, image)) is not None:
                check_same_size(record, image.shape[:2], values.shape[:2], key=target.target_key)
                truths[target.target_key] = values
        return image, truths

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


def trained_on(values: Any, dtype: torch.dtype) -> torch.Tensor | dict[str, torch.Tensor]:
    """A target as a training sample has it. values: (H, W), (H, W, C), or the objects of an image."""
    return values.sample() if isinstance(values, Instances) else channels_first(values).to(dtype)


def channels_first(values: np.ndarray) -> torch.Tensor:
    """values: (H, W) or (H, W, C) -> (H, W) or (C, H, W), contiguous."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, -1, 0) if values.ndim == 3 else values))


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
