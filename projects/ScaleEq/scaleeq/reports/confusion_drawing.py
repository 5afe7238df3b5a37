"""A confusion matrix as a picture: a row each class of the truth, a column each class that it was taken for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .style import drawing, plain, to_picture

MAX_NAMES = 40  # classes; of more, names would lie over each other
NAME = 18  # letters
CELL_IN, MARGIN_IN = 0.22, 1.6  # inches of a cell, and of names and title


def confusion_sheet(title: str, counts: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """counts: (K, K) -> (H, W, 3) uint8 RGB: each row as a share of its class, in percent; empty classes are grey."""
    totals = counts.sum(axis=1, keepdims=True)
    shares = 100 * np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    side = max(3.2, min(8.0, CELL_IN * len(counts)))
    with drawing(side + MARGIN_IN + 0.7, side + MARGIN_IN, axes_grid=False) as (figure, [axis]):
        axis.set_facecolor("#808080")
        shown = axis.imshow(shares, cmap="viridis", vmin=0, vmax=100, interpolation="nearest")
        figure.colorbar(shown, ax=axis, label="% of the class", shrink=0.8)
        if len(counts) <= MAX_NAMES:
            words = [plain(name, longest=NAME) for name in names]
            axis.set_xticks(range(len(words)), words, rotation=90, fontsize=7)
            axis.set_yticks(range(len(words)), words, fontsize=7)
        axis.set_xlabel("prediction")
        axis.set_ylabel("truth")
        axis.set_title(plain(title))
        return to_picture(figure)
