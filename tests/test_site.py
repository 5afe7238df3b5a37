"""The site of docs/: no broken link, no page that is left out, no public name that its reference lacks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import scaleeq

ROOT = Path(__file__).parents[1]


def test_the_reference_has_every_public_name():
    listed = re.findall(r"^::: \S+\.(\w+)$", (ROOT / "docs" / "reference.md").read_text(), re.MULTILINE)
    assert set(scaleeq._HOMES) | {"get_config", "add_scaleeq_config"} <= set(listed)


@pytest.mark.slow
def test_it_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "reference" / "index.html").read_text()
    assert "scaleeq.equalization.foreign.equalize" in page and "num_images" in page
