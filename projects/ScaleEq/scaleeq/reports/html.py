"""The one shell of all pages: HTML 5 in one file that loads nothing, light and dark, for phones too.

A page is a template of templates/ that extends shell.html; style.css is the style of all of them. Whatever a template
is given is words: Jinja escapes it.
"""

from __future__ import annotations

import functools

import jinja2

from scaleeq.records import JsonView

from .style import SERIES

Content = JsonView  # what a report says, as its JSON file holds it


@functools.cache
def _templates() -> jinja2.Environment:
    """A name that a template misses is an error, not an empty word."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("scaleeq.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(template: str, *, title: str, **values: object) -> str:
    """The page of a template, which finds the values under their names.

    title: also the first heading.
    """
    return _templates().get_template(template).render(title=title, series=SERIES, **values)


def fragment(template: str, **values: object) -> str:
    """A part of a page that another program shows."""
    return _templates().get_template(template).render(**values)
