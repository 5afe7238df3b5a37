"""scales.json, scales.html and a PNG for each Fusion: the report of tools/analyze_scales.py as a person reads it.

Own design. The page is one file that loads nothing; its bars are boxes of HTML, as wide as the screen lets them be.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaleeq.files import write_json, write_text

from .plots import COLORS, plot_fusion
from .verdict import percent, ratios

Content = Mapping[str, Any]

STYLE = """
:root { color-scheme: light; --line: #d9dde3; --ink: #1c2430; --soft: #5a6675; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; color: var(--ink); background: #fff;
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; margin: .3rem 0; } h2 { font-size: 1.15rem; margin: 0; }
.about, footer { color: var(--soft); font-size: .9rem; }
.verdict { border: 1px solid var(--line); border-left: 4px solid #8a94a3; border-radius: 6px; padding: .5rem .8rem;
           margin: .6rem 0; }
.verdict.effect { border-left-color: #b3261e; }
ul.summary { padding-left: 1.2rem; } a { color: #1f4e79; }
section { border-top: 1px solid var(--line); padding: 1.2rem 0 .4rem; }
section > .name { color: var(--soft); font-size: .85rem; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; font-size: .85rem; color: var(--soft); margin: .4rem 0; }
.key i { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin-right: .35rem;
         vertical-align: -1px; }
.key i.tick { width: 3px; background: var(--ink); }
.branch { display: grid; grid-template-columns: 9.5rem 1fr 1fr; gap: .3rem 1.5rem; padding: .55rem 0;
          border-top: 1px solid #eef0f3; }
.branch b { font-weight: 600; } .branch small { display: block; color: var(--soft); line-height: 1.35; }
.what { font-size: .75rem; color: var(--soft); }
.bar { display: grid; grid-template-columns: 1fr 3.6rem; gap: .5rem; align-items: center; font-size: .85rem;
       font-variant-numeric: tabular-nums; line-height: 1.25; }
.track { position: relative; height: .8rem; background: #f1f3f6; border-radius: 2px; }
.fill { position: absolute; inset: 0 auto 0 0; border-radius: 2px; }
.mark { position: absolute; top: -2px; bottom: -2px; width: 3px; margin-left: -1px; background: var(--ink); }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--soft); font-size: .9rem; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; margin-top: .4rem; }
table { border-collapse: collapse; width: 100%; font-size: .82rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
@media (max-width: 40rem) { .branch { grid-template-columns: 1fr; } .branch small { display: inline; } }
"""

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


def write_report(content: Content, output: Path) -> list[Path]:
    """Write the files into a folder; returns their paths."""
    paths = [output / "scales.json", output / "scales.html"]
    write_json(paths[0], content)
    write_text(paths[1], page(content))
    for name, fusion in content["fusions"].items():
        paths.append(output / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.png")
        plot_fusion(fusion, paths[-1])
    return paths


def page(content: Content) -> str:
    """The page, HTML 5, without anything that has to be loaded from elsewhere."""
    about = content["about"]
    title = html.escape(f"Scales of {about['model']}")
    verdicts = "".join(_summary(name, fusion) for name, fusion in content["fusions"].items())
    sections = [_section(name, fusion, about) for name, fusion in content["fusions"].items()]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body>',
            f'<h1>{title}</h1><p class="about">{_about(about)}</p>',
            f'<ul class="summary">{verdicts}</ul>',
            *sections,
            f"<footer>{_reading(about)}</footer></body></html>",
            "",
        ]
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
    return html.escape(text)


def _reading(about: Content) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return html.escape(
        "Standard deviations are over all channels and pixels, with batch norms on batch statistics. The prediction is "
        "the closed form of bilinear interpolation from the size, the standard deviation and the correlation of "
        "neighbouring pixels before the transfer. Gradients are of the training loss, root mean square over the "
        "weights that consume a branch; shown as multiples of that of the first branch. The relative step is one step "
        f"of {about['optimizer']}. Made by tools/analyze_scales.py; {versions}."
    )


def _summary(name: str, fusion: Content) -> str:
    gap = fusion["raw"].get("spread")
    text = f"{percent(gap)} spread" if gap else "no spread"
    text = text if fusion["effect"] else f"no effect ({text})"
    return f'<li><a href="#{html.escape(name)}">{html.escape(fusion["title"])}</a>: {text}</li>'


def _verdict(fusion: Content) -> str:
    css = "verdict effect" if fusion["effect"] else "verdict"
    return f'<div class="{css}">{html.escape(fusion["verdict"])}</div>'


def _section(name: str, fusion: Content, about: Content) -> str:
    branches = "".join(_branch(branch, fusion) for branch in fusion["raw"]["branches"])
    name, title = html.escape(name), html.escape(fusion["title"])
    return (
        f'<section id="{name}"><h2>{title}</h2><div class="name">{name}</div>'
        f"{_verdict(fusion)}{_key(fusion)}{branches}{_numbers(fusion)}</section>"
    )


def _key(fusion: Content) -> str:
    """What the colours mean, of the bars that this fusion has."""
    entries = [f'<span><i style="background:{COLORS[label]}"></i>std {label}</span>' for _, _, label in STD_BARS]
    entries.append('<span><i class="tick"></i>predicted</span>')
    for record, number, label in GRADIENT_BARS:
        if _largest(fusion, ((record, number, label),)):
            entries.append(f'<span><i style="background:{COLORS[label]}"></i>gradient of weights, {label}</span>')
    return f'<div class="key">{"".join(entries)}</div>'


def _branch(branch: str, fusion: Content) -> str:
    numbers = fusion["raw"]["branches"][branch]
    transfer = fusion["transfers"][branch]
    facts = [f"{fusion['widths'][branch]} channels", "no transfer" if transfer == "none" else transfer]
    if "energy_share" in numbers:
        facts.append(f"{100 * numbers['energy_share']:.0f} % of the energy")
    described = "".join(f"<small>{html.escape(fact)}{'' if fact == facts[-1] else ', '}</small>" for fact in facts)
    std = _bars(branch, fusion, STD_BARS, mark=numbers.get("std_predicted"))
    gradient = _bars(branch, fusion, GRADIENT_BARS)
    if gradient:
        gradient = f'<div class="what">gradient of its weights, of the first branch&#8217;s</div>{gradient}'
    return (
        f'<div class="branch"><div><b>{html.escape(branch)}</b> {described}</div>'
        f'<div><div class="what">standard deviation</div>{std}</div>'
        f"<div>{gradient}</div></div>"
    )


def _bars(branch: str, fusion: Content, bars: tuple[tuple[str, str, str], ...], mark: float | None = None) -> str:
    """Boxes as long as the numbers, the largest of the fusion nearly the whole width."""
    largest = _largest(fusion, bars)
    lines = []
    for record, number, label in bars:
        value = _value(fusion, record, branch, number)
        if value is None or not largest:
            continue
        width = f'<span class="fill" style="width:{94 * value / largest:.2f}%;background:{COLORS[label]}"></span>'
        if mark is not None and number == "std":
            width += f'<span class="mark" style="left:{94 * mark / largest:.2f}%" title="predicted {mark:.4g}"></span>'
        lines.append(f'<div class="bar"><span class="track">{width}</span><span>{value:.3g}</span></div>')
    return "".join(lines)


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


def _numbers(fusion: Content) -> str:
    """All numbers as a table, folded away."""
    branches = fusion["raw"]["branches"]
    names = [name for name in NUMBERS if any(name in numbers for numbers in branches.values())]
    cells = {branch: [_number(numbers.get(name)) for name in names] for branch, numbers in branches.items()}
    head = "".join(f"<th>{html.escape(NUMBERS[name])}</th>" for name in names)
    body = "".join(
        f"<tr><td>{html.escape(branch)}</td>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
        for branch, row in cells.items()
    )
    table = f"<table><thead><tr><th>branch</th>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<details><summary>All numbers</summary><div class="wide">{table}</div></details>'


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
