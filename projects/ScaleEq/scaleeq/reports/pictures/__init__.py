"""Pictures of what a model does to images: predictions with their errors, gates, alignments, features.

drawing and layout make pixels, sheets makes a picture of arrays, sources finds images and runs models, writing puts
them into a folder; evaluation draws for a training, finished_run for its end.
"""

from .sheets import Classes, Seen, prediction_sheet

__all__ = ["Classes", "Seen", "prediction_sheet"]
