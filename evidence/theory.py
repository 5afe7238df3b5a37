"""What upsampling does to variances, measured on random maps beside the closed forms.

`write_theory` draws figure 3 of arXiv 2402.01149 in its setting (independent Gaussian maps of 128 x 128 whose mean is
that of a ReLU unit, 1 / sqrt(2 pi), variances 0.01 to 0.99; the dotted line is the variance of a ReLU unit), and what
the paper has no figure of: each ratio with both ways of placing pixels, correlated maps, the border, pooled maps.
Deviations: 4 maps a variance instead of 16 x 256, and ratio 16 beside 1, 2, 4, 8. The paper's dotted line is taken to
be one on the axis of the source's variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tabulate import tabulate

from scaleeq import console
from scaleeq.files import replacing, require_writable, write_json
from scaleeq.ops.variance import upsampled_variance_factor

from .theory_maths import RELU_MEAN, RELU_VARIANCE

RATIOS = (1, 2, 4, 8, 16)
CORRELATIONS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97)
SIZES = (2, 3, 4, 8, 16, 32, 64, 128)
BINS = (1, 2, 3, 6)

Row = dict[str, float]
Rows = dict[str, list[Row]]


def random_maps(size: int, *, maps: int, rho: float = 0.0, seed: int = 0) -> torch.Tensor:
    """(maps, 1, size, size), standard normal; neighbours on each axis have the correlation rho (AR(1) on both)."""
    noise = torch.randn(maps, 1, size, size, generator=torch.Generator().manual_seed(seed))
    if not rho:
        return noise
    index = torch.arange(size, dtype=torch.float64)
    factor = torch.linalg.cholesky(rho ** (index[:, None] - index).abs()).float()
    return factor @ noise @ factor.T


def variance_of(maps: torch.Tensor, size: int, *, align_corners: bool = False) -> float:
    """Population variance over all of `maps` (N, 1, h, w), each upsampled to size x size; four at a time."""
    moments = []
    for part in maps.split(4):
        upsampled = F.interpolate(part, size=(size, size), mode="bilinear", align_corners=align_corners)
        variance, mean = torch.var_mean(upsampled, dim=(1, 2, 3), correction=0)
        moments.append(torch.stack([variance, mean]).double())
    variances, means = torch.cat(moments, dim=1)
    return float(variances.mean() + means.var(correction=0))


def compared(maps: torch.Tensor, size: int, *, rho: float = 0.0, align_corners: bool = False, **labels: float) -> Row:
    """`labels`, the measured factor of the variance, the closed form's, and the relative difference."""
    size_in = int(maps.shape[-1])
    measured = variance_of(maps, size, align_corners=align_corners) / float(maps.double().var(correction=0))
    predicted = upsampled_variance_factor((size_in,) * 2, (size,) * 2, (rho, rho), align_corners=align_corners)
    row = {**labels, "rho": rho, "align_corners": align_corners, "measured": measured, "predicted": predicted}
    return row | {"difference": measured / predicted - 1}


def figure_3(*, size: int = 128, maps: int = 4, steps: int = 99) -> list[Row]:
    """The variance after upsampling over that of the source, for each ratio; fresh noise for every variance."""
    rows = []
    for step in range(1, steps + 1):
        variance = step / (steps + 1)
        source = RELU_MEAN + math.sqrt(variance) * random_maps(size, maps=maps, seed=step)
        for ratio in RATIOS:
            rows.append(compared(source, size * ratio, variance=variance, ratio=ratio))
    return rows


def measure_theory(*, size: int = 64, maps: int = 32, steps: int = 99) -> Rows:
    """All comparisons by name; `size` of the source, `maps` a comparison, `steps` of variance in figure 3."""
    noise = random_maps(size, maps=maps)
    both = (False, True)
    correlated = {rho: random_maps(size, maps=maps, rho=rho, seed=1) for rho in CORRELATIONS}

    def many(size_in: int) -> torch.Tensor:
        """As many pixels as `noise` has, so that small maps are known as well; but no more than 4096 maps."""
        return random_maps(size_in, maps=min(4096, maps * math.ceil((size / size_in) ** 2)), seed=2)

    return {
        "figure_3": figure_3(size=2 * size, maps=max(1, maps // 8), steps=steps),
        "ratio": [compared(noise, size * r, ratio=r, align_corners=a) for a in both for r in RATIOS],
        "correlation": [
            compared(source, size * ratio, rho=rho, ratio=ratio, align_corners=aligned)
            for aligned in both
            for ratio in (2, 8)
            for rho, source in correlated.items()
        ],
        "border": [compared(many(n), n * 2, pixels=n, ratio=2, align_corners=a) for a in both for n in SIZES],
        "bins": [compared(many(n), size, bins=n, align_corners=a) for a in both for n in BINS],
    }


def write_theory(folder: Path, *, size: int = 64, maps: int = 32, steps: int = 99) -> str:
    """Write theory.json, figure_3.png and upsampled_variance.png into a folder; returns a summary, a line a subject."""
    rows = measure_theory(size=size, maps=maps, steps=steps)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "theory.json", {"relu_mean": RELU_MEAN, "relu_variance": RELU_VARIANCE, **rows}, indent=None)
    _save(draw_figure_3(rows["figure_3"]), folder / "figure_3.png")
    _save(draw_factors(rows), folder / "upsampled_variance.png")
    lines = [
        f"{name}: {len(each)} comparisons, largest difference {100 * max(abs(row['difference']) for row in each):.2f} %"
        for name, each in rows.items()
    ]
    return "\n".join(
        [*lines, *(str(folder / name) for name in ("theory.json", "figure_3.png", "upsampled_variance.png"))]
    )


def theory_table(rows: Rows) -> str:
    """Measured and predicted factors in Markdown: a row for each ratio, correlation at x2, and number of bins."""
    groups: dict[str, list[str]] = {}
    for name, label in (
        ("ratio", "x{ratio}"),
        ("correlation", "x2, rho = {rho}"),
        ("bins", "{bins} x {bins} bins to 64 x 64"),
    ):
        for row in rows[name]:
            if row.get("ratio") == 2 or name != "correlation":
                cells = groups.setdefault(label.format(**row), [])
                cells.extend(f"{row[key]:.4f}" for key in ("measured", "predicted"))
    headers = ["", *(f"{what}, align_corners {a}" for a in (False, True) for what in ("measured", "closed form"))]
    body = [[label, *cells] for label, cells in groups.items()]
    return tabulate(body, headers=headers, tablefmt="github", disable_numparse=True)


def draw_figure_3(rows: list[Row]) -> Figure:
    """Variance after over variance before upsampling: points measured, lines predicted."""
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axis = figure.subplots()
    for ratio in RATIOS:
        chosen = [row for row in rows if row["ratio"] == ratio]
        variances = [row["variance"] for row in chosen]
        label = "not upsampled" if ratio == 1 else f"x{ratio}"
        (line,) = axis.plot(
            variances, [v * r["predicted"] for v, r in zip(variances, chosen, strict=True)], label=label
        )
        measured = [v * r["measured"] for v, r in zip(variances, chosen, strict=True)]
        axis.plot(variances, measured, ".", markersize=4, color=line.get_color())
    axis.axvline(RELU_VARIANCE, linestyle=":", color="black", label="ReLU unit, (π - 1) / 2π")
    axis.set(xlabel="variance of independent Gaussian maps", ylabel="variance after bilinear upsampling")
    axis.set_title("points: measured; lines: closed form")
    axis.legend(frameon=False)
    return figure


def draw_factors(rows: Rows) -> Figure:
    """A panel for each further comparison."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    figure.suptitle("points: measured; lines: closed form")
    axes = figure.subplots(2, 2)
    panel(axes[0, 0], rows["ratio"], "ratio", title="independent noise, 64 x 64: x2 loses most")
    panel(
        axes[0, 1],
        rows["correlation"],
        "rho",
        title="smooth maps lose little",
        series=lambda row: f"x{row['ratio']:g}, ",
    )
    panel(axes[1, 0], rows["border"], "pixels", title="the border keeps its variance: x2 by size of the source")
    panel(axes[1, 1], rows["bins"], "bins", title="pooled to n x n, upsampled to 64 x 64")
    axes[0, 0].set_xscale("log", base=2)
    axes[1, 0].set_xscale("log", base=2)
    labels = {"ratio": RATIOS, "pixels": SIZES, "bins": BINS}
    for axis, key in ((axes[0, 0], "ratio"), (axes[1, 0], "pixels"), (axes[1, 1], "bins")):
        axis.set_xticks(labels[key], [str(value) for value in labels[key]])
    for axis, name in zip(
        axes.flat, ("ratio", "correlation of neighbours", "pixels a side", "bins a side"), strict=True
    ):
        axis.set(xlabel=name, ylabel="variance after / before", ylim=(0.35, 1.05))
    return figure


def panel(
    axis: Axes, rows: Iterable[Row], key: str, *, title: str, series: Callable[[Row], str] = lambda row: ""
) -> None:
    """One line predicted and its points measured for each series and way of placing pixels."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(f"{series(row)}align_corners {bool(row['align_corners'])}", []).append(row)
    for name, group in groups.items():
        x: list[Any] = [row[key] for row in group]
        style = "--" if group[0]["align_corners"] else "-"
        (line,) = axis.plot(x, [row["predicted"] for row in group], style, label=name)
        axis.plot(x, [row["measured"] for row in group], "o", markersize=5, color=line.get_color())
    axis.set_title(title)
    axis.legend(frameon=False, fontsize="small")


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=110)


def main() -> None:
    parser = console.parser("Compare closed forms of upsampled variances with random maps.")
    parser.add_argument("--output", type=Path, default=Path("output/theory"), help="folder of numbers and figures")
    output = parser.parse_args().output
    require_writable(output, folder=True, key="--output")
    print(write_theory(output))


if __name__ == "__main__":
    console.run(main)
