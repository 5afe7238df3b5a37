"""The door: what is chosen, when it is refused, what the report command says. Each case in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scaleeq import engine
from scaleeq.engine import standalone
from scaleeq.engine.__main__ import main, package_version
from tests.engine.running_sides import has_detectron2

PROJECT = Path(engine.__file__).parents[2]


def run(*arguments: str, setting: str | None = None, first_on_path: Path | None = None) -> Any:
    """python with the project, and before it perhaps another folder, on its path; its exit code and output."""
    path = [str(folder) for folder in (first_on_path, PROJECT) if folder is not None]
    environment = {name: value for name, value in os.environ.items() if name != "SCALEEQ_ENGINE"}
    environment |= {"PYTHONPATH": os.pathsep.join(path), "PYTHONWARNINGS": "ignore"}
    environment |= {} if setting is None else {"SCALEEQ_ENGINE": setting}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=240)


def without_detectron2(folder: Path) -> Path:
    """A folder whose sitecustomize hides an installed Detectron2: finders see no package of that name."""
    (folder / "sitecustomize.py").write_text(
        "import importlib.util as u, sys\n"
        "original = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name == 'detectron2' else original(name, package)\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'detectron2':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    return folder


REPORT = ("-m", "scaleeq.engine")
CHOOSE = ("-c", "import sys, scaleeq.engine as e; print(e.choose_engine('auto'), 'torch' in sys.modules)")
CODE = """
import logging, sys
logging.basicConfig(level="INFO", format="%(name)s %(message)s")
from scaleeq import engine
from scaleeq.engine import CfgNode, launch, load_config
assert engine.NAME == engine.NAME and engine.FEATURES.detection == (engine.NAME == "detectron2")
print(engine.NAME, CfgNode.__module__.split(".")[0], "detectron2.engine" in sys.modules)
"""


def test_standalone_is_chosen_by_force_and_logged_once() -> None:
    result = run("-c", CODE, setting="standalone")
    assert result.stdout.split() == ["standalone", "scaleeq", "False"], result.stderr
    assert result.stderr.count("scaleeq.engine engine: standalone") == 1


@pytest.mark.skipif(not has_detectron2(), reason="Detectron2 is not installed")
def test_detectron2_is_chosen_where_it_is() -> None:
    result = run("-c", CODE)
    assert result.stdout.split() == ["detectron2", "detectron2", "True"], result.stderr
    assert result.stderr.count("scaleeq.engine engine: detectron2") == 1
    assert [engine.choose_engine(setting) for setting in ("auto", "detectron2")] == ["detectron2"] * 2


def test_auto_takes_standalone_where_detectron2_is_absent(tmp_path: Path) -> None:
    result = run(*CHOOSE, first_on_path=without_detectron2(tmp_path))
    assert result.stdout.split() == ["standalone", "False"], result.stderr


def test_forced_detectron2_never_falls_back(tmp_path: Path) -> None:
    result = run(*REPORT, setting="detectron2", first_on_path=without_detectron2(tmp_path))
    assert result.returncode == 1
    assert "No engine: SCALEEQ_ENGINE=detectron2, but Detectron2 is not installed" in result.stderr
    assert engine.INSTALL_PAGE in result.stderr


def test_a_bare_folder_of_that_name_is_not_an_installation(tmp_path: Path) -> None:
    (tmp_path / "detectron2" / "engine").mkdir(parents=True)
    code = "import sys; sys.path = [p for p in sys.path if 'site-packages' not in p]; "
    code += "import scaleeq.engine as e; print(e.is_detectron2_installed())"
    assert run("-c", code, first_on_path=tmp_path).stdout.strip() == "False"
    (tmp_path / "detectron2" / "__init__.py").touch()
    assert run("-c", code, first_on_path=tmp_path).stdout.strip() == "True"


@pytest.mark.parametrize("setting", ["auto", "detectron2"])
@pytest.mark.parametrize("fault", ["raise RuntimeError('no such symbol')", "import a_module_that_is_not_there", ""])
def test_a_broken_detectron2_raises_with_its_cause(setting: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "detectron2" / "engine").mkdir(parents=True)
    (tmp_path / "detectron2" / "__init__.py").touch()
    if fault:  # without it: an engine that imports, in a package without the names of the contract
        (tmp_path / "detectron2" / "engine" / "__init__.py").write_text(fault)
    result = run("-c", "from scaleeq.engine import CfgNode", setting=setting, first_on_path=tmp_path)
    assert result.returncode == 1
    assert "ImportError" in result.stderr or "ModuleNotFoundError" in result.stderr
    assert ("is installed but does not import" if fault else "detectron2.config") in result.stderr
    assert {"r": "RuntimeError: no such symbol", "i": "No module named 'a_module", "": ""}[fault[:1]] in result.stderr


def test_unknown_setting_lists_the_choices() -> None:
    with pytest.raises(ValueError, match="SCALEEQ_ENGINE='d2' is not one of auto, detectron2, standalone"):
        engine.choose_engine("d2")
    result = run(*REPORT, setting="d2")
    assert result.returncode == 1
    assert result.stderr.startswith("No engine: SCALEEQ_ENGINE='d2'")


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'DefaultTrainer'"):
        engine.DefaultTrainer  # noqa: B018
    assert {"CfgNode", "load_config", "NAME"} <= set(dir(engine))
    assert {"CfgNode", "launch", "comm"} <= set(dir(standalone)), "also those that are imported when they are asked for"


def test_report_names_engine_versions_and_devices() -> None:
    result = run(*REPORT, "--require", "standalone", setting="standalone")
    assert result.returncode == 0, result.stderr
    words = [line.partition(":")[0] for line in result.stdout.splitlines()]
    assert words == ["engine", "python", "torch", "torchvision", "timm", "detectron2", "devices"]
    assert result.stdout.startswith("engine: standalone 0.6 (SCALEEQ_ENGINE=standalone)\n")


def test_a_package_that_is_not_there_is_said_to_be_missing() -> None:
    assert package_version("torch")[0].isdigit()
    assert package_version("no-package-of-this-name") == "not installed"


def test_report_fails_for_another_engine_than_required(capsys: pytest.CaptureFixture[str]) -> None:
    other = "standalone" if engine.NAME == "detectron2" else "detectron2"
    assert main(["--require", engine.NAME]) == 0
    assert main(["--require", other]) == 1
    way_out = f"set SCALEEQ_ENGINE={other}"
    if not has_detectron2():
        way_out = f"Detectron2 is not installed; see {engine.INSTALL_PAGE}"
    assert f"The engine is {engine.NAME}, required was {other}: {way_out}" in capsys.readouterr().err
