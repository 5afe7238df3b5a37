"""The pictures that a training shows of its evaluations: the sheets of their examples, in place of plain ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scaleeq.engine import MetadataCatalog
from scaleeq.training.testing import Evaluation

from .sheets import Classes, Seen, overview_sheet


def evaluation_sheets(evaluation: Evaluation) -> dict[str, np.ndarray]:
    """Name -> (H, W, 3) uint8, a sheet for each data set: image, truth, prediction and errors, with a legend."""
    sheets = {}
    for name, examples in evaluation.examples.items():
        seen = {
            Path(each.file_name).name: Seen(each.image, each.prediction, each.truth, views=each.views)
            for each in examples
        }
        metadata = MetadataCatalog.get(name)
        if not seen:
            continue
        # A data set of another project may have no colours of its classes.
        if metadata.get("stuff_colors") or all(each.prediction is None for each in seen.values()):
            sheets[f"predictions/{name}"] = overview_sheet(name, seen, Classes.of(metadata))
    return sheets
