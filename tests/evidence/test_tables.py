"""The tables of README.md are the printed ones, and every number names what exists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evidence import tables
from evidence.printed import between, marks, put
from scaleeq.config import config_files
from scaleeq.zoo import Entry, read_table

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "projects" / "ScaleEq" / "scaleeq"


@pytest.mark.parametrize(
    ("page", "table"),
    [(page, table) for page, printed in tables.TABLES.items() for table in printed],
)
def test_pages_hold_the_printed_tables(page, table):
    text = (ROOT / page).read_text()
    assert between(text, table.__name__, table(), where=page) == text, "print it again: python -m evidence.tables"


def test_a_table_is_written_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    begin, end = marks("a_table")
    page.write_text(f"a\n{begin}\nold\n{end}\nb\n")
    put(page, "a_table", "| new |")
    assert page.read_text() == f"a\n{begin}\n\n| new |\n\n{end}\nb\n"
    for text in (f"a\n{begin}\nold\n", f"{end}\n{begin}\n", f"{begin}{end}{begin}{end}"):
        page.write_text(text)
        with pytest.raises(ValueError, match=r"page\.md has not both marks, .*a_table"):
            put(page, "a_table", "| new |")
        assert page.read_text() == text


RECIPES = [*tables.RECIPES, *tables.DECODER_RECIPES]
OF_CONFIGS = [number for number in tables.PUBLISHED if number.config != tables.NO_CONFIG]


@pytest.mark.parametrize("number", [*tables.NUMBERS, *RECIPES, *OF_CONFIGS], ids=lambda n: f"{n.config} {n.what}")
def test_numbers_name_configs_and_evidence_that_exist(number):
    assert config_files(number.config)
    path = tables.RESULTS / number.evidence
    if tables.measured(number) != "not run" and number.evidence != tables.COUNTS:
        evidence = json.loads(path.read_text())
        assert {"sem_seg", "weights_sha256", "engine", "command", "scales"} <= set(evidence)


def test_numbers_without_a_config_are_never_measured():
    without = [number for number in tables.PUBLISHED if number.config == tables.NO_CONFIG]
    assert len(without) >= 10
    assert {tables.measured(number) for number in without} == {"not run"}


def test_counts_are_those_of_their_config():
    """ESeg-S, whose numbers are known exactly (tests/test_fusion_configs.py), among all records."""
    numbers = [n for n in tables.PUBLISHED if n.config.endswith("/eseg_s") and n.evidence == tables.COUNTS]
    assert [tables.measured(number) for number in numbers] == ["6.86", "33.8"]


def test_the_toy_table_prints_what_was_run(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert tables.toy_table().count("not run") == 4 * 8
    run = {"mIoU": 71.26, "params": 11_645_576, "macs": 722_097_152, "training_cpu_ratio": [1.0, 1.276, 1.5]}
    (tmp_path / "toy.json").write_text(json.dumps({"configs": {"toy/gsto": run}}))
    (row,) = [line for line in tables.toy_table().splitlines() if "toy/gsto`" in line]
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["71.3", "11.65", "0.72", "1.28"]
    assert tables.toy_table().count("not run") == 4 * 7


def test_weights_that_can_be_had_are_told():
    lines = tables.results_table().splitlines()
    for name, entry in read_table().items():
        (line,) = [line for line in lines if f"| `{name}`" in line]
        assert f"{entry.measured[tables.MIOU]:.1f}, with the package" in line
    assert len(read_table()) == sum("with the package" in line for line in lines) > 0
    elsewhere = Entry("https://example.org/w.pth", "0" * 64, {tables.MIOU: 70.0})
    assert tables.place_of(elsewhere) == "[a file](https://example.org/w.pth)"


@pytest.mark.parametrize("paper", tables.PAPERS, ids=lambda paper: paper.arxiv)
def test_papers_live_where_they_are_said_to(paper):
    assert all((PACKAGE / module).exists() for module in paper.modules.split(", "))


def test_the_reading_spine_is_short():
    """The files that projects/ScaleEq/README.md tells a newcomer to read, in all."""
    lines = (ROOT / "projects" / "ScaleEq" / "README.md").read_text().splitlines()
    spine = [line.split("`")[1] for line in lines if line[:1].isdigit()]
    assert len(spine) > 8
    assert sum(len((PACKAGE / name).read_text().splitlines()) for name in spine) <= 1300
