"""From a model's output to labels, once for all evaluators that look at the same output."""

from __future__ import annotations

import numpy as np
import torch

from scaleeq.ops import Argmax

from .parts import ModelOutput

LABELS = "labels"


def predicted_labels(output: ModelOutput, source: str = "an image") -> np.ndarray:
    """The prediction: (H, W) uint8.

    output: "sem_seg": (K, H, W), scores of at most 256 classes whose largest is the prediction, or their Argmax. The
    labels are kept in it under "labels", where the next evaluator finds them. source: the image's file, for errors.
    FloatingPointError: a score is NaN or +inf, or all of a pixel are -inf; some may be, of classes that are masked.
    """
    if LABELS not in output:
        # max is several times faster than argmax on a CPU. The largest score of a pixel is finite where none is NaN or
        # +inf and not all are -inf; whether all are travels with the labels, one byte a pixel, for a copy is a wait.
        scores = output["sem_seg"]
        if isinstance(scores, Argmax):
            labels, finite = scores.labels, scores.finite
        else:
            largest, labels = scores.max(dim=0)
            finite = largest.isfinite().all().to(torch.uint8)
        packed = torch.cat((labels.to(torch.uint8).flatten(), finite[None])).cpu().numpy()
        if not packed[-1]:
            raise FloatingPointError(
                f"the prediction of {source} is not finite: a score is NaN or +inf, or all of a pixel are -inf. Look "
                "at the image, at the weights, and at the precision that the model computes in"
            )
        output[LABELS] = packed[:-1].reshape(labels.shape)
    return output[LABELS]
