"""comparison.json, comparison.md and comparison.html, the page that a person reads: one file, with its drawings."""

from __future__ import annotations

import base64
from pathlib import Path

from scaleeq.files import write_json, write_text

from .comparison_drawing import draw_curves, draw_differences
from .comparison_tables import HEADERS, all_verdicts, heading, markdown, notes, rows, sections
from .html import Content, render


def write_report(content: Content, output: Path) -> list[Path]:
    """Write the three files into a folder; returns their paths."""
    paths = [output / f"comparison.{suffix}" for suffix in ("json", "md", "html")]
    write_json(paths[0], content)
    write_text(paths[1], markdown(content))
    write_text(paths[2], page(content))
    return paths


def page(content: Content) -> str:
    """The page, HTML 5, without anything that has to be loaded from elsewhere."""
    missing = [text for text in notes(content) if text.startswith("Missing")]
    return render(
        "comparison.html",
        title=content["name"],
        question=content["comment"],
        missing=missing,
        verdicts=all_verdicts(content),
        figures=_figures(content),
        headers=HEADERS,
        tables=[(heading(part) if content.get("more") else "", rows(part)) for part in sections(content)],
        notes=[text for text in notes(content) if text not in missing],
        differing=_differing(content),
        footer=_footer(content),
    )


def _figures(content: Content) -> list[dict[str, str]]:
    """Title, caption and SVG of each drawing; none where nothing was run."""
    if not any(variant["runs"] for variant in content["variants"].values()):
        return []
    drawings = [drawn for part in sections(content) for drawn in _of_metric(part)]
    loss = draw_curves(content, "loss", "training loss")
    drawings.append((loss, "Training loss", "Mean over seeds, and the band of seeds."))
    return [
        {"svg": base64.b64encode(svg.encode()).decode(), "title": title, "caption": caption}
        for svg, title, caption in drawings
    ]


def _of_metric(section: Content) -> list[tuple[str, str, str]]:
    """SVG, title and caption of the differences of one metric, and of its curves where it has any."""
    metric = section["metric"]
    title = section.get("title") or f"Paired differences of {heading(section)}"
    dots = "A grey dot is a seed, a diamond the mean with its 95 % interval, orange-red where that excludes 0."
    drawings = [(draw_differences(section), title, dots)] if section["comparisons"] else []
    if any(run.get("curve") for variant in section["variants"].values() for run in variant["runs"].values()):
        caption = "Mean over seeds; the band is the least to the largest."
        drawings.append((draw_curves(section, "curve", metric), metric, caption))
    return drawings


def _differing(content: Content) -> list[tuple[str, str]]:
    return [
        (name, ", ".join(f"{key} {value!r}" for key, value in variant["differs_in"].items()) or "-")
        for name, variant in content["variants"].items()
    ]


def _footer(content: Content) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    return f"From {content['file']} (sha256 {content['file_sha256'][:12]}), seeds {content['seeds']}. {versions}."
