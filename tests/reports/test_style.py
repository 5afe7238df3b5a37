"""How drawings look. Oracles: models of colour blindness (Machado and others, 2009), sys.modules, XML, files' heads."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from scaleeq.reports.style import LINES, PALETTE, SERIES, drawing, grouped_bars, look, to_svg, write_figure

# Linear RGB as people without one kind of cone see it.
BLINDNESS = {
    "none": np.eye(3).tolist(),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(color: str, blindness: str) -> np.ndarray:
    rgb = np.array([int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(BLINDNESS[blindness]) @ linear, 0, 1)
    x, y, z = np.cbrt(XYZ @ seen / XYZ.sum(axis=1))  # no colour here is so dark that Lab is linear
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def nearest(colors, blindness: str) -> float:
    """The least distance of two colours in CIE Lab, where 2.3 is just noticeable."""
    pairs = itertools.combinations(colors, 2)
    return min(float(np.linalg.norm(lab(a, blindness) - lab(b, blindness))) for a, b in pairs)


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_everybody_tells_the_colours_apart(blindness):
    assert nearest(["#777777", "#ffffff"], "none") == pytest.approx(50, abs=0.1)  # a grey's lightness
    assert nearest(PALETTE, blindness) > 15
    assert nearest(SERIES.values(), blindness) > 15
    assert nearest(["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd"], "protanopia") < 8, "matplotlib's own"


def test_series_beyond_the_palette_have_another_line():
    looks = [tuple(look(index).values()) for index in range(len(PALETTE) * len(LINES))]
    assert len(set(looks)) == len(looks)


def test_the_style_ends_with_the_drawing():
    before = dict(matplotlib.rcParams)
    with drawing(3, 2, axes_grid_axis="x") as (_, axes):
        assert len(axes) == 1 and matplotlib.rcParams["axes.grid.axis"] == "x"
    assert dict(matplotlib.rcParams) == before


def test_bars_stand_where_their_place_is():
    with drawing(3, 2) as (figure, [axis]):
        grouped_bars(axis, {"a": {"p2": 1.0, "p3": 2.0}, "_$b": {"p3": 3.0}}, {"a": "red", "_$b": "blue"})
        assert [bar.get_x() + bar.get_width() / 2 for bar in axis.patches] == pytest.approx([-0.2, 0.8, 1.2])
        assert [bar.get_height() for bar in axis.patches] == [1, 2, 3]
        assert [label.get_text() for label in axis.get_xticklabels()] == ["p2", "p3"]
        assert len(axis.legend().get_texts()) == 2
        ElementTree.fromstring(to_svg(figure))


@pytest.mark.parametrize(("kind", "head"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_files_are_of_their_suffix_and_the_same_every_time(tmp_path, kind, head):
    for name in ("one", "two"):
        with drawing(3, 2) as (figure, [axis]):
            axis.plot([1, 2], [3, 4])
            write_figure(figure, tmp_path / "new" / f"{name}.{kind}")
    one, two = ((tmp_path / "new" / f"{name}.{kind}").read_bytes() for name in ("one", "two"))
    assert one == two and one.startswith(head)
    assert len(list((tmp_path / "new").iterdir())) == 2


DRAW = """
import sys
from pathlib import Path
import scaleeq.reports.comparison_page, scaleeq.reports.data, scaleeq.reports.scales_page
from scaleeq.reports.scales_drawing import plot_branch_scales
fusions = {"head": {"branches": {"p2": {"std": 1.0}}}}
plot_branch_scales({"at_start": {"fusions": fusions}}, [Path(sys.argv[1])])
import matplotlib
assert "matplotlib.pyplot" not in sys.modules
assert dict.__getitem__(matplotlib.rcParams, "backend") == "template"
"""


def test_a_users_backend_and_figures_are_left_alone(tmp_path):
    """In a process of its own: no pyplot is imported, and the backend is still the one that was asked for."""
    command = [sys.executable, "-c", DRAW, str(tmp_path / "a.svg")]
    environment = os.environ | {"MPLBACKEND": "template"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.svg").is_file()
