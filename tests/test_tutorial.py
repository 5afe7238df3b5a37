"""docs/tutorial.md: its files, lines of Python and commands, in their order and as they stand, in an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from scaleeq.__main__ import find_verb

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "tutorial.md").read_text()


def blocks() -> list[tuple[str, str]]:
    """What stands after the three quotes, and the text, of every block of the page."""
    return [(token.info, token.content) for token in MarkdownIt("commonmark").parse(PAGE) if token.type == "fence"]


def test_the_page_has_the_whole_way():
    commands = [line.split()[1:] for info, text in blocks() if info == "bash" for line in text.splitlines()]
    verbs = [find_verb(words)[0] for words in commands if words[0] in ("data", "analyze", "train", "eval", "predict")]
    assert verbs == ["data check", "analyze", "train", "analyze", "eval", "predict"]
    assert {info.split()[0] for info, _ in blocks()} == {"bash", "python", "yaml"}


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_all_of_it_runs(tmp_path):
    pytest.importorskip("onnxruntime")
    program = tmp_path / "bin" / "scaleeq"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m scaleeq "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects" / "ScaleEq"), "OMP_NUM_THREADS": "1"}
    environment |= {"PATH": f"{program.parent}:{os.environ['PATH']}", "DETECTRON2_DATASETS": str(tmp_path / "here")}
    here = tmp_path / "here"
    here.mkdir()
    printed = ""
    for info, text in blocks():
        if info.startswith("yaml"):
            (here / re.findall('title="(.+)"', info)[0]).write_text(text)
            continue
        command = [sys.executable, "-c", text] if info == "python" else ["bash", "-ec", text]
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        printed += done.stdout
    # What the page says is there.
    results = json.loads((here / "output" / "eval" / "inference" / "results.json").read_text())
    assert results["num_images"] == 8 and 0 < results["sem_seg"]["mIoU"] < 100
    pages = [
        "scales/scales.html",
        "my_data/branch_scales.svg",
        "predictions/index.html",
        "sheet_1.png",
        "sheet_2.png",
        "labels.png",
    ]
    assert all((here / "output" / page).stat().st_size for page in pages)
    assert "equals the model at" in printed and "8 of 8 images drawn" in printed
