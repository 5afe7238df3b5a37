"""Packages of extras: what a missing one is told by, and that setup.py installs them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools

from scaleeq.console import mistake
from scaleeq.extras import EXTRA_OF, installed, require

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def extras():
    """What setup.py gives to setuptools."""
    given = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", given.update)
        patch.chdir(ROOT)
        code = (ROOT / "setup.py").read_text()
        exec(compile(code, str(ROOT / "setup.py"), "exec"), {"__file__": str(ROOT / "setup.py")})
    return given


def distribution(requirement: str) -> str:
    return re.split(r"[<>=\[ ]", requirement)[0].lower().replace("_", "-")


def test_each_package_is_in_its_extra_and_not_in_the_base(extras):
    base = {distribution(each) for each in extras["install_requires"]}
    for package, extra in EXTRA_OF.items():
        names = {distribution(each) for each in extras["extras_require"][extra]}
        assert package.replace("_", "-") in names, (package, extra)
        assert package.replace("_", "-") not in base, package


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert not installed("jinja2") and installed("torch")
    told = "jinja2 is not installed: pip install 'scaleeq[reports]' (or jinja2)"
    with pytest.raises(ImportError) as plain:
        import jinja2  # noqa: F401
    assert mistake(plain.value) == told
    with pytest.raises(ImportError, match=re.escape(f"A page is wanted, but {told}")):
        require("jinja2", why="A page is wanted, but ")
    with pytest.raises(ModuleNotFoundError) as foreign:
        require("no_such_package_of_anybody")
    assert mistake(foreign.value) == ""


@pytest.mark.slow
def test_a_command_tells_it():
    code = "import sys; sys.modules['matplotlib'] = None; from scaleeq.__main__ import main; main()"
    command = [sys.executable, "-c", code, "analyze", "toy/fpn"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects" / "ScaleEq")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (done.returncode, done.stderr) == (
        2,
        "error: matplotlib is not installed: pip install 'scaleeq[reports]' (or matplotlib)\n",
    )
