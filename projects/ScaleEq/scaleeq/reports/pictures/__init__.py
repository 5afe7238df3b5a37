"""Pictures of what a model does to images: predictions with their errors, gates, alignments, features.

drawing and layout make pixels, sheets makes a picture of arrays, sources finds images and runs models, writing puts
them into a folder; evaluation draws for a training, finished_run for its end.
"""

from .evaluation import evaluation_sheets
from .sheets import SHEETS, Classes, Score, Seen, overview_sheet, prediction_sheet
from .sources import ModelPredictions, StoredPredictions, dataset_images, picture_files
from .writing import write_sheets

__all__ = [
    "SHEETS",
    "Classes",
    "ModelPredictions",
    "Score",
    "Seen",
    "StoredPredictions",
    "dataset_images",
    "evaluation_sheets",
    "overview_sheet",
    "picture_files",
    "prediction_sheet",
    "write_sheets",
]
