"""Normals of a depth map: the directions of the surfaces that a pinhole camera sees.

Source: the cross product of the differences of neighbouring points, as NYU's toolbox and many others have it. Axes are
x to the right, y down and z into the scene; the normal points towards the camera, so that its z is negative.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LARGEST_STEP = 0.05  # of the depth, between neighbours of one surface


def normals_from_depth(
    depth: np.ndarray, *, focal_px: float, center_px: Sequence[float] | None = None, smooth_px: int = 1
) -> np.ndarray:
    """depth: (H, W) in metres, 0: unknown -> (H, W, 3) float32 of length 1; 0 where a neighbour is unknown or far off.

    focal_px: the camera's focal length. center_px: x and y of its principal point; None: the image's centre.
    smooth_px: how far the neighbours are whose difference is taken; a few for a sensor's noise.
    """
    height, width = depth.shape
    center_x, center_y = ((width - 1) / 2, (height - 1) / 2) if center_px is None else center_px
    z = depth.astype(np.float64)
    x, y = (np.arange(width) - center_x) / focal_px, (np.arange(height)[:, None] - center_y) / focal_px
    points = np.stack([x * z, y * z, z], axis=-1)
    # Central differences, where both neighbours are of the same surface.
    step = smooth_px
    inner = (slice(step, height - step), slice(step, width - step))
    right, left = points[step : height - step, 2 * step :], points[step : height - step, : width - 2 * step]
    below, above = points[2 * step :, step : width - step], points[: height - 2 * step, step : width - step]
    normal = np.cross(below - above, right - left)
    here = z[inner][..., None]
    near = [
        (each[..., 2:] > 0) & (np.abs(each[..., 2:] - here) < LARGEST_STEP * step * here)
        for each in (right, left, below, above)
    ]
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    known = np.logical_and.reduce(near) & (here > 0) & (length > 0)
    result = np.zeros((height, width, 3), np.float32)
    result[inner] = np.where(known, normal / np.where(length > 0, length, 1), 0)
    return result
