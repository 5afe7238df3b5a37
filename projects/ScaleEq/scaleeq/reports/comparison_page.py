"""comparison.json, .md, .html, .csv and .tex, and the figures beside them.

The page that a person reads is one file, with its drawings; those are files for papers, too: figures/*.svg, .png, .pdf.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from scaleeq.files import write_json, write_text

from .comparison_drawing import draw_curves, draw_differences
from .comparison_tables import HEADERS, all_verdicts, csv_table, heading, latex_table, markdown, notes, rows, sections
from .html import Content, render
from .style import in_all_kinds

Draw = Callable[..., str]  # paths= -> SVG


def write_report(content: Content, output: Path) -> list[Path]:
    """Write the files into a folder; returns their paths, but those of the figures."""
    paths = [output / f"comparison.{suffix}" for suffix in ("json", "md", "html", "csv", "tex")]
    write_json(paths[0], content)
    write_text(paths[1], markdown(content))
    write_text(paths[2], page(content, figures=output / "figures"))
    write_text(paths[3], csv_table(content))
    write_text(paths[4], latex_table(content) + "\n")
    return paths


def page(content: Content, *, figures: Path | None = None) -> str:
    """The page, HTML 5, without anything that has to be loaded from elsewhere.

    figures: a folder into which its drawings are written, too.
    """
    missing = [text for text in notes(content) if text.startswith("Missing")]
    return render(
        "comparison.html",
        title=content["name"],
        question=re.sub(r"\n(?!\n|[A-Z][a-z]+: )", " ", content["comment"]),  # running text, not a file's lines
        missing=missing,
        verdicts=all_verdicts(content),
        figures=_figures(content, figures),
        headers=HEADERS,
        tables=[(heading(part) if content.get("more") else "", rows(part)) for part in sections(content)],
        notes=[text for text in notes(content) if text not in missing],
        differing=_differing(content),
        footer=_footer(content),
    )


def _figures(content: Content, folder: Path | None) -> list[dict[str, str]]:
    """Title, caption and SVG of each drawing; none where nothing was run. folder: where they are written, too."""
    if not any(variant["runs"] for variant in content["variants"].values()):
        return []
    drawings = [drawn for part in sections(content) for drawn in _of_metric(part)]
    loss = partial(draw_curves, content, "loss", "training loss")
    drawings.append(("loss", loss, "Training loss", "Mean over seeds, and the band of seeds."))
    found = []
    for name, draw, title, caption in drawings:
        paths = [] if folder is None else in_all_kinds(folder / re.sub(r"[^A-Za-z0-9.-]+", "_", name))
        svg = base64.b64encode(draw(paths=paths).encode()).decode()
        found.append({"svg": svg, "title": title, "caption": caption})
    return found


def _of_metric(section: Content) -> Sequence[tuple[str, Draw, str, str]]:
    """Name, drawing, title and caption of the differences of one metric, and of its curves where it has any."""
    metric = section["metric"]
    title = section.get("title") or f"Paired differences of {heading(section)}"
    dots = "A grey dot is a seed, a diamond the mean with its 95 % interval, orange-red where that excludes 0."
    drawings: list[tuple[str, Draw, str, str]] = []
    if section["comparisons"]:
        drawings.append((f"differences_{metric}", partial(draw_differences, section), title, dots))
    if any(run.get("curve") for variant in section["variants"].values() for run in variant["runs"].values()):
        caption = "Mean over seeds; the band is the least to the largest."
        drawings.append((f"curves_{metric}", partial(draw_curves, section, "curve", metric), metric, caption))
    return drawings


def _differing(content: Content) -> list[tuple[str, str]]:
    return [
        (name, ", ".join(f"{key} {value!r}" for key, value in variant["differs_in"].items()) or "-")
        for name, variant in content["variants"].items()
    ]


def _footer(content: Content) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    return f"From {content['file']} (sha256 {content['file_sha256'][:12]}), seeds {content['seeds']}. {versions}."
