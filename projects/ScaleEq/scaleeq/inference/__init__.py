"""Inference on one image in several passes: sliding windows, scales and flips, alone or together.

Sources: the windows' places are mmsegmentation 1.2.2's; the mean of probabilities is its test-time augmentation; the
sum of exp(logits), over logits that are first averaged over an image and its mirror image, is GSTO's released code.
Deviations: windows are added into slices of one map of logits, and divided by the closed form of their number; scaled
images are not rounded to whole grey levels; GSTO takes exp before it averages windows and resizes, here it comes last.
Augmented scores are logarithms, so that a softmax, or a cross entropy, of any result is that of its probabilities.
Values of other tasks than classes are averaged themselves, after each has been brought back by its task's geometry.
"""

from .inference import Inference
from .options import AGGREGATE_ON, COMBINES, InferenceOptions
from .predicted import Classes, Maps, Predict, Predicted
from .views import Scores, Values, augmented, look_at_views, mirrored, scaled
from .windows import slide, slide_all, window_counts, window_starts

__all__ = [
    "AGGREGATE_ON",
    "COMBINES",
    "Classes",
    "Inference",
    "InferenceOptions",
    "Maps",
    "Predict",
    "Predicted",
    "Scores",
    "Values",
    "augmented",
    "look_at_views",
    "mirrored",
    "scaled",
    "slide",
    "slide_all",
    "window_counts",
    "window_starts",
]
