"""comparison.json, comparison.md and comparison.html, the page that a person reads: one file, with its drawings."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from scaleeq.files import write_json, write_text

from .figures import Content, draw_curves, draw_differences
from .tables import HEADERS, markdown, notes, rows, verdicts

STYLE = """
:root { color-scheme: light; --line: #d9dde3; --ink: #1c2430; --soft: #5a6675; --called: #b3261e; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; color: var(--ink); background: #fff;
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; margin: .3rem 0; } h2 { font-size: 1.15rem; margin: 1.6rem 0 .5rem; }
.question { color: var(--soft); white-space: pre-line; margin: 0 0 1rem; }
.verdicts { list-style: none; padding: 0; display: grid; gap: .6rem; }
.verdicts li { border: 1px solid var(--line); border-left: 4px solid #1f4e79;
               border-radius: 6px; padding: .6rem .8rem; }
.verdicts li.called { border-left-color: var(--called); }
.missing { border: 1px solid #d8a200; background: #fff8e1; border-radius: 6px; padding: .6rem .8rem; }
.figures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
figure { margin: 0; border: 1px solid var(--line); border-radius: 6px; padding: .5rem; }
figure img { display: block; width: 100%; max-width: 36rem; height: auto; margin: 0 auto; }
figcaption { font-size: .85rem; color: var(--soft); padding: .3rem .2rem 0; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
table.keys td { white-space: normal; text-align: left; overflow-wrap: anywhere; } table.keys th { text-align: left; }
table.keys td:first-child { white-space: nowrap; overflow-wrap: normal; }
code { font-size: .85em; overflow-wrap: anywhere; }
footer { color: var(--soft); font-size: .8rem; margin-top: 2rem; }
"""


def write_report(content: Content, output: Path) -> list[Path]:
    """Write the three files into a folder; returns their paths."""
    paths = [output / f"comparison.{suffix}" for suffix in ("json", "md", "html")]
    write_json(paths[0], content)
    write_text(paths[1], markdown(content))
    write_text(paths[2], page(content))
    return paths


def page(content: Content) -> str:
    """The page, HTML 5, without anything that has to be loaded from elsewhere."""
    name = html.escape(content["name"])
    missing = [f'<p class="missing">{html.escape(text)}</p>' for text in notes(content) if text.startswith("Missing")]
    remarks = [f"<p>{html.escape(text)}</p>" for text in notes(content) if not text.startswith("Missing")]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{name}</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body>',
            f"<h1>{name}</h1>",
            f'<p class="question">{html.escape(content["comment"])}</p>',
            *missing,
            "<h2>What can be said</h2>",
            _verdict_list(content),
            "<h2>Differences and curves</h2>",
            _figures(content),
            "<h2>Numbers</h2>",
            _table(HEADERS, rows(content)),
            *remarks,
            "<h2>Where the variants differ</h2>",
            _table(("variant", "keys"), _differing(content), css="keys"),
            _footer(content),
            "</body></html>",
            "",
        ]
    )


def _verdict_list(content: Content) -> str:
    items = [
        f"<li{' class=called' if content['comparisons'][name]['called'] else ''}>{html.escape(text)}</li>"
        for name, text in verdicts(content).items()
    ]
    return f'<ul class="verdicts">{"".join(items)}</ul>'


def _figures(content: Content) -> str:
    if not any(variant["n"] for variant in content["variants"].values()):
        return "<p>Not run.</p>"
    metric = content["metric"]
    drawings = (
        (
            draw_differences(content),
            f"Paired differences of {metric}",
            "A grey dot is a seed, a diamond the mean with its 95 % interval; red where the interval excludes 0.",
        ),
        (draw_curves(content, "curve", metric), metric, "Mean over seeds; the band is the least to the largest."),
        (draw_curves(content, "loss", "training loss"), "Training loss", "Mean over seeds, and the band of seeds."),
    )
    return f'<div class="figures">{"".join(_figure(*drawing) for drawing in drawings)}</div>'


def _figure(svg: str, title: str, caption: str) -> str:
    data = base64.b64encode(svg.encode()).decode()
    title, caption = html.escape(title), html.escape(caption)
    image = f'<img alt="{title}" src="data:image/svg+xml;base64,{data}">'
    return f"<figure>{image}<figcaption><strong>{title}.</strong> {caption}</figcaption></figure>"


def _table(headers: Sequence[str], cells: Sequence[Sequence[str]], *, css: str = "numbers") -> str:
    """Cells are text, and escaped here."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in headers)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>" for row in cells)
    return f'<div class="wide"><table class="{css}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _differing(content: Content) -> list[tuple[str, str]]:
    return [
        (name, ", ".join(f"{key} {value!r}" for key, value in variant["differs_in"].items()) or "-")
        for name, variant in content["variants"].items()
    ]


def _footer(content: Content) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    text = f"From {content['file']} (sha256 {content['file_sha256'][:12]}), seeds {content['seeds']}. {versions}."
    return f"<footer>{html.escape(text)}</footer>"
