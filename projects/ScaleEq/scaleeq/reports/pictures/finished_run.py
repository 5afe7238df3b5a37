"""The picture of a finished run: predictions beside the truth. Its branches' scales: reports/scales_drawing.py."""

from __future__ import annotations

from pathlib import Path

from scaleeq.engine import CfgNode
from scaleeq.pictures import write_png

from .sheets import overview_sheet
from .sources import ModelPredictions, dataset_images


def plot_predictions(cfg: CfgNode, weights: str, path: Path, *, num_images: int = 4) -> None:
    """Rows of image, truth, prediction and error for images of DATASETS.TEST[0], with a legend of the classes."""
    look = ModelPredictions(cfg, weights)
    images = dataset_images(cfg.DATASETS.TEST[0], num=num_images)
    seen = {name: look(record) for name, record in images.items()}
    write_png(path, overview_sheet(cfg.DATASETS.TEST[0], seen, look.classes))
