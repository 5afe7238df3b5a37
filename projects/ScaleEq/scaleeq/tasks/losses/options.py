"""What a loss is made of: the keys of MODEL.LOSS as one checked value, and which of them exclude each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from scaleeq.choices import one_of

from .ohem import OHEM_KINDS
from .pixels import AVERAGES

if TYPE_CHECKING:
    from yacs.config import CfgNode


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossOptions:
    """The keys of MODEL.LOSS, in lower case; config/keys.py and docs/losses.md say what each means.

    ValueError for a value outside its range, and for two of OHEM, focal loss and label smoothing together: OHEM and the
    focal loss are two answers to one question, which pixels count, and each reads from a pixel's loss how hard it is,
    which smoothing changes: a smoothed loss grows again where a pixel is surely right.
    """

    average_over: str = "valid"
    class_weights: Sequence[float] = ()
    label_smoothing: float = 0.0
    focal_gamma: float = 0.0
    ohem: str = "off"
    ohem_top_k: float = 0.25
    ohem_anneal_iters: int = 0
    ohem_threshold: float = 0.7
    ohem_min_kept: int = 100000
    dice_weight: float = 0.0
    lovasz_weight: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_weights", tuple(self.class_weights))
        one_of(self.average_over, AVERAGES, key="MODEL.LOSS.AVERAGE_OVER")
        one_of(self.ohem, ("off", *OHEM_KINDS), key="MODEL.LOSS.OHEM")
        _within(
            "CLASS_WEIGHTS", self.class_weights, min(self.class_weights, default=0) >= 0, "weights are not negative"
        )
        _within("LABEL_SMOOTHING", self.label_smoothing, 0 <= self.label_smoothing < 1, "a share in [0, 1)")
        for name in ("FOCAL_GAMMA", "OHEM_ANNEAL_ITERS", "DICE_WEIGHT", "LOVASZ_WEIGHT"):
            value = getattr(self, name.lower())
            _within(name, value, value >= 0, "not negative")
        _within("OHEM_TOP_K", self.ohem_top_k, 0 < self.ohem_top_k <= 1, "a share of the pixels in (0, 1]")
        _within("OHEM_THRESHOLD", self.ohem_threshold, 0 <= self.ohem_threshold <= 1, "a probability in [0, 1]")
        _within("OHEM_MIN_KEPT", self.ohem_min_kept, self.ohem_min_kept >= 1, "at least one pixel an image")
        self._refuse_combinations()

    def _refuse_combinations(self) -> None:
        hardness = {
            "OHEM": self.ohem if self.ohem != "off" else 0,
            "FOCAL_GAMMA": self.focal_gamma,
            "LABEL_SMOOTHING": self.label_smoothing,
        }
        chosen = [f"MODEL.LOSS.{name} {value!r}" for name, value in hardness.items() if value]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} are set together, which has no meaning; keep one of them")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> LossOptions:
        """The options of MODEL.LOSS; ValueError where CLASS_WEIGHTS has another length than NUM_CLASSES."""
        keys = cfg.MODEL.LOSS
        options = cls(**{field.name: keys[field.name.upper()] for field in dataclasses.fields(cls)})
        options.check_classes(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
        return options

    def check_classes(self, num_classes: int) -> None:
        """ValueError where the class weights are those of another number of classes."""
        if self.class_weights and len(self.class_weights) != num_classes:
            raise ValueError(
                f"MODEL.LOSS.CLASS_WEIGHTS has {len(self.class_weights)} numbers for {num_classes} classes"
            )

    def without_ohem(self) -> LossOptions:
        """These options with the loss of every pixel kept: what an auxiliary head is trained with."""
        return dataclasses.replace(self, ohem="off")


def _within(name: str, value: object, fits: bool, expected: str) -> None:
    if not fits:
        raise ValueError(f"MODEL.LOSS.{name} is {value}; {expected}")
