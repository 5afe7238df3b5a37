"""comparison.json, comparison.md and comparison.html, the page that a person reads: one file, with its drawings."""

from __future__ import annotations

import base64
from pathlib import Path

from scaleeq.files import write_json, write_text

from .comparison_drawing import draw_curves, draw_differences
from .comparison_tables import HEADERS, markdown, notes, rows, verdicts
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
        verdicts=[(text, content["comparisons"][name]["called"]) for name, text in verdicts(content).items()],
        figures=_figures(content),
        headers=HEADERS,
        rows=rows(content),
        notes=[text for text in notes(content) if text not in missing],
        differing=_differing(content),
        footer=_footer(content),
    )


def _figures(content: Content) -> list[dict[str, str]]:
    """Title, caption and SVG of each drawing; none where nothing was run."""
    if not any(variant["n"] for variant in content["variants"].values()):
        return []
    metric = content["metric"]
    drawings = (
        (
            draw_differences(content),
            f"Paired differences of {metric}",
            "A grey dot is a seed, a diamond the mean with its 95 % interval, orange-red where that excludes 0.",
        ),
        (draw_curves(content, "curve", metric), metric, "Mean over seeds; the band is the least to the largest."),
        (draw_curves(content, "loss", "training loss"), "Training loss", "Mean over seeds, and the band of seeds."),
    )
    return [
        {"svg": base64.b64encode(svg.encode()).decode(), "title": title, "caption": caption}
        for svg, title, caption in drawings
    ]


def _differing(content: Content) -> list[tuple[str, str]]:
    return [
        (name, ", ".join(f"{key} {value!r}" for key, value in variant["differs_in"].items()) or "-")
        for name, variant in content["variants"].items()
    ]


def _footer(content: Content) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    return f"From {content['file']} (sha256 {content['file_sha256'][:12]}), seeds {content['seeds']}. {versions}."
