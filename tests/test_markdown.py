"""Words in Markdown. Oracle: markdown-it-py, a parser of CommonMark and GitHub's tables: words come back as written."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt
from tabulate import tabulate

from scaleeq.markdown import code, grid, line, table

PARSER = MarkdownIt("commonmark").enable("table").enable("strikethrough")
WORDS = [
    "a|b", "*a*", "**b**", "_a_", "__a", "a_b", "<b>x</b>", "<!-- x", "a < b", "[x](y)", "![x](y)", "`q`", "``a`b``",
    r"C:\dir", r"a\|b", "&lt;", "&#35;", "~~gone~~", "# title", "- entry", "+ entry", "1. first", "2) second", "> said",
    "---", "===", "-0.50", "+0.25", "< 0.001", "SOLVER.STEPS (1, 2)", "[360, 480]", "$x$", "https://a.b", "a:b",
]  # fmt: skip


def shown(tokens):
    """The text of everything that is rendered, and the kinds of what it is rendered as."""
    text, kinds = [], set()
    for token in tokens:
        kinds.add(token.type)
        for child in token.children or ():
            kinds.add(child.type)
            text.append(child.content)
    return "".join(text), kinds


@pytest.mark.parametrize("words", WORDS)
def test_words_are_shown_as_they_are(words):
    text, kinds = shown(PARSER.parse(line(words)))
    assert text == words
    assert kinds <= {"paragraph_open", "inline", "text", "text_special", "paragraph_close"}
    text, kinds = shown(PARSER.parse(f"- {line(words)}"))
    assert text == words and "heading_open" not in kinds
    text, kinds = shown(PARSER.parse(code(words)))
    assert text == words and "code_inline" in kinds


def test_a_table_keeps_its_cells():
    rows = [[words, f"{words} end"] for words in [*WORDS, "two\nlines"]]
    tokens = PARSER.parse(table(rows, ("name | other", "<b>")))
    cells = [shown([token])[0] for token in tokens if token.type == "inline"]
    assert cells == ["name | other", "<b>", *(" ".join(cell.split()) for row in rows for cell in row)]
    in_table = f"| a |\n|---|\n| {code('x|y `z`', in_table=True)} |"
    assert shown([token for token in PARSER.parse(in_table) if token.type == "inline"][1:])[0] == "x|y `z`"


@pytest.mark.parametrize(("align", "style"), [("", {"tablefmt": "github"}), ("lrr", {"tablefmt": "pipe"})])
def test_a_grid_is_laid_out_as_tabulates(align, style):
    rows, headers = [("a", "12.50", "-"), ("a longer | name", "3", "1234567890")], ("class", "x", "% of pixels")
    sides = [{"l": "left", "r": "right"}[side] for side in align] or None
    assert grid(rows, headers, align=align) == tabulate(
        rows, headers=headers, disable_numparse=True, colalign=sides, **style
    )
