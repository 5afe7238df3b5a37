"""The figures of docs/evidence.md, as PNG and PDF, from the probes: `python -m evidence.page --figures`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.figure import Figure

from scaleeq.experiments.statistics import paired_difference
from scaleeq.reports.style import BLUE, GREEN, ORANGE, PURPLE, RULE, SKY, STYLE, VERMILION, write_figure

from .probe_tables import OPTIMIZERS, share
from .probes.results import Results
from .probes.study import DOSES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Arm -> colour, marker, line and width of its curve; what coincides is drawn below what is wider.
CURVES = {
    "batch_norm": (SKY, "s", "-", 3.6),
    "equalized": (BLUE, "o", "-", 1.8),
    "learnable": (GREEN, "^", "-.", 1.3),
    "init": (ORANGE, "v", "--", 1.3),
    "off": (VERMILION, "D", "-", 1.8),
}
NAMES = {
    "off": "as they are",
    "equalized": "scale equalizer",
    "init": "the paper's initializer",
    "batch_norm": "batch norm a branch",
    "learnable": "learnt factor a branch",
}
# Level, its index, optimizer, colour and marker of the curves of the second figure.
ENERGY_SERIES = (
    ("res5", -1, "SGD", BLUE, "o"),
    ("res5", -1, "ADAMW", SKY, "s"),
    ("res2", 0, "SGD", VERMILION, "D"),
    ("res2", 0, "ADAMW", PURPLE, "^"),
)
DESIGN_NAMES = {"linear": "linear classifier", "hidden": "1x1 conv + BN"}


@contextmanager
def grid(width_in: float, height_in: float, rows: int, columns: int) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure in the style of all drawings, and its axes row by row."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        yield figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def draw_doses(results: Results) -> Figure:
    """val mIoU against the factor on res5: a panel a design and optimizer, a curve an arm, each at its best rate."""
    with grid(10.5, 3.3, 1, 4) as (figure, axes):
        cells = [f"res5/{design}/{optimizer}" for design in DESIGN_NAMES for optimizer in OPTIMIZERS]
        for axis, cell in zip(axes, cells, strict=True):
            _, design, optimizer = cell.split("/")
            axis.set_title(f"{DESIGN_NAMES[design]}, {OPTIMIZERS[optimizer]}")
            axis.set(xscale="log", xlabel="factor on the deepest source")
            if cell in results.cells:
                _curves(axis, results, cell)
            else:
                axis.text(0.5, 0.5, "not run", ha="center", transform=axis.transAxes)
        axes[0].set_ylabel("val mIoU, %")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=len(CURVES))
        return figure


def _curves(axis: Axes, results: Results, cell: str) -> None:
    trained = set(results.arms(cell))
    for arm, (color, marker, line, width) in CURVES.items():
        doses = sorted(dose for name, dose in trained if name == arm)
        values = [list(results.values(cell, arm, dose).values()) for dose in doses]
        found = [paired_difference(each) for each in values]  # of the mean: its interval
        axis.errorbar(
            doses, [of.mean or 0.0 for of in found], [of.half or 0.0 for of in found], color=color, marker=marker,
            linestyle=line, linewidth=width, markersize=4, elinewidth=0.8, label=NAMES[arm],
        )  # fmt: skip
    top = axis.secondary_xaxis("top")
    top.set_xticks(DOSES, [share(results.energy_share(-1, dose)) for dose in DOSES], fontsize=7)
    top.set_xlabel("its share of the energy", fontsize=7)
    axis.set_title(axis.get_title(), pad=22, fontsize=9)


def draw_energy(results: Results) -> Figure:
    """What equalizing gains against the share of the energy of the source that was multiplied."""
    with grid(9.0, 3.4, 1, 2) as (figure, axes):
        for axis, design in zip(axes, DESIGN_NAMES, strict=True):
            for level, branch, optimizer, color, marker in ENERGY_SERIES:
                cell = f"{level}/{design}/{optimizer}"
                if cell not in results.cells:
                    continue
                doses = sorted(dose for arm, dose in results.arms(cell) if arm == "off")
                gains = [results.gain(cell, "off", dose) for dose in doses]
                # Log-odds: shares of 0.01 % and of 99.99 % are as far from a half.
                odds = [
                    results.energy_share(branch, dose) / (100 - results.energy_share(branch, dose)) for dose in doses
                ]
                axis.errorbar(
                    odds, [of.mean or 0.0 for of in gains], [of.half or 0.0 for of in gains], color=color,
                    marker=marker, markersize=4, linewidth=1.2, elinewidth=0.8,
                    label=f"{level}, {OPTIMIZERS[optimizer]}",
                )  # fmt: skip
            ticks = {1e-5: "0.001 %", 1e-3: "0.1 %", 0.01 / 0.99: "1 %", 0.1 / 0.9: "10 %", 1: "50 %", 9: "90 %"}
            ticks |= {99: "99 %", 999: "99.9 %"}
            axis.set(xscale="log", xlabel="share of the energy of one source", title=DESIGN_NAMES[design])
            axis.set_xticks(list(ticks), list(ticks.values()), fontsize=7)
            axis.minorticks_off()
            axis.axhline(0, color=RULE, linewidth=0.8)
        axes[0].set_ylabel("equalized - off, points of mIoU")
        axes[0].legend()
        return figure


def drawn(results: Results) -> dict[str, Figure]:
    """Name -> figure."""
    return {"dose_response": draw_doses(results), "energy_shares": draw_energy(results)}


def write_figures(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Each as .png and .pdf. figures: by their names."""
    written = []
    for name, figure in figures.items():
        for suffix in (".png", ".pdf"):
            write_figure(figure, folder / f"{name}{suffix}")
            written.append(folder / f"{name}{suffix}")
    return written
