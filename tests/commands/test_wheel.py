"""The wheel, used from another folder: beside this Python's packages, and in an empty environment, base and extras."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from scaleeq.zoo import read_table
from tests.commands.test_console_verbs import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

MINUTES = 60  # seconds
EQUALIZE = """
import scaleeq, torch
model = scaleeq.create_model("uper", "test_resnet", num_classes=4, channels=16)
print(scaleeq.equalize(model, [torch.randn(2, 3, 64, 64)]))
"""
TYPES = """
import scaleeq
reveal_type(scaleeq.create_model)
scaleeq.create_model(1, "test_resnet", num_classes=4)
"""
Run = Callable[..., subprocess.CompletedProcess]


def build_wheel(tmp_path: Path) -> Path:
    """As `make wheel`, from a copy, so that nothing is left in the checkout."""
    source = tmp_path / "source"
    for folder in ("projects", "configs"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*pip, str(source)], check=True, timeout=4 * MINUTES)
    shutil.rmtree(source)
    (file,) = tmp_path.glob("scaleeq-*.whl")
    return file


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """install(extras) -> None, and run(*words) -> the finished process of the environment's own program."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel, environment, elsewhere = build_wheel(folder), folder / "environment", folder / "elsewhere"
    elsewhere.mkdir()
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SCALEEQ_ENGINE")}

    def run(program: str, *words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [str(environment / "bin" / program), *words],
            cwd=elsewhere, env=clean, capture_output=True, text=True, timeout=20 * MINUTES,
        )  # fmt: skip

    def install(extras: str = "") -> None:
        done = run("pip", "install", "--quiet", f"{wheel}{extras}")
        if done.returncode:
            pytest.skip(f"no package index here has what the wheel needs: {done.stderr.strip().splitlines()[-1]}")

    install()
    yield install, run, elsewhere
    shutil.rmtree(folder)


def test_installed_beside_other_packages_it_has_the_command_configs_and_weights(tmp_path):
    """Without a package index: what it needs is this Python's own."""
    wheel, installed = build_wheel(tmp_path), tmp_path / "installed"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*pip, str(installed), str(wheel)], check=True, env=environment, timeout=4 * MINUTES)

    def run(*words: str) -> str:
        command = [sys.executable, str(installed / "bin" / "scaleeq"), *words]
        here = {**environment, "PYTHONPATH": str(installed)}
        return subprocess.run(
            command, cwd=tmp_path, env=here, capture_output=True, text=True, check=True, timeout=4 * MINUTES
        ).stdout

    assert "scaleeq train" in run("--help")
    printed = run("config", "ade20k/uper_swin_tiny+scale_equalizer", "--plain", "SEED", "3")
    assert yaml.safe_load(printed)["SEED"] == 3
    counted = json.loads(run("benchmark", "toy/fpn", "--count", "--json", "--size", "64", "64"))
    assert counted["config"] == "toy/fpn" and counted["params"] > 0
    Image.new("RGB", (96, 64), (90, 90, 95)).save(tmp_path / "photo.png")
    for name, entry in read_table().items():
        assert (installed / "scaleeq" / "weights" / Path(entry.weights).name).is_file()
        assert "1 of 1 images drawn" in run("predict", name, "photo.png", "--output", "drawn")


def said(done: subprocess.CompletedProcess) -> str:
    """What a command that succeeded has printed."""
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_base_alone_trains_predicts_and_equalizes_and_extras_bring_the_rest(installed):
    install, run, here = installed
    assert "scaleeq train" in said(run("scaleeq", "--help"))
    assert "mIoU" in said(run("scaleeq", "train", "quickstart", "SOLVER.MAX_ITER", "20"))
    weights = here / "output" / "quickstart" / "model_final.pth"
    Image.new("RGB", (96, 64), (90, 90, 95)).save(here / "photo.png")
    mine = ("quickstart", "--weights", str(weights))
    assert "1 of 1 images drawn" in said(run("scaleeq", "predict", *mine, "photo.png", "--output", "mine"))
    for name in read_table():
        assert "1 of 1 images drawn" in said(run("scaleeq", "predict", name, "photo.png", "--output", "drawn"))
        assert name in said(run("scaleeq", "models", name))
    assert "spread" in said(run("python", "-c", EQUALIZE))
    assert "toy_sem_seg_val" in said(run("scaleeq", "data", "check", "toy_sem_seg_val"))
    export = ("export", *mine, "-o", "model.onnx")
    for words, extra in ((("analyze", "output/quickstart"), "reports"), (export, "export")):
        refused = run("scaleeq", *words)
        assert refused.returncode == 2 and f"scaleeq[{extra}]" in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr
    install("[reports,export]")
    said(run("scaleeq", "analyze", "output/quickstart"))
    assert (here / "output" / "quickstart" / "branch_scales.pdf").is_file()
    said(run("scaleeq", "analyze", *mine, "--batches", "1", "--output", "scales"))
    assert (here / "scales" / "scales.html").is_file()
    said(run("scaleeq", *export))
    assert (here / "model.onnx").is_file()


def test_mypy_sees_its_types(installed):
    _, run, here = installed
    (here / "uses.py").write_text(TYPES)
    python = run("python", "-c", "import sys; print(sys.executable)").stdout.strip()
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--python-executable", python, "--no-incremental", "uses.py"],
        cwd=here, capture_output=True, text=True, timeout=20 * MINUTES,
    )  # fmt: skip
    assert "Segmentation" in checked.stdout, checked.stdout + checked.stderr
    assert 'Argument 1 to "create_model" has incompatible type "int"' in checked.stdout
