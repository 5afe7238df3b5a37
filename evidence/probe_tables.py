"""The tables of docs/evidence.md that are of the probes, from docs/results/probes.jsonl; `python -m evidence.page`."""

from __future__ import annotations

from scaleeq.experiments.statistics import Difference, summarize
from scaleeq.markdown import table
from scaleeq.reports.comparison_tables import number, p_value

from .collected import mean_and_sd
from .probes.arms import ARMS
from .probes.results import Results, adjusted, interval
from .probes.side_by_side import DESIGNS
from .probes.study import CELLS, DOSES

NOT_RUN = "not run"
TITLES = {"hidden": "conv + BN"}  # of designs whose names do not say it
OPTIMIZERS = {"SGD": "SGD", "ADAMW": "AdamW"}


def titled(cell: str) -> str:
    """ "natural/sum/SGD" -> "sum, SGD"."""
    _, design, optimizer = cell.split("/")
    return f"{TITLES.get(design, design)}, {OPTIMIZERS[optimizer]}"


def natural_table(results: Results, of: str = "natural") -> str:
    """Markdown: at the scales that the sources have by themselves: every arm, and what equalizing has over it.

    of: the name of the cells.
    """
    rows = []
    for cell in (name for name in results.cells if name.startswith(f"{of}/")):
        for arm, dose in results.arms(cell):
            values = results.values(cell, arm, dose)
            summary = summarize(list(values.values()))
            edge = " (edge)" if results.is_at_the_edge(cell, arm, dose) else ""
            off, equalized = (results.values(cell, other) for other in ("off", "equalized"))
            rows.append(
                (
                    titled(cell),
                    arm if dose == 1 else f"{arm} x {dose:g}",
                    f"{results.rate(cell, arm, dose):g}{edge}",
                    mean_and_sd(summary.mean, summary.sd),
                    "-" if (arm, dose) == ("off", 1) else interval(results.difference(values, off)),
                    "-" if arm == "equalized" else interval(results.difference(equalized, values)),
                    str(len(values)),
                )
            )
    headers = ("design, optimizer", "arm", "rate", "val mIoU, sd", "- off", "equalized - it", "seeds")
    return table(rows, headers) if rows else NOT_RUN


def dose_table(results: Results, cell: str) -> str:
    """Markdown: res5 multiplied by each dose: the mIoU of each arm, and what equalizing has over it there."""
    if cell not in results.cells:
        return NOT_RUN
    trained, rows = results.arms(cell), []
    for arm in dict.fromkeys(name for name, _ in trained):
        cells = []
        for dose in DOSES:
            if (arm, dose) not in trained:
                cells.append(NOT_RUN)
                continue
            mean = number(summarize(list(results.values(cell, arm, dose).values())).mean, 1)
            edge = "*" if results.is_at_the_edge(cell, arm, dose) else ""
            gained = "" if arm == "equalized" else f" ({interval(results.gain(cell, arm, dose))})"
            cells.append(f"{mean}{edge}{gained}")
        rows.append((arm, *cells))
    return table(rows, ("arm", *(f"x {dose:g}" for dose in DOSES)))


def energy_table(results: Results) -> str:
    """Markdown: the share of the energy that a source has at each dose, and what equalizing gains there."""
    columns = [f"{design}/{optimizer}" for design in ("linear", "hidden") for optimizer in OPTIMIZERS]
    rows = []
    for level, branch in (("res5", -1), ("res2", 0)):
        trained = {c: set(results.arms(f"{level}/{c}")) for c in columns if f"{level}/{c}" in results.cells}
        for dose in sorted({dose for of in trained.values() for arm, dose in of if arm == "off"}):
            cells = [
                interval(results.gain(f"{level}/{c}", "off", dose)) if ("off", dose) in trained.get(c, ()) else NOT_RUN
                for c in columns
            ]
            rows.append((f"{level} x {dose:g}", share(results.energy_share(branch, dose)), *cells))
    headers = ("source", "its share of the energy", *(titled(f"-/{c}") for c in columns))
    return table(rows, headers) if rows else NOT_RUN


def gains_between(results: Results, low: float, high: float) -> str:
    """The smallest and the largest mean of what equalizing gains where the multiplied source has a share between two.

    low, high: percent.
    """
    found = []
    for cell in (name for name in results.cells if name.startswith(("res5/", "res2/"))):
        branch = -1 if cell.startswith("res5/") else 0
        doses = {dose for arm, dose in results.arms(cell) if arm == "off"}
        near = [dose for dose in doses if low < results.energy_share(branch, dose) < high]
        gains = [results.gain(cell, "off", dose).mean for dose in near]
        found += [gain for gain in gains if gain is not None]
    return f"{min(found):+.1f} to {max(found):+.1f}" if found else NOT_RUN


def share(percent: float) -> str:
    """ "0.3 %", "97 %"."""
    return f"{percent:.2g} %" if percent < 99.5 else f"{percent:.4g} %"


def quoted_table(quoted: dict[str, Difference]) -> str:
    """Markdown: every difference that the page's sentences quote, with p adjusted for all of them."""
    p = adjusted(quoted)
    rows = [(name, interval(of), str(of.n), p_value(of.p_t), p_value(p.get(name))) for name, of in quoted.items()]
    return table(rows, ("difference, points of mIoU", "mean ± half of the 95 % interval", "pairs", "p (t)", "p (Holm)"))


def arms_table() -> str:
    """Markdown: what each arm does to the branches."""
    return table(list(ARMS.items()), ("arm", "what it does"))


def designs_table() -> str:
    """Markdown: the designs, with the steps of each of their cells."""
    steps = {design: sorted({cell.steps for cell in CELLS.values() if cell.design == design}) for design in DESIGNS}
    rows = [
        (
            f"{TITLES[name]} ({name})" if name in TITLES else name,
            design.what,
            ", ".join(map(str, steps[name])) or NOT_RUN,
        )
        for name, design in DESIGNS.items()
    ]
    return table(rows, ("design", "what it does with the branches", "steps"))


def branches_table(results: Results, of: str = "natural") -> str:
    """Markdown: the branches as the backbone leaves them. of: the name of cells."""
    rows, branches = [], results.branches(of)
    networks = {name.partition("/")[0] for name in branches}
    for index, (name, branch) in enumerate(branches.items()):
        numbers = (str(branch["channels"]), f"{branch['mean']:.2f}", f"{branch['std']:.2f}")
        title = name.partition("/")[2] if len(networks) == 1 else name.replace("/", ", ")
        rows.append((title, *numbers, share(results.energy_share(index, 1.0, of))))
    return table(rows, ("level", "channels C", "mean", "std", "share of the energy, C std^2")) if rows else NOT_RUN
