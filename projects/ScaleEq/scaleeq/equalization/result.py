"""What a calibration measured, and the file scale_statistics.json that keeps it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from scaleeq.records import Json


@dataclass(frozen=True)
class BranchStatistics:
    """Mean and standard deviation of a branch over `num_images` images, and the latter's relative standard error."""

    mean: float
    std: float
    channels: int
    num_images: int
    relative_standard_error: float


@dataclass
class CalibrationReport:
    """Fusion name -> branch name -> what was measured, in the order of measurement.

    joint: all at once, in one pass over the data, instead of one after another.
    no_effect: fusion name -> why its equalizer changes nothing.
    passed_over: what reads a concatenation and was not equalized, in a foreign model -> what it reads, and the reason.
    """

    joint: bool = False
    fusions: dict[str, dict[str, BranchStatistics]] = field(default_factory=dict)
    no_effect: dict[str, str] = field(default_factory=dict)
    passed_over: dict[str, str] = field(default_factory=dict)

    def line(self, fusion: str) -> str:
        """One fusion in words, for a log."""
        branches = self.fusions[fusion]
        known = max(branch.relative_standard_error for branch in branches.values())
        images = next(iter(branches.values())).num_images
        stds = ", ".join(f"{name} {branch.std:.4g}" for name, branch in branches.items())
        ratio = spread(branch.std for branch in branches.values())
        return (
            f"calibrated {fusion} on {images} images: std {stds}; spread {ratio:.3f}; "
            + (
                f"standard error at most {100 * known:.2f} %"
                if known < math.inf
                else "standard error unknown (one batch)"
            )
            + (f"; no effect here: {self.no_effect[fusion]}" if fusion in self.no_effect else "")
        )

    def __str__(self) -> str:
        """A line per fusion, and one for whatever else reads a concatenation."""
        passed = [f"passed over {name}: it {why}" for name, why in self.passed_over.items()]
        return "\n".join([*map(self.line, self.fusions), *passed])

    def to_dict(self) -> Json:
        """Plain numbers and strings, for a JSON file."""
        return {
            name: {
                "branches": {branch: asdict(statistics) for branch, statistics in branches.items()},
                "spread": spread(statistics.std for statistics in branches.values()),
                **({"joint": True} if self.joint else {}),
                **({"no_effect": self.no_effect[name]} if name in self.no_effect else {}),
            }
            for name, branches in self.fusions.items()
        }


def spread(stds: Iterable[float]) -> float:
    """Largest over smallest standard deviation of the branches of a fusion; 1 is equilibrium."""
    stds = list(stds)
    return max(stds) / min(stds) if min(stds) > 0 else float("inf")
