"""The evaluator of semantic segmentation: an argmax and one histogram an image, constant memory.

Detectron2's metric names, in percent: mIoU, fwIoU, mACC, pACC, IoU-<class>, ACC-<class>. Deviations from its evaluator:
a class that is predicted but absent from the truth counts as IoU 0 (see `confusion`); labels that no class declares
are refused (there they are counted in another class's cell); no list of all predictions is kept, and there is no
boundary IoU.
"""

from __future__ import annotations

import logging
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from scaleeq.engine import DatasetCatalog, DatasetEvaluator, MetadataCatalog, comm
from scaleeq.evaluation.confusion import ConfusionMatrix, Metrics, metrics_from_counts
from scaleeq.files import write_json

FILE_NAME = "sem_seg_evaluation.json"
ABSENT = "exclude"
ABSENT_NOTE = (
    "classes absent from both truth and predictions are left out; predicted but absent from the truth is IoU 0"
)

logger = logging.getLogger(__name__)


class SemSegEvaluator(DatasetEvaluator):
    """Counts a confusion matrix over the images of all processes."""

    def __init__(
        self,
        dataset_name: str,
        *,
        distributed: bool = True,
        output_dir: str | None = None,
        read_labels: Callable[[dict[str, Any]], np.ndarray] | None = None,
    ) -> None:
        """
        dataset_name: its metadata gives the classes and the ignore label.
        distributed: merge the counts of all processes.
        output_dir: where sem_seg_evaluation.json is written; None: nowhere.
        read_labels: record -> (H, W) uint8, for samples without "sem_seg_truth" (of another mapper); usually
            scaleeq.data.read_labels.
        """
        metadata = MetadataCatalog.get(dataset_name)
        classes = metadata.get("stuff_classes")
        if not classes:
            raise ValueError(f"the data set {dataset_name!r} declares no stuff_classes in MetadataCatalog")
        self.dataset_name = dataset_name
        self.class_names: Sequence[str] = classes
        self.ignore_label: int = metadata.get("ignore_label", 255)
        self.distributed = distributed
        self.output_dir = output_dir
        self.read_labels = read_labels
        self._records: dict[str, dict[str, Any]] | None = None
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.confusion = ConfusionMatrix(num_classes=len(self.class_names), ignore_label=self.ignore_label)
        self.num_images = 0

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, torch.Tensor]]) -> None:
        """Count a batch.

        inputs: samples with "file_name" and "sem_seg_truth": (H, W) uint8.
        outputs: "sem_seg": (K, H, W) logits, or any scores whose largest is the prediction.
        Raises ValueError for another number of classes or another size than the truth's.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            scores, source = output["sem_seg"], str(sample["file_name"])
            truth = self._truth(sample)
            if tuple(scores.shape) != (len(self.class_names), *truth.shape):
                raise ValueError(
                    f"the prediction of {source} is {tuple(scores.shape)} (classes, height, width), but "
                    f"{self.dataset_name} has {len(self.class_names)} classes and the image's truth is {truth.shape}"
                )
            # max is several times faster than argmax on a CPU; one byte a pixel leaves the accelerator.
            prediction = scores.max(dim=0).indices.to(torch.uint8).cpu().numpy()
            self.confusion.update(prediction, truth, source=source)
            self.num_images += 1

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """{"sem_seg": metrics in percent} of all processes' images; None on all processes but the first."""
        counts, num_images = self.confusion.counts, self.num_images
        if self.distributed and comm.get_world_size() > 1:
            parts = comm.gather((counts, num_images), dst=0)
            if not comm.is_main_process():
                return None
            counts = sum((part for part, _ in parts), np.zeros_like(counts))
            num_images = sum(images for _, images in parts)
        if not counts.sum():
            logger.warning("no labelled pixel in %d images of %s: all metrics are NaN", num_images, self.dataset_name)
        metrics = metrics_from_counts(counts, absent=ABSENT)
        results = self._percent(metrics)
        logger.info("%s", self._table(metrics, counts, num_images))
        if self.output_dir:
            self._write(results, counts, num_images)
        return OrderedDict(sem_seg=results)

    def _truth(self, sample: Mapping[str, Any]) -> np.ndarray:
        if "sem_seg_truth" in sample:
            return torch.as_tensor(sample["sem_seg_truth"]).cpu().numpy()
        if self.read_labels is None:
            raise ValueError(
                f"the sample of {sample['file_name']} has no 'sem_seg_truth'; load it with scaleeq's test loader, or "
                "give the evaluator read_labels=scaleeq.data.read_labels"
            )
        if self._records is None:
            self._records = {record["file_name"]: record for record in DatasetCatalog.get(self.dataset_name)}
        return self.read_labels(self._records[sample["file_name"]])

    def _percent(self, metrics: Metrics) -> dict[str, float]:
        results = {
            "mIoU": metrics.mean_iou,
            "fwIoU": metrics.frequency_weighted_iou,
            "mACC": metrics.mean_accuracy,
            "pACC": metrics.pixel_accuracy,
        }
        for kind, values in (("IoU", metrics.iou), ("ACC", metrics.accuracy)):
            results |= {f"{kind}-{name}": float(value) for name, value in zip(self.class_names, values, strict=True)}
        return {name: 100 * value for name, value in results.items()}

    def _table(self, metrics: Metrics, counts: np.ndarray, num_images: int) -> str:
        share = 100 * counts.sum(axis=1) / max(1, counts.sum())
        rows = [
            (name, _number(100 * iou), _number(100 * accuracy), _number(part))
            for name, iou, accuracy, part in zip(self.class_names, metrics.iou, metrics.accuracy, share, strict=True)
        ]
        table = tabulate(
            rows,
            headers=("class", "IoU", "accuracy", "% of pixels"),
            colalign=("left", "right", "right", "right"),
            tablefmt="pipe",
            disable_numparse=True,
        )
        excluded = int(np.isnan(metrics.iou).sum())
        return (
            f"{self.dataset_name}, {num_images} images, in percent:\n{table}\n"
            f"mIoU {_number(100 * metrics.mean_iou)}, fwIoU {_number(100 * metrics.frequency_weighted_iou)}, "
            f"mACC {_number(100 * metrics.mean_accuracy)}, pACC {_number(100 * metrics.pixel_accuracy)}; "
            f"{excluded} of {len(self.class_names)} classes absent ({ABSENT_NOTE})"
        )

    def _write(self, results: dict[str, float], counts: np.ndarray, num_images: int) -> None:
        assert self.output_dir is not None
        content = {
            "dataset": self.dataset_name,
            "num_images": num_images,
            "absent_classes": ABSENT_NOTE,
            "sem_seg": {name: None if math.isnan(value) else value for name, value in results.items()},
            "confusion": counts.tolist(),
        }
        write_json(os.path.join(self.output_dir, FILE_NAME), content, indent=None)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
