"""The figures of the short trainings, from docs/results/study_<name>.json: `python -m evidence.page --figures`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from scaleeq.experiments.statistics import Difference, paired_difference
from scaleeq.reports.html import Content
from scaleeq.reports.style import BLUE, ORANGE, RULE, SKY, VERMILION

from . import study
from .probe_figures import grid
from .probe_tables import OPTIMIZERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOSED = ("uper", "semfpn", "psp", "fcn")
DECODERS = {
    "uper": "UPer", "semfpn": "semantic FPN", "psp": "PSP", "aspp": "ASPP", "sep_aspp": "separable ASPP",
    "fcn": "FCN on raw levels",
}  # fmt: skip
# Optimizer, ending of the variants, what the legend says, colour, marker and line.
CURVES = (
    ("sgd", "", "as they are, SGD", VERMILION, "D", "-"),
    ("sgd", study.EQUALIZED, "equalized, SGD", BLUE, "o", "-"),
    ("adamw", "", "as they are, AdamW", ORANGE, "D", "--"),
    ("adamw", study.EQUALIZED, "equalized, AdamW", SKY, "o", "--"),
)


def draw_trained_doses(content: Content) -> Figure:
    """mIoU against the factor on res5, a panel a decoder: a line through the means over seeds, a point a seed."""
    factors = [float(dose.removeprefix("x ")) for dose in study.DOSES]
    with grid(10.5, 3.3, 1, len(DOSED)) as (figure, axes):
        for axis, decoder in zip(axes, DOSED, strict=True):
            axis.set(xscale="log", xlabel="factor on the deepest level", title=DECODERS[decoder])
            axis.set_xticks(factors, [f"{factor:g}" for factor in factors])
            axis.minorticks_off()
            if axis is not axes[0]:
                axis.sharey(axes[0])
            for optimizer, ending, label, color, marker, line in CURVES:
                names = [f"{decoder}_{optimizer}{dose}{ending}" for dose in study.DOSES.values()]
                found = {factor: content["variants"][name] for factor, name in zip(factors, names, strict=True)}
                known = {factor: of for factor, of in found.items() if of["n"]}
                axis.plot(list(known), [of["mean"] for of in known.values()], line, color=color, label=label)
                points = [(factor, run["value"]) for factor, of in known.items() for run in of["runs"].values()]
                axis.plot(*zip(*points, strict=True), marker, color=color, markersize=3) if points else None
        axes[0].set_ylabel("val mIoU, %")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(CURVES))
        return figure


def draw_decoders(content: Content) -> Figure:
    """What equalizing gains each decoder and optimizer at their own scales, and all together, with 95 % intervals."""
    with grid(6.5, 3.3, 1, 1) as (figure, (axis,)):
        known = {of["baseline"]: of for of in content["comparisons"].values() if of["n"]}
        for row, (name, of) in enumerate(known.items()):
            color = BLUE if name.endswith("sgd") else SKY
            values = list(of["by_seed"].values())
            _bar(axis, row, paired_difference(values), color)
            axis.plot(values, [row] * of["n"], ".", color=color, markersize=3)
        pooled = study.pool(content)
        if pooled.n:
            _bar(axis, len(known), pooled, VERMILION)
        axis.set_yticks(range(len(known) + 1), [*map(title, known), f"all {pooled.n} pairs"])
        axis.invert_yaxis()
        axis.axvline(0, color=RULE, linewidth=0.8)
        axis.set_xlabel("equalized - off, points of mIoU")
        return figure


def title(name: str) -> str:
    """Of a decoder and an optimizer as variants are named."""
    decoder, _, optimizer = name.rpartition("_")
    return f"{DECODERS[decoder]}, {OPTIMIZERS[optimizer.upper()]}"


def _bar(axis: Axes, row: int, gain: Difference, color: str) -> None:
    mean, half = gain.mean or 0.0, gain.half or 0.0
    axis.errorbar([mean], [row], xerr=[half], color=color, marker="o", markersize=5, elinewidth=1.6)


FIGURES = {"trained_doses": ("doses", draw_trained_doses), "trained_decoders": ("decoders", draw_decoders)}


def drawn() -> dict[str, Figure]:
    """Name -> figure, of the comparisons that docs/results has."""
    return {name: draw(content) for name, (plan, draw) in FIGURES.items() if (content := study.content_of(plan))}
