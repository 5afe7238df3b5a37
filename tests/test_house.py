"""The rules of the house: who imports whom, how long a file may be, what a config may say, what is installed."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from scaleeq.config.parts import DERIVED, config_files, section

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ROOT / "projects" / "ScaleEq"
PACKAGE = PROJECT / "scaleeq"
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
PURE = ("ops", "layers", "fusion")


def python_files() -> list[Path]:
    folders = [PACKAGE, ROOT / "tools", ROOT / "evidence", ROOT / "tests"]
    return sorted(path for folder in folders if folder.is_dir() for path in folder.rglob("*.py"))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{PROJECT}{os.pathsep}{ROOT}"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)


# --- sizes ---


def test_files_are_short():
    lengths = {path: len(path.read_text().splitlines()) for path in python_files()}
    assert PACKAGE / "__init__.py" in lengths, "the search for source files finds nothing"
    too_long = [f"{path.relative_to(ROOT)}: {n}" for path, n in lengths.items() if n > MAX_FILE_LINES]
    assert not too_long, f"longer than {MAX_FILE_LINES} lines"


def long_functions(source: str, limit: int = MAX_FUNCTION_LINES) -> list[str]:
    """The functions of `source` that are longer than `limit` lines, as "name: lines"."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    lengths = [(node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions]
    return [f"{name}: {lines}" for name, lines in lengths if lines > limit]


def test_functions_are_short():
    assert long_functions("def a():\n    x = 1\n    return x\n", limit=2) == ["a: 3"]
    found = {str(path.relative_to(ROOT)): long_functions(path.read_text()) for path in python_files()}
    assert not {path: names for path, names in found.items() if names}, f"longer than {MAX_FUNCTION_LINES} lines"


# --- imports ---


def test_imports_run_one_way():
    """import-linter, with the contracts of pyproject.toml."""
    program = shutil.which(
        "lint-imports", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    )
    assert program, "lint-imports is missing: pip install -e .[test]"
    result = run(program, "--no-cache")
    assert result.returncode == 0, result.stdout + result.stderr


def imported_packages(source: str) -> Iterator[str]:
    """Top-level names of everything that `source` imports, function bodies included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def test_pure_packages_import_torch_and_torchvision_alone():
    """import-linter can only forbid names that it is told; this one refuses any other."""
    assert set(imported_packages("import numpy.random\ndef f():\n    from timm import x")) == {"numpy", "timm"}
    allowed = {"torch", "torchvision", "scaleeq", *sys.stdlib_module_names}
    strangers = {
        str(path.relative_to(PACKAGE)): names
        for package in PURE
        for path in [*(PACKAGE / package).rglob("*.py"), PACKAGE / f"{package}.py"]
        if path.is_file() and (names := set(imported_packages(path.read_text())) - allowed)
    }
    assert not strangers


def imports_of_the_other_kind(path: Path, root: Path = PACKAGE) -> list[str]:
    """Where a module of the package under `root` imports its own room absolutely, or leaves it relatively.

    A room is a folder of the package; a module beside the rooms is in none, and imports everything absolutely.
    """
    package = (root.name, *path.relative_to(root).parts[:-1])
    room = f"{root.name}.{package[1]}." if len(package) > 1 else ""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) + "." if node.level else ""
            is_inside = f"{start}{node.module or ''}.".startswith(room) if room else False
            if bool(node.level) != is_inside:
                found.append(f"{'.' * node.level}{node.module or ''}")
        elif isinstance(node, ast.Import) and room:
            found += [alias.name for alias in node.names if f"{alias.name}.".startswith(room)]
    return found


def test_imports_are_relative_inside_a_room_and_absolute_across_rooms(tmp_path):
    wrong = "from .c import d\nfrom ..b.c import d\nfrom scaleeq.a.c import d\nimport scaleeq.a.c\n"
    right = "from scaleeq.b import c\nfrom . import e\nfrom .e.f import g\nimport scaleeq.b\n"
    (tmp_path / "scaleeq" / "a").mkdir(parents=True)
    module = tmp_path / "scaleeq" / "a" / "m.py"
    module.write_text(wrong + right)
    assert imports_of_the_other_kind(module, tmp_path / "scaleeq") == ["..b.c", "scaleeq.a.c", "scaleeq.a.c"]
    found = {path.relative_to(PACKAGE).parts: imports_of_the_other_kind(path) for path in PACKAGE.rglob("*.py")}
    assert not {"/".join(parts): names for parts, names in found.items() if names}


def test_importing_scaleeq_imports_no_engine():
    code = (
        "import sys; from scaleeq import Fusion, ScaleEqualizer, calibrate, equalize, fold_equalizers;"
        "print([name for name in sys.modules if name.startswith(('detectron2', 'fvcore', 'scaleeq.engine'))])"
    )
    result = run(sys.executable, "-c", code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


def test_only_scaleeq_is_importable_beside_itself():
    """The folder is put on sys.path by an editable installation: whatever lies there could be imported by anybody."""
    importable = {p.stem for p in PROJECT.iterdir() if p.suffix == ".py" or (p.is_dir() and p.name.isidentifier())}
    assert importable - {"__pycache__"} == {"scaleeq"}


# --- configs ---


def literal(value: object) -> object:
    """The value as the config reader sees it: "(1, 2)" and "1e-3" are read as Python literals, tuples equal lists."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return [literal(item) for item in value] if isinstance(value, list | tuple) else value


def flat(tree: dict, prefix: str = "") -> dict[str, object]:
    """{"SOLVER": {"MAX_ITER": 3}} as {"SOLVER.MAX_ITER": 3}."""
    leaves: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = literal(value)
    return leaves


def resolved(path: Path) -> tuple[dict[str, object], dict[str, object]]:
    """The leaves that a config, or a section of one, states, and those that its chain of bases states."""
    file, name = section(path)
    tree = yaml.safe_load(file.read_text()) or {}
    own = flat(tree[name] if name else tree)
    bases = own.pop("_BASE_", None) or []
    inherited: dict[str, object] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        for part in config_files(str(base), path.parent):
            stated, before = resolved(part)
            inherited |= before | stated
    return own, inherited


def repeated_keys(path: Path) -> list[str]:
    own, inherited = resolved(path)
    return [key for key, value in own.items() if key in inherited and inherited[key] == value]


def test_repeated_keys_are_found(tmp_path):
    (tmp_path / "a.yaml").write_text("SOLVER:\n  MAX_ITER: 3\n  STEPS: (1, 2)\n  BASE_LR: 0.001\n")
    (tmp_path / "b.yaml").write_text("_BASE_: a.yaml\nSOLVER: {MAX_ITER: 4}\n")
    (tmp_path / "c.yaml").write_text("_BASE_: b.yaml\nSOLVER: {MAX_ITER: 3, STEPS: [1, 2], BASE_LR: 1e-3}\nSEED: 1\n")
    assert repeated_keys(tmp_path / "c.yaml") == ["SOLVER.STEPS", "SOLVER.BASE_LR"]


CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.name != DERIVED)
SECTIONS = [ROOT / "configs" / DERIVED / name for name in yaml.safe_load((ROOT / "configs" / DERIVED).read_text())]


@pytest.mark.parametrize("path", [*CONFIGS, *SECTIONS], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_config_says_only_what_differs(path):
    assert repeated_keys(path) == [], "these repeat the base"


@pytest.mark.parametrize("module", ["scaleeq.segmentor", "scaleeq.training", "scaleeq.create"])
def test_what_takes_a_second_to_import_waits_for_its_use(module):
    """torch's compiler, which torchvision's operators import, and timm."""
    code = (
        f"import sys, {module}; "
        "print([name for name in ('torch._dynamo', 'torchvision.ops', 'timm') if name in sys.modules])"
    )
    environment = {**os.environ, "SCALEEQ_ENGINE": "standalone"}  # Detectron2 imports torchvision's operators itself
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "[]"
