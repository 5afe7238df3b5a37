"""Words of a user (a variant's name, a class, a path) in Markdown, shown as they were written.

Source: GitHub Flavored Markdown. Only what would be read as Markdown or HTML gets a backslash or an entity, so that
ordinary names and numbers stay legible in the source too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tabulate import tabulate

# Emphasis and code, a cell's end, struck text, an underscore at a word's border, a tag, a link, an entity.
_SPECIAL = re.compile(r"[\\`*|]|~(?=~)|(?<!\w)_|_(?!\w)|<(?=[A-Za-z/!?])|\[(?=[^\]]*\]\()|&(?=#?\w+;)")
_FIRST = re.compile(r"[#>+=-](?=\s|$|[#=-])|\d+(?=[.)](\s|$))")  # a heading, a quotation, a list, a rule
_ENTITIES = {"<": "&lt;", "&": "&amp;"}


def text(words: object) -> str:
    """Words on one line, for the middle of a paragraph and for a cell of a table."""
    return _SPECIAL.sub(lambda found: _ENTITIES.get(found[0], f"\\{found[0]}"), " ".join(str(words).split()))


def line(words: object) -> str:
    """Words on one line, with which a paragraph or an entry of a list begins."""
    escaped = text(words)
    if (number := _FIRST.match(escaped)) and number[0].isdigit():
        return f"{number[0]}\\{escaped[number.end() :]}"
    return f"\\{escaped}" if _FIRST.match(escaped) else escaped


def code(words: object, *, in_table: bool = False) -> str:
    """Words on one line, as code."""
    plain = " ".join(str(words).split())
    longest = max(map(len, re.findall("`+", plain)), default=0)
    fence, pad = "`" * (longest + 1), " " if longest else ""
    span = f"{fence}{pad}{plain}{pad}{fence}"
    return span.replace("|", "\\|") if in_table else span


def table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    """A table whose cells are words."""
    cells = [[text(cell) for cell in row] for row in rows]
    return tabulate(cells, headers=list(map(text, headers)), tablefmt="github", disable_numparse=True)
