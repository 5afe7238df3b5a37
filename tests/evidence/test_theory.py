"""The comparisons and figures of the theory, on tiny maps. Oracles: statistical errors; what the figure must show."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from evidence.theory import (
    RATIOS,
    draw_figure_3,
    measure_theory,
    random_maps,
    theory_table,
    variance_of,
    write_theory,
)
from evidence.theory_maths import RELU_VARIANCE

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rows():
    return measure_theory(size=16, maps=16, steps=3)


def test_every_comparison_is_measured_and_near_its_closed_form(rows):
    """Off by sampling alone: some per cent at this size, where the factors span 0.39 to 1."""
    assert {name: len(each) for name, each in rows.items()} == {
        "figure_3": 3 * len(RATIOS),
        "ratio": 2 * len(RATIOS),
        "correlation": 2 * 2 * 7,
        "border": 2 * 8,
        "bins": 2 * 4,
    }
    for name, each in rows.items():
        assert max(abs(row["difference"]) for row in each) < 0.12, name
    assert min(row["predicted"] for row in rows["ratio"]) < 0.45
    assert all(row["measured"] == pytest.approx(1, abs=1e-5) for row in rows["ratio"] if row["ratio"] == 1)


def test_the_measurement_does_not_know_the_closed_form():
    """With the wrong way of placing pixels measured and predicted differ far beyond sampling."""
    maps = random_maps(8, maps=256)
    aligned, plain = (variance_of(maps, 16, align_corners=a) for a in (True, False))
    assert abs(aligned / plain - 1) > 0.05


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_random_maps_have_the_variance_and_the_correlations_that_they_say(rho):
    x = random_maps(24, maps=200, rho=rho).double()
    assert float(x.var()) == pytest.approx(1, abs=0.05)
    for shifted, still in ((x[..., 1:], x[..., :-1]), (x[..., 1:, :], x[..., :-1, :])):
        assert float((shifted * still).mean()) == pytest.approx(rho, abs=0.05)
    assert torch.equal(random_maps(24, maps=3, rho=rho), random_maps(24, maps=3, rho=rho))


def test_variance_is_the_population_variance_of_all_maps_together():
    maps = random_maps(5, maps=7) + torch.arange(7.0).view(-1, 1, 1, 1)
    assert variance_of(maps, 5) == pytest.approx(float(maps.double().var(correction=0)), rel=1e-6)


def test_figure_3_has_a_line_a_ratio_its_points_and_the_relu_unit(rows):
    (axis,) = draw_figure_3(rows["figure_3"]).axes
    *lines, unit = axis.get_lines()
    assert len(lines) == 2 * len(RATIOS)
    assert unit.get_linestyle() == ":"
    assert list(unit.get_xdata()) == [RELU_VARIANCE] * 2
    not_upsampled = lines[0]
    assert list(not_upsampled.get_xdata()) == pytest.approx(list(not_upsampled.get_ydata()))


def test_the_page_holds_the_table_of_the_evidence():
    evidence = json.loads((ROOT / "docs" / "results" / "theory.json").read_text())
    table = theory_table(evidence)
    assert len(table.splitlines()) == 2 + 5 + 7 + 4
    assert table in (ROOT / "docs" / "theory.md").read_text(), (
        "print it again: theory_table of docs/results/theory.json"
    )


def test_files_are_written_with_all_numbers(tmp_path):
    summary = write_theory(tmp_path / "new", size=4, maps=8, steps=1)
    content = json.loads((tmp_path / "new" / "theory.json").read_text())
    assert set(content["ratio"][0]) == {"ratio", "rho", "align_corners", "measured", "predicted", "difference"}
    assert content["relu_variance"] == RELU_VARIANCE
    for name in ("figure_3.png", "upsampled_variance.png"):
        with Image.open(tmp_path / "new" / name) as picture:
            assert picture.width > 600
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 10
        assert str(tmp_path / "new" / name) in summary
    assert "figure_3: 5 comparisons, largest difference" in summary


@pytest.mark.slow
def test_the_command_draws_the_theory(tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "analyze_scales.py"), "--theory", "--output", str(tmp_path / "t")]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {path.name for path in (tmp_path / "t").iterdir()} == {
        "theory.json",
        "figure_3.png",
        "upsampled_variance.png",
    }
    assert "ratio: 10 comparisons" in printed
    evidence = json.loads((ROOT / "docs" / "results" / "theory.json").read_text())
    again = json.loads((tmp_path / "t" / "theory.json").read_text())
    assert [row["measured"] for row in again["ratio"]] == pytest.approx(
        [row["measured"] for row in evidence["ratio"]], rel=1e-5
    )
