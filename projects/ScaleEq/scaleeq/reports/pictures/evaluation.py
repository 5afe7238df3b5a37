"""The pictures that a training shows of its evaluations: sheets of their examples, confusion matrices with the names of
the classes, in place of plain ones, and the scales of the branches."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scaleeq.engine import MetadataCatalog
from scaleeq.files import read_json
from scaleeq.training.scale_hooks import is_sound
from scaleeq.training.testing import Evaluation

from ..confusion_drawing import confusion_sheet
from ..scales_drawing import branch_scales_figure, latest_scales
from ..style import to_picture
from .sheets import Classes, Seen, overview_sheet


def evaluation_sheets(evaluation: Evaluation) -> dict[str, np.ndarray]:
    """Name -> (H, W, 3) uint8: for each data set its examples, image, truth, prediction and errors, with a legend, and
    its confusion matrix; the branches' scales at the start of the run and now, where they are recorded.
    """
    sheets = {}
    for name, counts in evaluation.confusions.items():
        sheets[f"confusion/{name}"] = confusion_sheet(name, counts, MetadataCatalog.get(name).get("stuff_classes"))
    statistics = read_json(Path(evaluation.cfg.OUTPUT_DIR) / "scale_statistics.json", sound=is_sound)
    if scales := latest_scales(statistics):
        with branch_scales_figure(scales) as figure:
            sheets["scales"] = to_picture(figure)
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
