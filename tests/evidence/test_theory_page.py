"""docs/theory.md names tests and files that exist. Oracle: the syntax trees of the test files."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "theory.md").read_text()
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
TABLE = PAGE[PAGE.index("## Fourteen checks") : PAGE.index("Decisions behind some of them")]


def defined_tests(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def missing_tests(text: str) -> list[str]:
    return [
        f"{path}::{name}"
        for path, name in NAMED.findall(text)
        if not (ROOT / path).is_file() or name not in defined_tests(ROOT / path)
    ]


def test_every_test_that_the_page_names_exists():
    assert missing_tests("`tests/test_house.py::test_gone` `tests/gone.py::test_x`") == [
        "tests/test_house.py::test_gone",
        "tests/gone.py::test_x",
    ]
    assert len(NAMED.findall(PAGE)) == len(re.findall(r"\btests/[\w/]+\.py::", PAGE)) > 40, (
        "a name is not in its grammar"
    )
    assert not missing_tests(PAGE)


@pytest.mark.parametrize("number", range(1, 15))
def test_each_of_the_fourteen_checks_names_a_test(number):
    (row,) = [line for line in TABLE.splitlines() if line.startswith(f"| {number} |")]
    assert NAMED.findall(row)


def test_every_file_that_the_page_names_exists():
    configs = set(re.findall(r"\b((?:configs|evidence/plans)/[\w/]+\.yaml)", PAGE))
    pages = set(re.findall(r"\b(docs/[\w/]+\.(?:md|json))", PAGE)) | set(re.findall(r"\b(tools/\w+\.py)", PAGE))
    images = {f"docs/{name}" for name in re.findall(r"\]\((images/[\w.]+)\)", PAGE)}
    assert len(pages) > 3 and images
    assert not [name for name in configs | pages | images if not (ROOT / name).is_file()]
