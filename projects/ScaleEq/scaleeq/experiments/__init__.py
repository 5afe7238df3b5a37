"""Comparisons: variants of a config, each trained with the same seeds, and what the differences are worth.

`plan` reads the file, `execute` trains what is missing, `summary` computes; `statistics` holds the formulas, `jobs` the
processes, `run_table` the table over any runs. What is drawn of them is in reports.comparison_*.
"""

from __future__ import annotations

from .execute import execute
from .plan import Plan, Variant, read_plan
from .run_table import compare_runs, runs_table, write_runs
from .summary import summarize_comparison

__all__ = [
    "Plan",
    "Variant",
    "compare_runs",
    "execute",
    "read_plan",
    "runs_table",
    "summarize_comparison",
    "write_runs",
]
