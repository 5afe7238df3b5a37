"""From a model's output to labels, once for all evaluators that look at the same output."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import numpy as np
import torch

LABELS = "labels"


def predicted_labels(output: MutableMapping[str, Any]) -> np.ndarray:
    """The prediction: (H, W) uint8.

    output: "sem_seg": (K, H, W), scores of at most 256 classes whose largest is the prediction. The labels are kept in
    it under "labels", where the next evaluator finds them.
    """
    if LABELS not in output:
        # max is several times faster than argmax on a CPU; one byte a pixel leaves the accelerator.
        output[LABELS] = output["sem_seg"].max(dim=0).indices.to(torch.uint8).cpu().numpy()
    return output[LABELS]
