"""What the study's file says: mIoU by seed, paired differences with intervals, Holm's adjustment, energy shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from scaleeq.experiments.statistics import ALPHA, Difference, holm, paired_difference

from .arms import Statistics
from .study import CELLS, Part, also_of, best_rates, parts_of

Values = dict[int, float]  # seed -> mIoU in percent


@dataclass(frozen=True)
class Results:
    """The lines of a file, its "about" among them."""

    lines: Sequence[Part]

    @property
    def about(self) -> Part:
        return self.lines[0]["about"]

    def branches(self, name: str = "natural") -> dict[str, Part]:
        """Branch -> channels, mean and std, of the cells of this name; {} where none was run."""
        cell = next(cell for cell in CELLS.values() if cell.name == name)
        if not cell.extra:
            return self.about["branches"]
        found = also_of(self.lines, cell)
        return found["branches"] if found else {}

    @property
    def cells(self) -> list[str]:
        """Those with a finished seed, in the study's order."""
        return [name for name in CELLS if parts_of(self.lines, name, "val")]

    def count(self) -> int:
        """Fusions that were trained, those on held-out images included."""
        return sum(len(line["arm"]) for line in self.lines if "arm" in line)

    def values(self, cell: str, arm: str, dose: float = 1.0) -> Values:
        """seed -> val mIoU in percent; a classifier that diverged counts as it is scored."""
        found = {}
        for seed, part in sorted(parts_of(self.lines, cell, "val").items()):
            for name, factor, miou in zip(part["arm"], part["dose"], part["miou"], strict=True):
                if (name, factor) == (arm, dose):
                    found[seed] = float(miou)
        return found

    def arms(self, cell: str) -> list[tuple[str, float]]:
        """Arm and dose of what a cell trained, in its order."""
        part = next(iter(parts_of(self.lines, cell, "val").values()))
        return list(zip(part["arm"], part["dose"], strict=True))

    def rate(self, cell: str, arm: str, dose: float = 1.0) -> float:
        part = next(iter(parts_of(self.lines, cell, "val").values()))
        rates = zip(part["arm"], part["dose"], part["rate"], strict=True)
        return next(rate for name, factor, rate in rates if (name, factor) == (arm, dose))

    def is_at_the_edge(self, cell: str, arm: str, dose: float = 1.0) -> bool:
        """Whether the chosen rate is the lowest or the highest that was tried, so that a better one may lie beyond."""
        tried = CELLS[cell].rates(arm, dose)
        return self.rate(cell, arm, dose) in (tried[0], tried[-1])

    def difference(self, a: Values, b: Values) -> Difference:
        """a - b over the seeds that both have, in points."""
        return paired_difference([a[seed] - b[seed] for seed in a if seed in b])

    def gain(self, cell: str, other: str, dose: float = 1.0, *, arm: str = "equalized") -> Difference:
        """What an arm has over another one at a dose; an equalizer that was not trained at it sees none, anyway."""
        return self.difference(self.values(*self._run(cell, arm, dose)), self.values(cell, other, dose))

    def gain_is_at_the_edge(self, cell: str, other: str, dose: float = 1.0) -> bool:
        """Whether a rate behind the `gain` of "equalized" is."""
        runs = (self._run(cell, "equalized", dose), (cell, other, dose))
        return any(self.is_at_the_edge(*run) for run in runs if self.values(*run))

    def _run(self, cell: str, arm: str, dose: float) -> tuple[str, str, float]:
        """Cell, arm and dose of what stands for an arm at a dose.

        The equalizer's is at 1 where it has none at that dose. res2's cells lack it: res5's has the same seeds, weights
        and batches.
        """
        if arm != "equalized" or self.values(cell, arm, dose):
            return cell, arm, dose
        return (cell if self.values(cell, arm) else cell.replace("res2/", "res5/")), arm, 1.0

    def statistics(self, name: str = "natural") -> Statistics:
        """Of the branches of the cells of a name, as the file records them: widths and stds alone."""
        branches = list(self.branches(name).values())
        std = torch.tensor([branch["std"] for branch in branches])
        mean = torch.tensor([branch["mean"] for branch in branches])
        widths = tuple(branch["channels"] for branch in branches)
        nothing = torch.empty(0)
        return Statistics(widths, nothing, nothing, mean, std, nothing)

    def energy_share(self, branch: int, dose: float, name: str = "natural") -> float:
        """In percent, of a branch that is multiplied by `dose`."""
        statistics = self.statistics(name)
        factors = torch.ones(len(statistics.widths))
        factors[branch] = dose
        return 100 * float(statistics.energy_shares(factors)[branch])

    def rates_chosen(self, cell: str) -> dict[tuple[str, float], float]:
        return best_rates(self.lines, cell)


def interval(difference: Difference) -> str:
    """ "+1.23 ± 0.45"; of one pair no interval."""
    if difference.mean is None:
        return "not run"
    if difference.half is None:
        return f"{difference.mean:+.2f}"
    return f"{difference.mean:+.2f} ± {difference.half:.2f}"


def adjusted(differences: dict[str, Difference]) -> dict[str, float]:
    """Name -> Holm's p, over all of them."""
    return holm({name: of.p_t for name, of in differences.items() if of.p_t is not None})


def holds(p: float | None) -> bool:
    return p is not None and p < ALPHA
