"""A user's own augmentation: a function by its name, INPUT.AUGMENTATION "module:function", after the one of INPUT.

    # mine.py, on PYTHONPATH
    def blurred(image, maps, rng):
        '''image: (H, W, 3) uint8 in RGB; maps: key -> (H, W) or (H, W, C), "sem_seg" among them; rng: numpy's.'''
        return (cv2.blur(image, (3, 3)) if rng.random() < 0.5 else image), maps

Whatever it draws, it draws of rng: then a sample is a function of the run's seed and the sample's index, as before, and
a resumed run sees what an unbroken one would have seen. It may give another size, the same for image and maps.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Maps = dict[str, Any]
OwnAugmentation = Callable[[np.ndarray, Maps, np.random.Generator], tuple[np.ndarray, Mapping[str, object]]]
KEY = "INPUT.AUGMENTATION"


def own_augmentation(name: str) -> OwnAugmentation | None:
    """The function of a name; None for an empty one. ValueError: there is none, or it cannot be imported."""
    if not name:
        return None
    module, _, function = name.partition(":")
    if not module or not function:
        raise ValueError(f"{KEY} is {name!r}; give module:function, such as mine:blurred")
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ImportError as error:
        raise ValueError(f"{KEY} is {name!r}: {error}; put its folder on PYTHONPATH") from error
    if not callable(found):
        raise ValueError(f"{KEY} is {name!r}, but {module} has no function {function!r}")
    return found


def augmented_by(
    function: OwnAugmentation, image: np.ndarray, maps: Mapping[str, Any], rng: np.random.Generator, *, source: str
) -> tuple[np.ndarray, Maps]:
    """What the function makes of an image and its maps.

    source: the image's file, for messages. ValueError: objects, which are no maps; a result that is none.
    """
    if objects := [key for key, values in maps.items() if not isinstance(values, np.ndarray)]:
        raise ValueError(f"{KEY} takes maps alone, but the samples have {', '.join(objects)}; leave it empty")
    image, found = function(image, dict(maps), rng)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"{KEY} gave no (H, W, 3) uint8 image of {source}")
    for key, values in maps.items():
        other = found.get(key)
        if not isinstance(other, np.ndarray) or other.dtype != values.dtype or other.shape[:2] != image.shape[:2]:
            shown = f"{other.dtype} {other.shape}" if isinstance(other, np.ndarray) else f"a {type(other).__name__}"
            raise ValueError(
                f"{KEY} gave, of {source}, an image {image.shape} and {key} as {shown}; expected {values.dtype} of "
                "the image's height and width"
            )
    return image, {key: found[key] for key in maps}
