"""The study: which fusions are trained, in which order, and the file that grows by a line for each finished part.

A cell is a question: a design, an optimizer, a schedule, arms and doses. First each arm's rate is chosen, for each
dose, on training images that are held out, as the best mean over two seeds (natural/linear) or by one; then all
training images train, and val is scored, with seeds that all arms share. A part is one seed of one cell: all its
fusions, side by side. A second start goes on after the last finished part.

The file, JSON lines: first what all parts have in common ("about"), then a part a line, its fusions in columns.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaleeq.files import write_text
from scaleeq.stopping import check_stop

from . import training
from .arms import Statistics
from .features import CAMVID, DEPTH_MM, TOY3D, Features, place_of
from .side_by_side import DESIGNS, WIDTH, Probe

LITE0, LITE2 = "tf_efficientnet_lite0", "tf_efficientnet_lite2"
HELD_OUT = range(297, 367)  # consecutive training images, of one drive
HELD_OUT_SEEDS = 100, 101
PIXELS_HELD_OUT, PIXELS_VAL = 200, 200  # of each image
DOSES = (0.01, 0.1, 1.0, 10.0, 100.0)
FEW_DOSES = (0.01, 1.0, 100.0)
BETWEEN = (0.3, 3.0)  # of "off" alone: where does it begin?
NATURAL = (1.0,)
IN_METRES = (0.001, 1.0)  # of depth in millimetres
MILLIMETRES_LARGER = 300.0  # than the features beside it, by their stds, about
INVARIANT = ("equalized", "batch_norm", "channel")  # they see no dose, so their rate is that of dose 1
FEELS_THE_DOSE = (
    "off",
    "init",
    "learnable",
)  # without a norm they diverge where a branch is large, but for small rates

Doses = tuple[float, ...]
Part = dict[str, Any]  # a line of the file


@dataclass(frozen=True)
class Cell:
    """arms: arm -> its doses. branch: which the doses multiply; -1: the deepest. grid: ends, in powers of ten.

    larger: how much larger than the others the multiplied branch is by itself, about, which the grids of arms without
    a norm begin lower by. extra: run only where it is named.
    """

    name: str
    design: str
    optimizer: str
    steps: int
    arms: Mapping[str, Doses]
    grid: tuple[float, float]
    branch: int = -1
    seeds: int = 16
    held_out_seeds: tuple[int, ...] = HELD_OUT_SEEDS
    networks: tuple[str, ...] = (LITE0,)
    data: str = CAMVID
    larger: float = 1.0
    extra: bool = False

    @property
    def title(self) -> str:
        return f"{self.name}/{self.design}/{self.optimizer}"

    def rates(self, arm: str, dose: float) -> list[float]:
        """Half decades. A classifier's stable rates fall with the square of what it sees (SGD), or less (AdamW)."""
        low, high = self.grid
        if arm in FEELS_THE_DOSE and self.design == "linear":
            shift = max(0.0, math.log10(dose * self.larger)) * (2 if self.optimizer == "SGD" else 0.5)
            low, high = low - shift, high - shift
        return [float(f"{10 ** (k / 2):.4g}") for k in range(round(2 * low), round(2 * high) + 1)]

    def candidates(self) -> list[Probe]:
        """What is trained to choose rates: every rate of the grid."""
        return [
            Probe(arm, rate, dose, self.branch)
            for arm, doses in self.arms.items()
            for dose in doses
            if arm not in INVARIANT or dose == 1
            for rate in self.rates(arm, dose)
        ]

    def probes(self, best: dict[tuple[str, float], float]) -> list[Probe]:
        """best: arm, dose -> rate."""
        return [
            Probe(arm, best[arm, 1.0 if arm in INVARIANT else dose], dose, self.branch)
            for arm, doses in self.arms.items()
            for dose in doses
        ]


def _cells() -> Iterator[Cell]:
    controls = dict.fromkeys(("common", "permuted", "smaller"), NATURAL)
    first = {"off": NATURAL, "equalized": NATURAL, **controls, "batch_norm": NATURAL, "learnable": NATURAL}
    concat = first | {"init": NATURAL, "channel": NATURAL}
    dosed: dict[str, Doses] = dict.fromkeys(("equalized", "init", "batch_norm", "learnable"), DOSES) | {
        "common": FEW_DOSES
    }
    dosed |= {"off": tuple(sorted(DOSES + BETWEEN)), "permuted": NATURAL, "smaller": NATURAL}
    others = {"off": tuple(dose for dose in DOSES if dose != 1)}
    # Optimizer -> ends of the grid of each design.
    grids = {
        "SGD": {"linear": (-3.5, 0.5), "sum": (-3.0, 1.0), "hidden": (-2.0, 1.5)},
        "ADAMW": {"linear": (-4.0, -0.5), "sum": (-4.0, -0.5), "hidden": (-3.5, 0.0)},
    }
    for optimizer, grid in grids.items():
        yield Cell("natural", "linear", optimizer, 300, concat, grid["linear"])
        yield Cell("natural", "sum", optimizer, 200, first, grid["sum"], held_out_seeds=HELD_OUT_SEEDS[:1])
        for design, steps in (("linear", 200), ("hidden", 150)):
            ends, one = grid[design], HELD_OUT_SEEDS[:1]
            yield Cell("res5", design, optimizer, steps, dosed, ends, held_out_seeds=one)
            yield Cell("res2", design, optimizer, steps, others, ends, branch=0, held_out_seeds=one)
        for design in ("no_norm", "conv3x3"):
            ends = grid["hidden" if DESIGNS[design].norm else "sum"]
            yield Cell("natural", design, optimizer, 150, concat, ends, seeds=8, extra=True)
        laterals = first | {"init": NATURAL}
        yield Cell("natural", "upernet", optimizer, 150, laterals, grid["hidden"], seeds=8, extra=True)
        both = (LITE0, LITE2)
        yield Cell("two", "linear", optimizer, 300, concat, grid["linear"], networks=both, extra=True)
        yield Cell("two", "hidden", optimizer, 150, concat, grid["hidden"], networks=both, extra=True)
        of_depth: dict[str, Any] = {"networks": (LITE0, DEPTH_MM), "data": TOY3D, "larger": MILLIMETRES_LARGER}
        raw = concat | {"off": IN_METRES}
        yield Cell("depth", "linear", optimizer, 300, raw, grid["linear"], extra=True, **of_depth)
        yield Cell("depth", "hidden", optimizer, 150, raw, grid["hidden"], extra=True, **of_depth)


CELLS = {cell.title: cell for cell in _cells()}


def read(path: Path) -> list[Part]:
    """The lines of a file, "about" first; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def also_of(lines: Iterable[Part], cell: Cell) -> Part | None:
    """What a file says of the branches of a cell of other networks or data than the first line is about."""
    told = [list(cell.networks), cell.data]
    also = (line["also"] for line in lines if "also" in line)
    return next((found for found in also if [found["networks"], found["data"]] == told), None)


def parts_of(lines: Iterable[Part], cell: str, kind: str) -> dict[int, Part]:
    """seed -> part. kind: "held out" or "val"."""
    return {line["seed"]: line for line in lines if line.get("cell") == cell and line["kind"] == kind}


def best_rates(lines: Iterable[Part], cell: str) -> dict[tuple[str, float], float]:
    """arm, dose -> the rate with the highest mean mIoU on held-out images."""
    scores: dict[tuple[str, float], dict[float, list[float]]] = {}
    for part in parts_of(lines, cell, "held out").values():
        columns = (part[key] for key in ("arm", "dose", "rate", "miou"))
        for arm, dose, rate, miou in zip(*columns, strict=True):
            scores.setdefault((arm, dose), {}).setdefault(rate, []).append(miou)
    return {key: max(rates, key=lambda rate: sum(rates[rate])) for key, rates in scores.items()}


class Study:
    """What is trained, on which features, and where it is written."""

    def __init__(self, path: Path, folder: Path, *, command: str, say: Callable[[str], None] = print) -> None:
        self.path, self.folder, self.say = path, folder, say
        self.lines = read(path) or [{"about": about(folder, command)}]
        self._of: dict[tuple[Any, ...], Any] = {}  # features, statistics and samples, once each

    def run(self, cells: Sequence[Cell], *, seeds: int | None = None, rounds: int = 4) -> None:
        """What is not there yet: rates of every cell, then a few seeds of each, so that an early end is balanced.

        seeds: instead of the cells' own. Stopped, by a signal, between two parts.
        """
        for cell in cells:
            for seed in cell.held_out_seeds:
                self._part(cell, "held out", seed)
        for start in range(0, max(seeds or cell.seeds for cell in cells), rounds):
            for cell in cells:
                for seed in range(start, min(start + rounds, seeds or cell.seeds)):
                    self._part(cell, "val", seed)

    def _part(self, cell: Cell, kind: str, seed: int) -> None:
        """Train one part and write it, unless it is there."""
        if seed in parts_of(self.lines, cell.title, kind):
            return
        check_stop()
        probes = cell.candidates()
        if kind == "val":
            probes = cell.probes(best_rates(self.lines, cell.title))
        design = DESIGNS[cell.design]
        trained = training.train(
            design, probes, optimizer=cell.optimizer, steps=cell.steps, seed=seed, **self._data(cell, kind)
        )
        columns = {
            "arm": [probe.arm for probe in probes],
            "dose": [probe.dose for probe in probes],
            "rate": [probe.rate for probe in probes],
            "miou": [round(100 * value, 3) for value in trained.miou.tolist()],
            "loss": [round(value, 4) if value == value and value < 1e4 else None for value in trained.loss.tolist()],
        }
        if kind == "held out":
            del columns["loss"]
        self._tell_of(cell)
        self.lines.append({"cell": cell.title, "kind": kind, "seed": seed, "steps": cell.steps, **columns})
        write_text(self.path, "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in self.lines))
        self.say(f"{cell.title}, {kind}, seed {seed}: {len(probes)} fusions")

    def _tell_of(self, cell: Cell) -> None:
        """A line of the branches of other networks or data than the first line is about, once."""
        if (cell.networks, cell.data) != ((LITE0,), CAMVID) and also_of(self.lines, cell) is None:
            told = {"networks": list(cell.networks), "data": cell.data}
            self.lines.append({"also": told | about_branches(place_of(self.folder, cell.data), cell.networks)})

    def _data(self, cell: Cell, kind: str) -> dict[str, Any]:
        """Features, images, statistics and sample, as training.train takes them."""
        taps, place, source = DESIGNS[cell.design].taps, place_of(self.folder, cell.data), (cell.data, cell.networks)
        train: Features = self._once(("train", source, taps), Features, place, "train", cell.networks, taps)
        held: Sequence[int] = [index for index in HELD_OUT if index < len(train)]
        scored: tuple[Features, Sequence[int], int]
        images = range(len(train)) if kind == "val" else range(held[0])
        statistics = self._once(("statistics", source, kind), Statistics.measured, train, images)
        if kind == "val":
            val: Features = self._once(("val", source, taps), Features, place, "val", cell.networks, taps)
            scored = (val, range(len(val)), PIXELS_VAL)
        else:
            scored = (train, held, PIXELS_HELD_OUT)
        sample = self._once(("sample", source, taps, kind), training.Sample.of, *scored)
        return {"features": train, "images": images, "statistics": statistics, "sample": sample}

    def _once(self, key: tuple[Any, ...], make: Callable[..., Any], *arguments: Any) -> Any:
        if key not in self._of:
            self._of[key] = make(*arguments)
        return self._of[key]


def about(folder: Path, command: str) -> dict[str, Any]:
    """What all parts have in common: the features' hashes and the branches, the batches, how val is scored."""
    return {
        "command": command,
        **about_branches(folder, [LITE0]),
        "batch": {"images": training.IMAGES, "pixels_of_each": training.PIXELS},
        "width": WIDTH,
        "held_out_images": [HELD_OUT[0], HELD_OUT[-1]],
        "pixels_scored_an_image": {"held out": PIXELS_HELD_OUT, "val": PIXELS_VAL},
    }


def about_branches(folder: Path, networks: Sequence[str]) -> dict[str, Any]:
    """The hashes of the features, and each branch with its channels, mean and std over the training set."""
    files = [file for network in networks for file in sorted(folder.glob(f"{network}.*.npy"))]
    files += sorted(folder.glob("labels.*.npy"))
    features = Features(folder, "train", networks)
    statistics = Statistics.measured(features, range(len(features)))
    return {
        "features": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
        "branches": {
            name: {"channels": width, "mean": round(float(mean), 3), "std": round(float(std), 3)}
            for name, width, mean, std in zip(
                features.levels, statistics.widths, statistics.mean, statistics.std, strict=True
            )
        },
    }
