"""Comparisons: variants of a config, each trained with the same seeds, and what the differences are worth.

`plan` reads the file, `execute` trains what is missing, `summary` computes; `statistics` holds the formulas, `jobs` the
processes, `run_table` the table over any runs. What is drawn of them is in reports.comparison_*.
"""
