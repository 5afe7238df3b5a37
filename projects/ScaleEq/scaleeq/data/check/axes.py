"""Whether normals have their axes as they should, by the depth of the same images: x right, y down, z into the scene.

The sign of x is that of the depth's change to the right, and the sign of y that of its change downwards, whatever the
camera's focal length; so the length need not be known for this. Normals from depth are made with a guess of it, and
each axis is compared by itself: 1 where both agree in every pixel, -1 where one is the other's mirror image.
"""

from __future__ import annotations

import numpy as np

from ..surface import normals_from_depth

NAMES = "xyz"
STEPS_ALONG = 200  # of the longer side: how far the neighbours are whose depths are compared, at least 1 pixel
MIN_PIXELS = 50
MIN_STRENGTH = 0.01  # mean |a b| of an axis: below, all surfaces face the camera, and its sign cannot be told
AGREES, MIRRORED = 0.3, -0.3


def compare_axes(normals: np.ndarray, depth: np.ndarray) -> np.ndarray | None:
    """(3, 2) float64, for x, y and z: the sums of a b and of |a b| over pixels, and their number below: (4, 2).

    normals: (H, W, 3); depth: (H, W) in metres. None: too little is known of both.
    """
    height, width = depth.shape
    step = max(1, max(height, width) // STEPS_ALONG)
    if min(height, width) <= 2 * step:
        return None
    expected = normals_from_depth(depth, focal_px=float(max(height, width)), smooth_px=step)
    known = (np.abs(expected).sum(2) > 0) & (np.abs(normals).sum(2) > 0)
    count = np.count_nonzero(known)
    if count < MIN_PIXELS:
        return None
    products = normals[known].astype(np.float64) * expected[known]
    sums = np.stack([products.sum(0), np.abs(products).sum(0)], axis=1)
    return np.concatenate([sums, [[count, count]]])


def agreement(sums: np.ndarray) -> list[float | None]:
    """Of x, y and z in -1..1; None where it cannot be told. sums: those of compare_axes, added up."""
    count = max(1.0, float(sums[3, 0]))
    return [float(both / size) if size / count > MIN_STRENGTH else None for both, size in sums[:3]]


def about_axes(found: list[float | None], flipped: tuple[int, ...]) -> tuple[str, str] | None:
    """Kind of finding and advice; None: nothing is wrong. flipped: the axes that normals.txt turns already."""
    numbers = ", ".join(
        f"{name} {'-' if value is None else f'{value:.2f}'}" for name, value in zip(NAMES, found, strict=True)
    )
    compared = f"Compared with normals from depth (1: the same, -1: mirrored): {numbers}."
    mirrored = {axis for axis, value in enumerate(found) if value is not None and value < MIRRORED}
    if any(value is not None and MIRRORED <= value < AGREES for value in found):
        return "unlike depth", (
            f"{compared} No choice of signs makes them agree: are axes exchanged, or are these of other images? "
            "Here x is to the right, y down and z into the scene, of the camera that took the image"
        )
    if not mirrored:
        return None
    signs = " ".join("-1" if (axis in mirrored) != (axis in flipped) else "1" for axis in range(3))
    axes = " and ".join(NAMES[axis] for axis in sorted(mirrored))
    return "mirrored", (
        f"{compared} So {axes} {'points' if len(mirrored) == 1 else 'point'} the other way round; here x is to the "
        f"right, y down and z into the scene. Write a file normals.txt beside the folders, with the line {signs}"
    )
