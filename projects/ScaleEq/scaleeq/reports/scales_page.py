"""scales.json, .html, .csv and .tex, and a figure for each Fusion: the report of `scaleeq analyze`.

The page is one file that loads nothing; its bars are boxes of HTML, as wide as the screen lets them be.
"""

from __future__ import annotations

import re
from pathlib import Path

from scaleeq.files import write_json, write_text
from scaleeq.tables import csv_text, latex

from .html import Content, render
from .scales_drawing import draw_fusion
from .scales_verdict import percent, ratios
from .style import in_all_kinds

RELATIVE = ("weight_gradient",)  # shown as multiples of the first branch's
# Bars of a branch: record ("raw" or "equalized"), number, name in the key.
STD_BARS = (("raw", "source_std", "before the transfer"), ("raw", "std", "after the transfer"))
GRADIENT_BARS = (("raw", "weight_gradient", "as it is"), ("equalized", "weight_gradient", "equalized"))
NUMBERS = {
    "source_mean": "mean before", "mean": "mean after", "source_std": "std before", "std": "std after",
    "std_predicted": "predicted", "source_correlation_y": "corr. y before", "source_correlation_x": "corr. x before",
    "correlation_y": "corr. y after", "correlation_x": "corr. x after", "energy_share": "energy share",
    "std_equalized": "std equalized", "energy_share_equalized": "energy share eq.",
    "weight_gradient": "weight gradient", "relative_step": "relative step", "map_gradient": "map gradient",
}  # fmt: skip


KINDS_OF_RECORD = ("raw", "equalized")
OF_TASKS = {"map_gradient_": "map gradient", "weight_gradient_": "weight gradient"}  # a task's name follows


def write_report(content: Content, output: Path) -> list[Path]:
    """Write the files into a folder; returns their paths."""
    paths = [output / f"scales.{kind}" for kind in ("json", "html", "csv", "tex")]
    write_json(paths[0], content)
    write_text(paths[1], page(content))
    write_text(paths[2], csv_table(content))
    write_text(paths[3], latex_table(content) + "\n")
    for name, fusion in content["fusions"].items():
        figures = in_all_kinds(output / re.sub(r"[^A-Za-z0-9._-]", "_", name))
        draw_fusion(fusion, figures)
        paths += figures
    return paths


def csv_table(content: Content) -> str:
    """A line for each branch of each Fusion: all its numbers, "raw" and "equalized" under names of their own."""
    rows = [
        {"fusion": name, "branch": branch}
        | {f"{kind}_{key}": value for kind in KINDS_OF_RECORD for key, value in _numbers(fusion, kind, branch).items()}
        for name, fusion in content["fusions"].items()
        for branch in fusion["raw"]["branches"]
    ]
    headers = list(dict.fromkeys(key for row in rows for key in row))
    return csv_text([[row.get(key) for key in headers] for row in rows], headers)


def latex_table(content: Content) -> str:
    """Of each branch: its standard deviation before and after its transfer, equalized, and its weights' gradients."""
    rows = []
    for fusion in content["fusions"].values():
        for branch in fusion["raw"]["branches"]:
            raw, equalized = (_numbers(fusion, kind, branch) for kind in KINDS_OF_RECORD)
            found = [raw.get("source_std"), raw.get("std"), equalized.get("std_equalized")]
            found += [raw.get("weight_gradient"), equalized.get("weight_gradient")]
            rows.append([fusion["title"], branch, *("-" if value is None else f"{value:.3g}" for value in found)])
    headers = ["fusion", "branch", "std before", "std after", "std equalized", "gradient", "gradient equalized"]
    return latex(rows, headers)


def _numbers(fusion: Content, kind: str, branch: str) -> Content:
    """Of a branch in one of a Fusion's records; {} where there is none."""
    return (fusion[kind] or {"branches": {}})["branches"].get(branch, {})


def page(content: Content) -> str:
    """The page, HTML 5, without anything that has to be loaded from elsewhere."""
    about = content["about"]
    return render(
        "scales.html",
        title=f"Scales of {about['model']}",
        about=_about(about),
        fusions=[_section(name, fusion) for name, fusion in content["fusions"].items()],
        reading=_reading(about),
    )


def _about(about: Content) -> str:
    batches = "1 training batch" if about["batches"] == 1 else f"{about['batches']} training batches"
    sizes = ", ".join("x".join(map(str, size)) for size in about["sizes"][:3]) + (" ..." if about["sizes"][3:] else "")
    text = (
        f"{about.get('config', '')}. Weights: {about['weights']}. {batches} of "
        f"{about['batch']} images of {', '.join(about['datasets'])}, {sizes} pixels."
    )
    if about["not_equalized_because"]:
        text += f" Not equalized: {about['not_equalized_because']}."
    return text


def _reading(about: Content) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        "Standard deviations are over all channels and pixels, with batch norms on batch statistics. The prediction is "
        "the closed form of bilinear interpolation from the size, the standard deviation and the correlation of "
        "neighbouring pixels before the transfer. Gradients are of the training loss, root mean square over the "
        "weights that consume a branch; shown as multiples of that of the first branch. The relative step is one step "
        f"of {about['optimizer']}. Made by scaleeq analyze; {versions}."
    )


def _section(name: str, fusion: Content) -> dict[str, object]:
    """What the template shows of a fusion: words, and lengths in percent."""
    branches = fusion["raw"]["branches"]
    names = [number for number in NUMBERS if any(number in numbers for numbers in branches.values())]
    titles = {number: NUMBERS[number] for number in names}
    for start, title in OF_TASKS.items():
        of_tasks = (number for numbers in branches.values() for number in numbers if number.startswith(start))
        titles |= {number: f"{title}, {number.removeprefix(start)}" for number in of_tasks}
    return {
        "name": name,
        "title": fusion["title"],
        "summary": _summary(fusion),
        "verdict": fusion["verdict"],
        "pull": fusion.get("pull", ""),
        "effect": fusion["effect"],
        "key": _key(fusion),
        "branches": [_branch(branch, fusion) for branch in branches],
        "headers": list(titles.values()),
        "numbers": [
            (branch, ["-" if n not in numbers else f"{numbers[n]:.4g}" for n in titles])
            for branch, numbers in branches.items()
        ],
    }


def _summary(fusion: Content) -> str:
    gap = fusion["raw"].get("spread")
    text = f"{percent(gap)} spread" if gap else "no spread"
    return text if fusion["effect"] else f"no effect ({text})"


def _key(fusion: Content) -> list[tuple[str, str]]:
    """The series that have bars in this fusion, and what they are."""
    entries = [(label, f"std {label}") for _, _, label in STD_BARS]
    shown = [bar for bar in GRADIENT_BARS if _largest(fusion, (bar,))]
    return entries + [(label, f"gradient of weights, {label}") for _, _, label in shown]


def _branch(branch: str, fusion: Content) -> dict[str, object]:
    numbers = fusion["raw"]["branches"][branch]
    transfer = fusion["transfers"][branch]
    facts = [f"{fusion['widths'][branch]} channels", "no transfer" if transfer == "none" else transfer]
    if "energy_share" in numbers:
        facts.append(f"{100 * numbers['energy_share']:.0f} % of the energy")
    return {
        "name": branch,
        "facts": facts,
        "deviations": _bars(branch, fusion, STD_BARS, mark=numbers.get("std_predicted")),
        "gradients": _bars(branch, fusion, GRADIENT_BARS),
    }


def _bars(
    branch: str, fusion: Content, bars: tuple[tuple[str, str, str], ...], mark: float | None = None
) -> list[dict[str, str | None]]:
    """Bars as long as the numbers, the largest of the fusion nearly the whole width."""
    largest = _largest(fusion, bars)
    lines = []
    for record, number, label in bars:
        value = _value(fusion, record, branch, number)
        if value is None or not largest:
            continue
        line: dict[str, str | None] = {"label": label, "value": f"{value:.3g}", "mark": None}
        line["percent"] = f"{94 * value / largest:.2f}"
        if mark is not None and number == "std":
            line |= {"mark": f"{94 * mark / largest:.2f}", "predicted": f"{mark:.4g}"}
        lines.append(line)
    return lines


def _largest(fusion: Content, bars: tuple[tuple[str, str, str], ...]) -> float:
    values = [
        _value(fusion, record, branch, number) for branch in fusion["raw"]["branches"] for record, number, _ in bars
    ]
    return max((value for value in values if value is not None), default=0.0)


def _value(fusion: Content, record: str, branch: str, number: str) -> float | None:
    """Of "equalized" only what differs from "raw": with equalizers in the config both are one record."""
    if record == "equalized" and fusion["equalized"] in (None, fusion["raw"]):
        return None
    branches = fusion[record]["branches"]
    if number not in RELATIVE:
        return branches[branch].get(number)
    values = dict(zip(branches, ratios(fusion[record], number), strict=False))
    return values.get(branch)
