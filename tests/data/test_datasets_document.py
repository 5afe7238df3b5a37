"""docs/datasets.md: its lines of Python run as they stand, and its table has the names that are registered."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from scaleeq.data import find_dataset
from scaleeq.data.reading import read_labels
from scaleeq.engine import DatasetCatalog

from .layout_files import image, write

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
DOCUMENT = (ROOT / "docs" / "datasets.md").read_text()


def python_blocks(heading: str) -> list[str]:
    section = DOCUMENT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)


@pytest.fixture
def here(root, monkeypatch):
    monkeypatch.chdir(root)
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return root


def test_ten_lines_make_a_data_set(here):
    lines, start = python_blocks("Your own data set in ten lines of Python")
    assert sum(bool(line.strip()) for line in lines.splitlines()) <= 10
    for name in ("b", "a"):
        write(here / "my_data" / "train" / f"{name}_rgb.jpg", image(1, 3))
        write(here / "my_data" / "train" / f"{name}_ids.png", np.array([[0, 1, 2]], np.uint8))
    exec(lines, {})
    assert find_dataset("my_val").stuff_classes == ["road", "car"]
    records = DatasetCatalog.get("my_train")
    assert [record["image_id"] for record in records] == ["a", "b"]
    assert read_labels(records[0], num_classes=2).tolist() == [[255, 0, 1]]
    exec(start, {"__name__": "imported"})  # what starts a run can be imported as the document says


def test_colours_become_indexes(here):
    (lines,) = python_blocks("A folder of your own")
    (here / "my_data" / "labels" / "train").mkdir(parents=True)
    (here / "my_data" / "classes.txt").write_text("road 128 64 128\ncar 0 0 142\n")
    colors = np.array([[[0, 0, 142], [128, 64, 128], [0, 0, 0]]], np.uint8)
    write(here / "my_data" / "colors" / "a.png", colors)
    write(here / "my_data" / "images" / "train" / "a.jpg", image(1, 3))
    exec(lines, {})
    find_dataset("folder:my_data/train")
    (record,) = DatasetCatalog.get("folder:my_data/train")
    assert read_labels(record, num_classes=2).tolist() == [[1, 0, 255]]


def expanded(pattern: str) -> set[str]:
    """ "a_{b,c}" as {"a_b", "a_c"}."""
    parts = [part.split(",") for part in re.split(r"[{}]", pattern)]
    return {"".join(choice) for choice in product(*parts)}


def test_the_table_has_all_names():
    cells = [row.split("|")[1] for row in DOCUMENT.splitlines() if row.startswith("| `")]
    names = {name for cell in cells for pattern in re.findall(r"`(\w[\w{},]*)`", cell) for name in expanded(pattern)}
    code = "import scaleeq.data; from scaleeq.engine import DatasetCatalog as c, MetadataCatalog as m;"
    code += "print(*[name for name in c.list() if m.get(name).get('registered_by') == 'scaleeq'])"
    registered = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert names == set(registered.stdout.splitlines()[-1].split())
