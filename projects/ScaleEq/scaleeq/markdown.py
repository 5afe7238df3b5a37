"""Words of a user (a variant's name, a class, a path) in Markdown, shown as they were written.

Source: GitHub Flavored Markdown. Only what would be read as Markdown or HTML gets a backslash or an entity, so that
ordinary names and numbers stay legible in the source too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

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
    return grid([[text(cell) for cell in row] for row in rows], list(map(text, headers)))


def grid(rows: Sequence[Sequence[str]], headers: Sequence[str], *, align: str = "") -> str:
    """A table whose cells are Markdown already, in columns as wide as their widest cell.

    align: a letter for each column, "l" or "r"; "": as the reader does it.
    """
    columns = list(zip(headers, *rows, strict=True))
    widths = [max(len(column[0]) + 2, *map(len, column)) for column in columns]
    sides = align or " " * len(widths)
    lines = [
        "| " + " | ".join(f"{cell:{'>' if side == 'r' else '<'}{width}}" for cell, side, width in cells) + " |"
        for cells in (list(zip(row, sides, widths, strict=True)) for row in (headers, *rows))
    ]
    ends = {" ": ("-", "-"), "l": (":", "-"), "r": ("-", ":")}
    rules = (ends[side][0] + "-" * width + ends[side][1] for side, width in zip(sides, widths, strict=True))
    return "\n".join([lines[0], "|" + "|".join(rules) + "|", *lines[1:]])
