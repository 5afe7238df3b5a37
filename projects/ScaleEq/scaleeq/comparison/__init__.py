"""Comparisons: variants of a config, each trained with the same seeds, and what the differences are worth.

What tools/compare.py calls. `plan` reads the file, `execute` trains what is missing, `summary` computes, `tables`,
`page` and `figures` show; `statistics` holds the formulas, `jobs` the processes, `run_table` the table over any runs.
"""

from __future__ import annotations

from .execute import execute
from .page import write_report
from .plan import Plan, Variant, read_plan
from .run_table import compare_runs, runs_table, write_runs
from .summary import summarize_comparison
from .tables import comparison_table, verdicts

__all__ = [
    "Plan",
    "Variant",
    "compare_runs",
    "comparison_table",
    "execute",
    "read_plan",
    "runs_table",
    "summarize_comparison",
    "verdicts",
    "write_report",
    "write_runs",
]
