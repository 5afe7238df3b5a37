"""The validation loss: cross entropy, averaged over every labelled pixel of a data set.

Plain, without the options of the training loss, so that it compares runs with different ones. One number an image is
kept and their sum is exact (math.fsum), so that it does not depend on the number of processes.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from scaleeq.engine import DatasetEvaluator, MetadataCatalog, comm

from .argmax import predicted_labels
from .parts import ModelOutput, Sample

logger = logging.getLogger(__name__)


class ValidationLossEvaluator(DatasetEvaluator):
    """Results are {"validation": {"loss": ...}}, in nats; "validation/loss" in metrics.json."""

    def __init__(self, dataset_name: str, *, distributed: bool = True) -> None:
        """
        dataset_name: its metadata gives the ignore label.
        distributed: merge the sums of all processes.
        """
        self.dataset_name = dataset_name
        self.ignore_label: int = MetadataCatalog.get(dataset_name).get("ignore_label", 255)
        self.distributed = distributed
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._sums: list[float] = []
        self._num_pixels = 0

    def process(self, inputs: Sequence[Sample], outputs: Sequence[ModelOutput]) -> None:
        """Add a batch.

        inputs: samples with "file_name" and "sem_seg_truth": (H, W) uint8.
        outputs: "sem_seg": (K, H, W) logits.
        Raises ValueError for a sample without labels, of another size, or with labels outside the K classes;
        FloatingPointError for logits that are not finite.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            logits, source = output["sem_seg"], str(sample["file_name"])
            if "sem_seg_truth" not in sample:
                raise ValueError(
                    f"the sample of {source} has no 'sem_seg_truth', which a validation loss needs: either "
                    f"{self.dataset_name} has no labels, or another mapper leaves them out. Load it with scaleeq's "
                    "test loader, or set TEST.VALIDATION_LOSS False"
                )
            # Truth and labels, checked.
            truth = torch.as_tensor(sample["sem_seg_truth"]).to(logits.device, torch.int64)
            if logits.shape[-2:] != truth.shape:
                raise ValueError(f"the prediction of {source} is {tuple(logits.shape)}, its truth {tuple(truth.shape)}")
            predicted_labels(output, source)  # for its look at the numbers; usually the labels are known already
            valid = truth != self.ignore_label
            if bool((truth[valid] >= logits.shape[0]).any()):
                largest = int(truth[valid].max())
                raise ValueError(f"{source} has the label {largest}, but there are logits of {len(logits)} classes")
            # One number an image.
            losses = F.cross_entropy(logits.float()[:, valid].T, truth[valid], reduction="none")
            self._sums.append(float(losses.sum(dtype=torch.float64)))
            self._num_pixels += int(valid.sum())

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """{"validation": {"loss": ...}} over all processes' images; None on all processes but the first."""
        own = (self._sums, self._num_pixels)
        parts = comm.gather(own) if self.distributed else [own]
        if not parts:
            return None
        num_pixels = sum(pixels for _, pixels in parts)
        if not num_pixels:
            logger.warning("no labelled pixel in %s: the validation loss is NaN", self.dataset_name)
        total = math.fsum(loss for sums, _ in parts for loss in sums)
        return OrderedDict(validation={"loss": total / num_pixels if num_pixels else math.nan})
