"""The tables of README.md are the printed ones, and every number names what exists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scaleeq import papers

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "projects" / "ScaleEq" / "scaleeq"


@pytest.mark.parametrize(
    ("page", "table"),
    [
        ("README.md", papers.papers_table),
        ("README.md", papers.results_table),
        ("docs/scale_equalizers.md", papers.scales_table),
        ("docs/scale_equalizers.md", papers.calibration_cost_table),
        ("docs/recipes.md", papers.recipes_table),
    ],
)
def test_pages_hold_the_printed_tables(page, table):
    assert table() in (ROOT / page).read_text(), "print it again: python -m scaleeq.papers"


@pytest.mark.parametrize("number", [*papers.NUMBERS, *papers.RECIPES], ids=lambda number: number.config)
def test_numbers_name_configs_and_evidence_that_exist(number):
    assert (ROOT / number.config).is_file()
    path = papers.RESULTS / number.evidence
    if papers.measured(number) != "not run":
        evidence = json.loads(path.read_text())
        assert {"sem_seg", "weights_sha256", "engine", "command", "scales"} <= set(evidence)


@pytest.mark.parametrize("number", papers.RECIPES, ids=lambda number: number.config)
def test_recipes_state_their_published_number(number):
    """The comment at the head of a recipe and the table say the same."""
    expected = (ROOT / number.config).read_text().splitlines()[1]
    assert number.expected in expected


@pytest.mark.parametrize("paper", papers.PAPERS, ids=lambda paper: paper.arxiv)
def test_papers_live_where_they_are_said_to(paper):
    assert all((PACKAGE / module).exists() for module in paper.modules.split(", "))


def test_the_reading_spine_is_short():
    """The files that projects/ScaleEq/README.md tells a newcomer to read, in all."""
    lines = (ROOT / "projects" / "ScaleEq" / "README.md").read_text().splitlines()
    spine = [line.split("`")[1] for line in lines if line[:1].isdigit()]
    assert len(spine) > 8
    assert sum(len((PACKAGE / name).read_text().splitlines()) for name in spine) <= 1300
