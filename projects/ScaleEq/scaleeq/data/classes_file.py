"""classes.txt: the names of a folder's classes, and the colours to draw them in.

    road 128 64 128
    traffic light

A class a line, in the order of the labels, from 0 on, in UTF-8. People have such lists in many other forms, and almost
any of them reads as names of this one: what looks like another form is refused, with the line and the form expected.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from .sets.catalog import IGNORE_LABEL
from .sets.voc2012 import voc_color
from .text_file import read_lines

EXPECTED = (
    "expected UTF-8, a class a line, in the order of the labels from 0 on: its name, or its name and colour, "
    "'road 128 64 128'"
)
FIELDS = {"name", "class", "label", "id", "index", "color", "colour", "r", "g", "b", "red", "green", "blue"}
# Of one line: what it looks like where it is no name.
OTHER_FORMS = {
    r"(#|//|;|%)": "a comment",
    r".*\s#": "a line with a comment, or with a colour that is not three numbers",
    r"[\[{]\s*([\"'\d]|$)|<[?!/]": "JSON, Python or XML",
    r"[-*]\s": "an item of a YAML or Markdown list",
    r".*[,;]\s*\d+\s*([,;]|$)": "CSV",
    r"[\"'].*[\"'],?$": "a name in quotation marks",
    r".*,$": "a list with commas",
    r"(\d+\s+){3}[^\d\s]": "a colour before its name",
    r"(?=.*(\s-?\d*\.?\d+){3}$)(?!.*(\s\d+){3}$)": "a name and a colour that is not three numbers in 0..255",
}

Color = tuple[int, int, int]


def read_classes(path: str) -> tuple[list[str], list[Color]]:
    """Names and colours, one (r, g, b) a class, of a classes.txt; empty lines are left out.

    A class without a colour gets one of VOC's.

    ValueError: no class, more than there are labels beside 255, a name twice, a colour outside 0..255, another form
    than the one expected, or no text.
    """
    # Refuse other forms.
    lines = {number: line.strip() for number, line in enumerate(read_lines(path), 1) if line.strip()}
    for number, line in lines.items():
        if form := _other_form(line):
            raise ValueError(f"{path}, line {number}: {line!r} looks like {form}; {EXPECTED}")
    # Names and colours.
    classes: list[str] = []
    colors: list[Color] = []
    for number, words in ((number, line.split()) for number, line in lines.items()):
        *start, r, g, b = words if len(words) > 3 and all(map(str.isdecimal, words[-3:])) else [*words, "", "", ""]
        color = (int(r), int(g), int(b)) if r else voc_color(len(classes) + 1)
        if max(color) > 255:
            raise ValueError(f"{path}, line {number}: the colour {color} is not three numbers in 0..255")
        classes.append(" ".join(start))
        colors.append(color)
    # All of them together.
    if not 0 < len(classes) <= IGNORE_LABEL:
        raise ValueError(f"{path} names {len(classes)} classes; expected 1 to {IGNORE_LABEL}, a class a line")
    if twice := sorted({name for name in classes if classes.count(name) > 1}):
        raise ValueError(f"{path} names these classes more than once: {', '.join(twice)}")
    if form := _other_form_of_all(classes, colors):
        raise ValueError(f"{path} looks like {form}, the first line is {next(iter(lines.values()))!r}; {EXPECTED}")
    return classes, colors


def _other_form(line: str) -> str:
    """What a line looks like that is no name; "" for a name."""
    fields = [field.lower() for field in re.split(r"[\s,;:]+", line)]
    if len(fields) > 1 and set(fields) <= FIELDS:
        return "the header of a table"
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", line):
        return "no text"
    return next((form for pattern, form in OTHER_FORMS.items() if re.match(pattern, line)), "")


def _other_form_of_all(names: Sequence[str], colors: Sequence[Color]) -> str:
    """What all lines together look like; "": names.

    Numbers belong to names ("class 1", "class 2"; "1 cent", "2 cent") where the rest of some of them is the same.
    """
    first = [re.fullmatch(r"(\d+)(?:\s*[:.,;=)\t]\s*|\s+)(\D.*)", name) for name in names]
    if all(first) and _all_differ(match[2] for match in first if match):
        return "a table with a number before each name"
    last = [re.fullmatch(r"(.*?)[\s:,;=]+(\d+)", name) for name in names]
    if all(last) and len(names) > 1:
        counted = [int(match[2]) for match in last if match]
        if counted[0] in (0, 1) and counted == list(range(counted[0], counted[0] + len(names))):
            return "a table with a number after each name" if _all_differ(match[1] for match in last if match) else ""
        if {color[2] for color in colors} == {255}:
            return "a table with colours of four numbers"
    if len(names) == 1 and re.search(r"[,;]", names[0]):
        return "several names on one line"
    return ""


def _all_differ(words: Iterable[str | None]) -> bool:
    listed = list(words)
    return len(set(listed)) == len(listed)
