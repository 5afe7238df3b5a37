"""CSV and LaTeX. Oracle: Python's own csv reader; LaTeX's rules for special letters."""

from __future__ import annotations

import csv
import io

from scaleeq.tables import csv_text, escaped, latex


def test_csv_is_read_as_it_was_written():
    rows = [("a, b", 1.25, None), ('with "quotes"', -3, "two\nlines")]
    read = list(csv.reader(io.StringIO(csv_text(rows, ["name", "x", "y"]))))
    assert read == [["name", "x", "y"], ["a, b", "1.25", ""], ['with "quotes"', "-3", "two\nlines"]]


def test_latex_is_a_booktabs_table():
    assert latex([("a_1", "-"), ("50 %", "+2.0")], ["run", "mIoU"]).splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"run & mIoU \\",
        r"\midrule",
        r"a\_1 & -- \\",
        r"50 \% & +2.0 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_no_letter_of_latex_is_left():
    assert escaped(r"\{}$&%#_~^<>") == (
        r"\textbackslash{}\{\}\$\&\%\#\_\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}"
    )
