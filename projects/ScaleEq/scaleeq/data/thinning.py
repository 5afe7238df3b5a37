"""Thinning: lines of one pixel's width, of a mask.

Source: Guo and Hall 1989, in the form of MATLAB's bwmorph "thin" and scikit-image's `thin`: two passes that take away
border pixels which are no end and do not hold two parts together, until nothing changes.
"""

from __future__ import annotations

import numpy as np


def thin(mask: np.ndarray) -> np.ndarray:
    """mask: (H, W) bool -> (H, W) bool."""
    padded = np.pad(mask.astype(bool), 1)
    while True:
        before = padded.copy()
        for second in (False, True):
            padded[1:-1, 1:-1] &= ~_removable(padded, second=second)
        if (padded == before).all():
            return padded[1:-1, 1:-1]


def _removable(padded: np.ndarray, *, second: bool) -> np.ndarray:
    """(H, W) bool of the inner pixels that a pass takes away."""
    height, width = padded.shape[0] - 2, padded.shape[1] - 2
    # Neighbours from the right one on, against the clock.
    steps = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))
    x1, x2, x3, x4, x5, x6, x7, x8 = (
        padded[1 + down : 1 + down + height, 1 + right : 1 + right + width] for down, right in steps
    )
    ring = (x1, x2, x3, x4, x5, x6, x7, x8, x1)
    crossings = sum((~ring[k] & (ring[k + 1] | ring[(k + 2) % 8])).astype(np.uint8) for k in (0, 2, 4, 6))
    one = sum((ring[k] | ring[k + 1]).astype(np.uint8) for k in (0, 2, 4, 6))
    two = sum((ring[k] | ring[(k + 1) % 8]).astype(np.uint8) for k in (1, 3, 5, 7))
    pairs = np.minimum(one, two)
    side = (x6 | x7 | ~x4) & x5 if second else (x2 | x3 | ~x8) & x1
    return padded[1:-1, 1:-1] & (crossings == 1) & (pairs >= 2) & (pairs <= 3) & ~side
