"""Means over views of an image: at several scales, and mirrored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from scaleeq.ops import resize

from .predicted import Maps, Predict, Predicted


def scaled(image: torch.Tensor, scale: float) -> torch.Tensor:
    """image: (3, H, W) -> (3, H * scale, W * scale), rounded; bilinear, half-pixel centres, float where it changes."""
    height, width = (max(1, int(side * scale + 0.5)) for side in image.shape[-2:])
    if (height, width) == tuple(image.shape[-2:]):
        return image
    return resize(image[None].float(), (height, width))[0]


def mirrored(
    logits: torch.Tensor, flip_pairs: Sequence[tuple[int, int]] = (), negated: Sequence[int] = ()
) -> torch.Tensor:
    """logits, or other values: (K, H, W) of a mirror image -> (K, H, W) of the image.

    flip_pairs: classes that exchange their names in a mirror, such as left and right arm. negated: channels whose sign
    a mirror turns.
    """
    logits = logits.flip(-1)
    if negated:
        logits[list(negated)] *= -1  # flip has made a copy
    if not flip_pairs:
        return logits
    if max(map(max, flip_pairs)) >= len(logits):
        raise ValueError(f"flip_pairs {list(flip_pairs)} names a class beyond the {len(logits)} of the prediction")
    order = list(range(len(logits)))
    for one, other in flip_pairs:
        order[one], order[other] = other, one
    return logits[order]


class Scores:
    """The mean of the probabilities of classes over several views of an image: at several scales, and mirrored.

    One map in all is kept, of logarithms: exp of large logits would overflow.
    """

    def __init__(self, *, flip: bool, combine: str, flip_pairs: Sequence[tuple[int, int]] = ()) -> None:
        """flip: whether each view's mirror image follows it. combine: of COMBINES."""
        self._flip, self._combine, self._flip_pairs = flip, combine, flip_pairs
        self._total: torch.Tensor | None = None
        self._held: torch.Tensor | None = None  # of a view whose mirror image is yet to come
        self._num = 0

    def add(self, logits: torch.Tensor, *, scale: float, mirror: bool) -> None:
        """logits: (K, H, W) of a view, or of its mirror image, which comes next."""
        if mirror:
            logits = mirrored(logits, self._flip_pairs)
        if self._combine == "exp_sum" and self._flip:
            if not mirror:
                self._held = logits
                return
            assert self._held is not None
            scores, self._held = (self._held + logits).div_(2), None
        else:
            scores = logits if self._combine == "exp_sum" else logits.log_softmax(0)
        self._total = scores if self._total is None else torch.logaddexp(self._total, scores, out=self._total)
        self._num += 1

    def mean(self) -> torch.Tensor:
        """(K, H, W), log of the mean of the probabilities ("softmax") or of exp(logits) ("exp_sum")."""
        assert self._total is not None
        return self._total.sub_(math.log(self._num)) if self._num > 1 else self._total


class Values:
    """The mean of a task's values over several views of an image: at several scales, and mirrored."""

    def __init__(self, task: Predicted, *, flip: bool) -> None:
        """flip: whether each view's mirror image follows it."""
        self._task, self._flip = task, flip
        self._total: torch.Tensor | None = None
        self._held: torch.Tensor | None = None  # of a view whose mirror image is yet to come
        self._num = 0

    def add(self, values: torch.Tensor, *, scale: float, mirror: bool) -> None:
        """values: (K, H, W) of a view at this scale, or of its mirror image, which comes next."""
        geometry = self._task.geometry
        if mirror:
            assert self._held is not None
            values, self._held = (self._held + mirrored(values, negated=geometry.negated_x)) / 2, None
        elif self._flip:
            self._held = values
            return
        if geometry.zoom_power:  # the view's values are those of a larger, or smaller, picture
            values = values * scale**-geometry.zoom_power
        self._total = values if self._total is None else self._total.add_(values)
        self._num += 1

    def mean(self) -> torch.Tensor:
        """(K, H, W), as one prediction."""
        assert self._total is not None
        return self._task.settled(self._total / self._num)


def look_at_views(
    image: torch.Tensor,
    predict: Callable[[torch.Tensor], Maps],
    means: Mapping[str, Scores | Values],
    *,
    scales: Sequence[float],
    flip: bool,
) -> Maps:
    """The mean of each task over several scales of an image, with or without its mirror images.

    image: (3, H, W). predict: image of any size -> task -> (K, height, width), always of one size, once for all tasks.
    means: task -> what takes the predictions of all views.
    """
    for scale in scales:
        view = scaled(image, scale)
        for mirror in (False, True) if flip else (False,):
            for name, prediction in predict(view.flip(-1) if mirror else view).items():
                means[name].add(prediction, scale=scale, mirror=mirror)
                del prediction  # before the next view is predicted
    return {name: mean.mean() for name, mean in means.items()}


def augmented(
    image: torch.Tensor,
    predict: Predict,
    *,
    scales: Sequence[float],
    flip: bool,
    combine: str,
    flip_pairs: Sequence[tuple[int, int]] = (),
) -> torch.Tensor:
    """The combined prediction of an image at several scales, with or without its mirror images.

    image: (3, H, W). predict: image of any size -> logits (K, height, width), always of one size. combine: of COMBINES.
    Returns (K, height, width), log of the mean of the probabilities ("softmax") or of exp(logits) ("exp_sum").
    """
    scores = Scores(flip=flip, combine=combine, flip_pairs=flip_pairs)
    return look_at_views(image, lambda view: {"": predict(view)}, {"": scores}, scales=scales, flip=flip)[""]
