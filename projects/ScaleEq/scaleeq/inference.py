"""Inference on one image in several passes: sliding windows, scales and flips, alone or together.

Sources: the windows' places are mmsegmentation 1.2.2's; the mean of probabilities is its test-time augmentation; the
sum of exp(logits), over logits that are first averaged over an image and its mirror image, is GSTO's released code.
Deviations: windows are added into slices of one map of logits, and divided by the closed form of their number; scaled
images are not rounded to whole grey levels; GSTO takes exp before it averages windows and resizes, here it comes last.
Augmented scores are logarithms, so that a softmax, or a cross entropy, of any result is that of its probabilities.
Values of other tasks than classes are averaged themselves, after each has been brought back by its task's geometry.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from scaleeq.choices import one_of
from scaleeq.geometry import Geometry
from scaleeq.ops import resize

COMBINES = ("softmax", "exp_sum")
AGGREGATE_ON = ("device", "cpu")

Predict = Callable[[torch.Tensor], torch.Tensor]
"""image: (3, h, w) -> logits (K, h, w), or at another size that is the same for every image."""


class Predicted(Protocol):
    """What inference asks of a task.

    name: its key in a result. averages: "logits" of classes, whose probabilities are averaged, or "values".
    """

    @property
    def name(self) -> str: ...

    @property
    def averages(self) -> str: ...

    @property
    def geometry(self) -> Geometry: ...

    def settled(self, values: torch.Tensor) -> torch.Tensor:
        """values: (K, H, W), a mean of predictions -> one prediction."""
        ...


@dataclasses.dataclass(frozen=True)
class Classes:
    """Semantic segmentation, for models that name no task."""

    name: str = "sem_seg"
    averages: str = "logits"
    geometry: Geometry = dataclasses.field(default_factory=Geometry)

    def settled(self, values: torch.Tensor) -> torch.Tensor:
        """values: (K, H, W) -> the same."""
        return values


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """Where windows start along one side, pixels: a stride apart, the last one moved back to end at the border.

    A window that is larger than the side starts at 0.
    """
    last = max(0, size - window)
    return [*range(0, last, stride), last]


def window_counts(size: int, window: int, starts: Sequence[int]) -> torch.Tensor:
    """(size,), how many of the windows at `starts` cover each pixel of a side."""
    counts = torch.zeros(size)
    for start in starts:
        counts[start : start + window] += 1
    return counts


def slide(
    image: torch.Tensor,
    predict: Predict,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    device: torch.device | None = None,
) -> torch.Tensor:
    """Logits of windows, averaged where they overlap.

    image: (3, H, W). predict: a window (3, h, w) -> (K, h, w). window, stride: (height, width), pixels; a window is cut
    to the image where the image is smaller. device: where they are added up; None: where predict leaves them.
    Returns (K, H, W) float32.
    """
    height, width = image.shape[-2:]
    tops, lefts = window_starts(height, window[0], stride[0]), window_starts(width, window[1], stride[1])
    total: torch.Tensor | None = None
    for top in tops:
        for left in lefts:
            place = (slice(None), slice(top, top + window[0]), slice(left, left + window[1]))
            logits = predict(image[place])
            if total is None:
                total = torch.zeros(len(logits), height, width, device=device or logits.device)
            total[place] += logits.to(total.device)
    assert total is not None
    counts = torch.outer(window_counts(height, window[0], tops), window_counts(width, window[1], lefts))
    return total.div_(counts.to(total.device))


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

    def views() -> Iterator[torch.Tensor]:
        for scale in scales:
            view = scaled(image, scale)
            if combine == "exp_sum":
                yield (predict(view) + mirrored(predict(view.flip(-1)), flip_pairs)).div_(2) if flip else predict(view)
                continue
            yield predict(view).log_softmax(0)
            if flip:
                yield mirrored(predict(view.flip(-1)), flip_pairs).log_softmax(0)

    total: torch.Tensor | None = None
    num_views = 0
    for scores in views():
        # One map in all, of logarithms: exp of large logits would overflow.
        total = scores if total is None else torch.logaddexp(total, scores, out=total)
        num_views += 1
        del scores  # before the next view is predicted
    assert total is not None
    return total.sub_(math.log(num_views)) if num_views > 1 else total


def averaged(
    image: torch.Tensor, predict: Predict, *, scales: Sequence[float], flip: bool, task: Predicted
) -> torch.Tensor:
    """The mean of a task's values over several scales of an image, with or without its mirror images.

    image: (3, H, W). predict: image of any size -> values (K, height, width), always of one size.
    Returns (K, height, width).
    """
    geometry = task.geometry
    total: torch.Tensor | None = None
    for scale in scales:
        view = scaled(image, scale)
        values = predict(view)
        if flip:
            values = (values + mirrored(predict(view.flip(-1)), negated=geometry.negated_x)) / 2
        if geometry.zoom_power:  # the view's values are those of a larger, or smaller, picture
            values = values * scale**-geometry.zoom_power
        total = values if total is None else total.add_(values)
    assert total is not None
    return task.settled(total / len(scales))


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """TEST.SLIDE and TEST.AUG as one checked value; ValueError where one of them is out of its range.

    window, stride: (height, width), pixels; no window: the whole image; no stride: two thirds of the window.
    aggregate_on: of AGGREGATE_ON. scales: none: no test-time augmentation.
    """

    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    aggregate_on: str = "device"
    scales: tuple[float, ...] = ()
    flip: bool = False
    combine: str = "softmax"

    def __post_init__(self) -> None:
        one_of(self.aggregate_on, AGGREGATE_ON, key="TEST.SLIDE.AGGREGATE_ON")
        one_of(self.combine, COMBINES, key="TEST.AUG.COMBINE")
        if any(not 0 < scale < math.inf for scale in self.scales):
            raise ValueError(f"TEST.AUG.SCALES is {list(self.scales)}; scales are factors above 0, such as 0.75")
        if self.window is None:
            self._refuse_without_window()
            return
        if self.stride is None:
            object.__setattr__(self, "stride", tuple(max(1, side * 2 // 3) for side in self.window))
        assert self.stride is not None
        if any(step > side for step, side in zip(self.stride, self.window, strict=True)):
            raise ValueError(
                f"TEST.SLIDE.STRIDE is {list(self.stride)}, larger than TEST.SLIDE.WINDOW {list(self.window)}: pixels "
                "between the windows would get no prediction. Choose at most the window's size"
            )

    def _refuse_without_window(self) -> None:
        for key, is_set in (("STRIDE", self.stride is not None), ("AGGREGATE_ON", self.aggregate_on != "device")):
            if is_set:
                raise ValueError(f"TEST.SLIDE.{key} is set, but there are no windows: set TEST.SLIDE.WINDOW, or not it")

    @classmethod
    def from_config(cls, cfg: Any) -> InferenceOptions:
        """The options of TEST; ValueError where sizes are set that are not read."""
        from scaleeq.engine import get_cfg

        keys, default = cfg.TEST.AUG, get_cfg().TEST.AUG
        for key in ("MIN_SIZES", "MAX_SIZE"):
            if keys[key] != default[key]:
                raise ValueError(
                    f"TEST.AUG.{key} is {keys[key]}, but images are scaled by TEST.AUG.SCALES, factors on the size "
                    f"that INPUT.MIN_SIZE_TEST gives them (now {list(keys.SCALES)}); leave TEST.AUG.{key} out"
                )
        if keys.ENABLED and not keys.SCALES:
            raise ValueError("TEST.AUG.SCALES is empty; [1.0] is the image at its own size")
        return cls(
            window=_height_and_width("TEST.SLIDE.WINDOW", cfg.TEST.SLIDE.WINDOW),
            stride=_height_and_width("TEST.SLIDE.STRIDE", cfg.TEST.SLIDE.STRIDE),
            aggregate_on=cfg.TEST.SLIDE.AGGREGATE_ON,
            scales=tuple(keys.SCALES) if keys.ENABLED else (),
            flip=bool(keys.ENABLED and keys.FLIP),
            combine=keys.COMBINE,
        )

    @property
    def is_plain(self) -> bool:
        """One pass over the whole image: what the model does by itself."""
        return self.window is None and not self.scales


class Inference(nn.Module):
    """A model of a dense task, called for every window, scale and flip of each image in turn.

    model: in eval mode, with Detectron2's batch format: [{"image", "height", "width"}] -> [{"sem_seg"}].
    flip_pairs: classes that a mirror image exchanges.
    task: what the model predicts, by default classes.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        options: InferenceOptions,
        flip_pairs: Sequence[tuple[int, int]] = (),
        task: Predicted | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.options = options
        self.flip_pairs = tuple(flip_pairs)
        self._task = (task or Classes(),)  # in a tuple: a module in an attribute would be a part of this one
        self.training = model.training  # whoever restores this module's mode restores the model's

    @classmethod
    def from_config(
        cls,
        cfg: Any,
        model: nn.Module,
        *,
        flip_pairs: Sequence[tuple[int, int]] = (),
        task: Predicted | None = None,
    ) -> nn.Module:
        """The model as TEST.SLIDE and TEST.AUG call it; the model itself where they are off."""
        options = InferenceOptions.from_config(cfg)
        return model if options.is_plain else cls(model, options=options, flip_pairs=flip_pairs, task=task)

    @property
    def task(self) -> Predicted:
        """What the model predicts."""
        return self._task[0]

    @torch.no_grad()
    def forward(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, torch.Tensor]]:
        """One dict per image: "image" (3, H, W); "height" and "width" of the result, by default the image's.

        Returns {"sem_seg": (K, height, width)} per image: logits, or, augmented, logarithms of mean probabilities; of
        another task, its values. They are on the model's device, or on the CPU with aggregate_on "cpu".
        ValueError: the model is in training mode, or of another task.
        """
        if self.model.training:
            raise ValueError(f"{type(self.model).__name__} is in training mode; call .eval() before inference")
        return [{self.task.name: self._scores(record)} for record in batched_inputs]

    def _scores(self, record: dict[str, Any]) -> torch.Tensor:
        image = record["image"].to(getattr(self.model, "device", None) or record["image"].device)
        size = (int(record.get("height", image.shape[-2])), int(record.get("width", image.shape[-1])))

        def predict(view: torch.Tensor) -> torch.Tensor:
            return self._logits(view, size)

        if not self.options.scales:
            return self.task.settled(predict(image))
        if self.task.averages == "values":
            return averaged(image, predict, scales=self.options.scales, flip=self.options.flip, task=self.task)
        return augmented(
            image,
            predict,
            scales=self.options.scales,
            flip=self.options.flip,
            combine=self.options.combine,
            flip_pairs=self.flip_pairs,
        )

    def _logits(self, image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """image: (3, h, w) -> logits (K, *size)."""
        window, stride = self.options.window, self.options.stride
        if window is None or stride is None:
            return self._call({"image": image, "height": size[0], "width": size[1]})
        device = torch.device("cpu") if self.options.aggregate_on == "cpu" else None
        logits = slide(image, lambda view: self._call({"image": view}), window=window, stride=stride, device=device)
        return resize(logits[None], size)[0]

    def _call(self, record: dict[str, Any]) -> torch.Tensor:
        result, name = self.model([record])[0], self.task.name
        if name not in result:
            raise ValueError(
                f"{type(self.model).__name__} gives {', '.join(sorted(result))}, but no {name!r}: windows, scales and "
                "flips are for semantic segmentation and other dense tasks. Leave TEST.SLIDE and TEST.AUG at their "
                "defaults"
            )
        return result[name].float()


def _height_and_width(key: str, value: Sequence[int]) -> tuple[int, int] | None:
    """One number for both, or two; none: None."""
    sizes = list(value)
    if len(sizes) > 2 or any(not isinstance(size, int) or isinstance(size, bool) or size < 1 for size in sizes):
        raise ValueError(f"{key} is {sizes}; give one number of pixels, as [512], or height and width, as [512, 1024]")
    return (sizes[0], sizes[-1]) if sizes else None
