"""Tables for other programs: CSV (RFC 4180) with numbers as they are, and LaTeX for a paper, with the package booktabs.

Needs the standard library alone.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

_OF_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def csv_text(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    """A line for the headers and one for each row; None is an empty cell."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([headers, *rows])
    return file.getvalue()


def latex(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    r"""A tabular environment whose cells are words: the first column to the left, the others to the right.

    It needs \usepackage{booktabs}. A "-" is a dash.
    """
    lines = [" & ".join(map(escaped, row)) + r" \\" for row in (headers, *rows)]
    columns = "l" + "r" * (len(headers) - 1)
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def escaped(words: object) -> str:
    """Words on one line as LaTeX shows them unchanged."""
    plain = " ".join(str(words).split())
    return "--" if plain == "-" else "".join(_OF_LATEX.get(letter, letter) for letter in plain)
