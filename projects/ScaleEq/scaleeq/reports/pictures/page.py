"""index.html: all sheets of a folder to scroll through, on a phone too. It loads nothing but the sheets beside it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

STYLE = """
:root { color-scheme: light; --line: #d9dde3; --ink: #1c2430; --soft: #5a6675; --wrong: #b3261e; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 84rem; padding: 1rem; color: var(--ink); background: #fff;
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; margin: .3rem 0; } h2 { font-size: 1.05rem; margin: 0; }
p { color: var(--soft); margin: .2rem 0 .8rem; }
article { border: 1px solid var(--line); border-radius: 6px; padding: .7rem; margin: 0 0 1rem; }
img { display: block; width: 100%; height: auto; margin: .4rem 0; }
.faults { color: var(--wrong); }
"""


@dataclass
class Entry:
    """One image: its name, a line about it, and its sheets: relative path -> (width, height) in pixels."""

    name: str
    note: str
    sheets: dict[str, tuple[int, int]] = field(default_factory=dict)


def page(title: str, entries: Sequence[Entry], faults: Mapping[str, str]) -> str:
    """HTML 5. faults: image -> why there is no sheet of it."""
    listed = "".join(f"<li>{html.escape(text)}</li>" for text in faults.values())
    return "\n".join(
        [
            "<!DOCTYPE html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body>',
            f"<h1>{html.escape(title)}</h1>",
            f"<p>{len(entries)} {'image' if len(entries) == 1 else 'images'}; a sheet opens at its full size.</p>",
            f'<ul class="faults">{listed}</ul>' if faults else "",
            *map(_article, entries),
            "</body></html>",
            "",
        ]
    )


def _article(entry: Entry) -> str:
    sheets = "".join(
        f'<a href="{quote(path)}"><img loading="lazy" src="{quote(path)}" width="{width}" height="{height}" '
        f'alt="{html.escape(path)}"></a>'
        for path, (width, height) in entry.sheets.items()
    )
    return f"<article><h2>{html.escape(entry.name)}</h2><p>{html.escape(entry.note)}</p>{sheets}</article>"
