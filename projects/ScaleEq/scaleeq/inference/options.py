"""TEST.SLIDE and TEST.AUG as one checked value."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from scaleeq.choices import one_of

if TYPE_CHECKING:
    from yacs.config import CfgNode

COMBINES = ("softmax", "exp_sum")
AGGREGATE_ON = ("device", "cpu")


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
    def from_config(cls, cfg: CfgNode) -> InferenceOptions:
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


def _height_and_width(key: str, value: Sequence[int]) -> tuple[int, int] | None:
    """One number for both, or two; none: None."""
    sizes = list(value)
    if len(sizes) > 2 or any(not isinstance(size, int) or isinstance(size, bool) or size < 1 for size in sizes):
        raise ValueError(f"{key} is {sizes}; give one number of pixels, as [512], or height and width, as [512, 1024]")
    return (sizes[0], sizes[-1]) if sizes else None
