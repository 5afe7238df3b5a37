"""The evaluator of semantic segmentation: one pass, one count an image, constant memory.

Detectron2's metric names, in percent: mIoU, fwIoU, mACC, pACC, IoU-<class>, ACC-<class>, and those of its parts. All
counts are int64, so that the result is the same to the last digit over any number of processes. Deviations from
Detectron2's evaluator: classes that are in no truth are handled by a named policy (see `confusion`; its own is
"truth"); labels that no class declares are refused (there they are counted in another class's cell); no list of all
predictions is kept, and boundary IoU is a part, by its definition.
"""

from __future__ import annotations

import copy
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import torch

from scaleeq.choices import one_of
from scaleeq.engine import DatasetCatalog, DatasetEvaluator, MetadataCatalog, comm
from scaleeq.files import write_json
from scaleeq.records import Record

from .argmax import predicted_labels
from .confusion import ABSENT_POLICIES, ConfusionMatrix, metrics_from_counts
from .parts import CONFUSION, ModelOutput, Part, Sample
from .result_table import in_percent, result_table

FILE_NAME = "sem_seg_evaluation.json"
NUM_IMAGES = "num_images"

logger = logging.getLogger(__name__)

Counts = dict[str, np.ndarray]  # what an evaluator has counted: int64 arrays that add


class SemSegEvaluator(DatasetEvaluator):
    """Counts a confusion matrix, and what its parts count, over the images of all processes."""

    labels_suffice = True

    def __init__(
        self,
        dataset_name: str,
        *,
        absent: str = "exclude",
        parts: Sequence[Part] = (),
        distributed: bool = True,
        output_dir: str | None = None,
        read_labels: Callable[[Record], np.ndarray] | None = None,
    ) -> None:
        """
        dataset_name: its metadata gives the classes and the ignore label.
        absent: what becomes of classes that are in no truth, one of ABSENT_POLICIES.
        parts: further metrics of the same pass; copied at each reset.
        distributed: merge the counts of all processes.
        output_dir: where sem_seg_evaluation.json is written; None: nowhere.
        read_labels: record -> (H, W) uint8, for samples without "sem_seg_truth" (of another mapper); usually
            scaleeq.data.read_labels.
        """
        one_of(absent, ABSENT_POLICIES, key="the policy for absent classes")
        metadata = MetadataCatalog.get(dataset_name)
        classes = metadata.get("stuff_classes")
        if not classes:
            raise ValueError(f"the data set {dataset_name!r} declares no stuff_classes in MetadataCatalog")
        self.dataset_name = dataset_name
        self.class_names: Sequence[str] = classes
        self.ignore_label: int = metadata.get("ignore_label", 255)
        self.absent = absent
        self.distributed = distributed
        self.output_dir = output_dir
        self.read_labels = read_labels
        self._fresh_parts = list(parts)
        self._records: dict[str, Record] | None = None
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.confusion = ConfusionMatrix(num_classes=len(self.class_names), ignore_label=self.ignore_label)
        self.parts = copy.deepcopy(self._fresh_parts)
        self.num_images = 0
        self.merged: np.ndarray | None = None  # the confusion matrix of all processes' images, once there are results

    def process(self, inputs: Sequence[Sample], outputs: Sequence[ModelOutput]) -> None:
        """Count a batch.

        inputs: samples with "file_name" and "sem_seg_truth": (H, W) uint8.
        outputs: "sem_seg": (K, H, W) logits, any scores whose largest is the prediction, or their Argmax.
        Raises ValueError for another number of classes or another size than the truth's, FloatingPointError for scores
        that are not finite.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            scores, source = output["sem_seg"], str(sample["file_name"])
            truth = self._truth(sample)
            if tuple(scores.shape) != (len(self.class_names), *truth.shape):
                raise ValueError(
                    f"the prediction of {source} is {tuple(scores.shape)} (classes, height, width), but "
                    f"{self.dataset_name} has {len(self.class_names)} classes and the image's truth is {truth.shape}"
                )
            self.count(predicted_labels(output, source), truth, sample)

    def count(self, prediction: np.ndarray, truth: np.ndarray, sample: Sample) -> None:
        """Count an image whose prediction is a label map.

        prediction, truth: (H, W) uint8. sample: "file_name", for errors, and what the parts read.
        Raises ValueError for another size, and for labels that no class declares.
        """
        self.confusion.update(prediction, truth, source=str(sample["file_name"]))
        for part in self.parts:
            part.update(prediction, truth, sample)
        self.num_images += 1

    def counts(self) -> Counts:
        """All that this process has counted; those of several processes are added, key by key."""
        counts = {NUM_IMAGES: np.array(self.num_images, np.int64), CONFUSION: self.confusion.counts}
        for index, part in enumerate(self.parts):
            counts |= {f"{index}/{name}": array for name, array in part.counts().items()}
        return counts

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """{"sem_seg": metrics in percent} of all processes' images; None on all processes but the first."""
        counts = comm.gather(self.counts()) if self.distributed else [self.counts()]
        return self.results(add_counts(counts)) if counts else None

    def results(self, counts: Counts) -> OrderedDict[str, dict[str, float]]:
        """{"sem_seg": metrics in percent} of counts of any origin; logs their table, and writes the file."""
        # Metrics of the counts.
        confusion, num_images = counts[CONFUSION], int(counts[NUM_IMAGES])
        self.merged = confusion
        if not confusion.sum():
            logger.warning("no labelled pixel in %d images of %s: all metrics are NaN", num_images, self.dataset_name)
        metrics = metrics_from_counts(confusion, absent=self.absent)
        further = []
        for index, part in enumerate(self.parts):
            prefix = f"{index}/"
            own = {name[len(prefix) :]: array for name, array in counts.items() if name.startswith(prefix)}
            further.append(part.results({CONFUSION: confusion, **own}))
        results = in_percent(metrics, self.class_names)
        for part_results in further:
            results |= part_results
        # The table.
        title = f"{self.dataset_name}, {num_images} images"
        notes = [part.note for part in self.parts if part.note]
        text = result_table(
            title, metrics, confusion, self.class_names, absent=self.absent, further=further, notes=notes
        )
        logger.info("%s", text)
        # The file.
        if self.output_dir:
            content = {
                "dataset": self.dataset_name,
                "num_images": num_images,
                "absent_classes": self.absent,
                "absent_classes_meaning": ABSENT_POLICIES[self.absent],
                "sem_seg": results,
                "confusion": confusion.tolist(),
            }
            write_json(os.path.join(self.output_dir, FILE_NAME), content, indent=None)
        return OrderedDict(sem_seg=results)

    def _truth(self, sample: Sample) -> np.ndarray:
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


def add_counts(counts: Sequence[Counts]) -> Counts:
    """The sums of the counts of several processes, by name; all have the same names."""
    return {name: sum((each[name] for each in counts[1:]), counts[0][name]) for name in counts[0]}
