"""What programs print into pages: each table stands between two marks, which name what prints it.

<!-- printed by results_table -->

...

<!-- end of results_table -->
"""

from __future__ import annotations

from pathlib import Path

from scaleeq.files import write_text


def marks(name: str) -> tuple[str, str]:
    """What stands before and after what is printed under a name."""
    return f"<!-- printed by {name} -->", f"<!-- end of {name} -->"


def between(page: str, name: str, text: str, *, where: str = "the page") -> str:
    """A page with this text between the marks of a name. ValueError: it has not each of them once, in this order."""
    begin, end = marks(name)
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    if page.count(begin) != 1 or page.count(end) != 1 or end not in rest:
        raise ValueError(f"{where} has not both marks, {begin} and {end}, once each, between which the text belongs")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def put(page: Path, name: str, text: str) -> None:
    """Write a page anew, with this text between the marks of a name. ValueError: as between."""
    write_text(page, between(page.read_text(), name, text, where=page.name))
