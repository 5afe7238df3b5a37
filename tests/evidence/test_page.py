"""docs/evidence.md is the printed one, and its numbers are those of the file. Oracle: parts of a study by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evidence import page, probe_figures, probe_tables
from evidence.probes import results as results_of
from evidence.probes import study
from evidence.probes.features import extract
from evidence.probes.results import Results, interval
from scaleeq.data.sets.toy3d import render_scene
from scaleeq.experiments.statistics import paired_difference

ROOT = Path(__file__).parents[2]
ABOUT = {
    "command": "python -m evidence.probe run",
    "branches": {
        "net/res2": {"channels": 10, "mean": 0.1, "std": 2.0},
        "net/res5": {"channels": 40, "mean": 0.0, "std": 1.0},
    },
    "batch": {"images": 8, "pixels_of_each": 32}, "held_out_images": [297, 366],
    "pixels_scored_an_image": {"held out": 200, "val": 200},
}  # fmt: skip


def part(cell, kind, seed, fusions):
    """fusions: (arm, dose, rate, mIoU)."""
    arm, dose, rate, miou = (list(column) for column in zip(*fusions, strict=True))
    line = {"cell": cell, "kind": kind, "seed": seed, "steps": 1, "arm": arm, "dose": dose, "rate": rate, "miou": miou}
    return line | ({"loss": [0.0] * len(arm)} if kind == "val" else {})


def results(cell="res5/linear/SGD"):
    lines = [{"about": ABOUT}]
    lines.append(part(cell, "held out", 100, [("off", 1.0, 0.01, 40.0), ("off", 1.0, 0.1, 50.0)]))
    lines.append(part(cell, "held out", 101, [("off", 1.0, 0.01, 55.0), ("off", 1.0, 0.1, 40.0)]))
    for seed, off in enumerate((50.0, 51.0, 53.0)):
        fusions = [("off", 1.0, 0.01, off), ("off", 100.0, 1e-6, off - 10), ("equalized", 1.0, 0.1, off + 1)]
        lines.append(part(cell, "val", seed, [*fusions, ("equalized", 100.0, 0.1, off + 1 + seed)]))
    return Results(lines)


def test_rates_are_chosen_by_the_mean_over_held_out_seeds():
    found = results()
    assert found.rates_chosen("res5/linear/SGD") == {("off", 1.0): 0.01}
    assert found.count() == 4 + 12


def test_differences_are_paired_over_seeds():
    found = results()
    own = found.gain("res5/linear/SGD", "off", 100.0)
    by_hand = paired_difference([11.0, 12.0, 13.0])
    assert own == by_hand and interval(own) == "+12.00 ± 2.48"
    assert interval(paired_difference([1.0])) == "+1.00" and interval(paired_difference([])) == "not run"
    assert found.gain("res2/linear/SGD", "off", 100.0).n == 0


def test_energy_is_width_times_variance():
    found = results()
    assert found.energy_share(-1, 1.0) == pytest.approx(50)
    assert found.energy_share(0, 10.0) == pytest.approx(100 * 100 / 101)
    assert found.energy_share(-1, 0.1) == pytest.approx(100 / 101)
    assert [probe_tables.share(percent) for percent in (97.3, 0.312, 99.987, 18.04)] == [
        "97 %", "0.31 %", "99.99 %", "18 %",
    ]  # fmt: skip


def test_every_gain_of_a_text_is_quoted_and_adjusted_for():
    gains = "{{gain res5/linear/SGD off 100}} and {{gain res5/linear/SGD off}}; {{gain natural/sum/SGD off}}"
    text = gains + "\n{{table quoted}}"
    printed = page.page(results(), text)
    assert printed.startswith("+12.00 ± 2.48 and +1.00 ± 0.00; not run\n")
    (row,) = [line for line in printed.splitlines() if "res5 x 100: equalized - off" in line]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[1:3] == ["+12.00 ± 2.48", "3"]
    assert cells[4] == "0.002"  # Holm: of two, the smaller p is that of x 1, which is 0
    with pytest.raises(KeyError):
        page.page(results(), "{{nothing}}")


def test_a_gain_is_marked_whose_rate_is_at_the_edge():
    found = results()
    for line in found.lines[3:]:
        line["rate"][1] = study.CELLS["res5/linear/SGD"].rates("off", 100.0)[-1]  # of off x 100
    text = "{{gain res5/linear/SGD off 100}} {{gain res5/linear/SGD off}}\n{{table quoted}}"
    printed = page.page(found, text)
    assert "res5 x 100: equalized - off (edge) |" in printed and "res5 x 1: equalized - off " in printed
    assert printed.count("(edge)") == 1 and "(edge)" not in page.page(results(), text)


def test_variants_have_names_that_can_be_read():
    patterns = ("psp_*_x100_equalized", "uper_*", "*")
    assert [page.of_variants(pattern) for pattern in patterns] == ["psp x100", "uper", "all"]


def test_tables_name_what_was_not_run():
    assert "not run" in probe_tables.dose_table(results(), "res5/linear/SGD")
    assert probe_tables.dose_table(results(), "res5/hidden/SGD") == "not run"
    assert "+12.00" in probe_tables.energy_table(results()) and "not run" in probe_tables.energy_table(results())


def test_figures_are_written_as_pictures_and_scalable(tmp_path):
    written = probe_figures.write_figures(probe_figures.drawn(results()), tmp_path)
    assert [path.name for path in written] == [
        "dose_response.png", "dose_response.pdf", "energy_shares.png", "energy_shares.pdf",
    ]  # fmt: skip
    assert all(path.stat().st_size > 5000 for path in written)


def test_a_study_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    """Of a tiny cell: the second start trains what the first has not, and each part is a line."""
    random = np.random.default_rng(0)
    for split, images in (("train", 305), ("val", 3)):
        np.save(tmp_path / f"labels.{split}.npy", random.integers(0, 12, (images, 4, 6)).astype(np.uint8))
        for index, width in enumerate((2, 3)):
            level = random.standard_normal((images, 4, 6, width)).astype(np.float16)
            np.save(tmp_path / f"{study.LITE0}.{split}.{index}_res{index}.npy", level)
    cell = study.Cell("natural", "linear", "SGD", 3, {"off": (1.0, 10.0), "equalized": (1.0,)}, (-2, -1.5), seeds=3)
    monkeypatch.setattr(study, "CELLS", {cell.title: cell})
    path = tmp_path / "probes.jsonl"
    said = []
    study.Study(path, tmp_path, command="c", say=said.append).run([cell], seeds=1)
    assert len(said) == 3 and len(study.read(path)) == 4
    first = path.read_text()
    study.Study(path, tmp_path, command="c", say=said.append).run([cell])
    assert len(said) == 5 and path.read_text().startswith(first)
    lines = study.read(path)
    assert lines[0]["about"]["command"] == "c" and len(lines[0]["about"]["features"]) == 6
    assert lines[-1]["arm"] == ["off", "off", "equalized"] and lines[-1]["seed"] == 2
    found = Results(lines)
    assert set(found.values(cell.title, "equalized")) == {0, 1, 2}
    tried = lines[1]
    assert [rate for arm, dose, rate in zip(tried["arm"], tried["dose"], tried["rate"], strict=True) if dose == 10] == [
        0.0001, 0.0003162,
    ]  # fmt: skip


def test_a_cell_of_other_data_tells_of_its_branches_once(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    place = study.place_of(tmp_path, study.TOY3D)
    for split, images in (("train", 305), ("val", 3)):
        np.save(place / f"labels.{split}.npy", random.integers(0, 5, (images, 4, 6)).astype(np.uint8))
        for network, std in ((study.LITE0, 2.0), (study.DEPTH_MM, 1000.0)):
            level = std * random.standard_normal((images, 4, 6, 1))
            np.save(place / f"{network}.{split}.0_level.npy", level.astype(np.float16))
    of_depth = {"networks": (study.LITE0, study.DEPTH_MM), "data": study.TOY3D, "larger": 500.0, "extra": True}
    arms = {"off": study.IN_METRES, "equalized": (1.0,)}
    cell = study.Cell("depth", "linear", "SGD", 2, arms, (-2, -1.5), seeds=2, **of_depth)
    assert cell.rates("off", 1.0) == [3.162e-08, 1e-07]  # 2 * log10(500) = 5.4 decades lower, in half ones
    assert cell.rates("off", 0.001) == cell.rates("equalized", 1.0) == [0.01, 0.03162]
    monkeypatch.setattr(study, "CELLS", {cell.title: cell})
    monkeypatch.setattr(results_of, "CELLS", {cell.title: cell})
    path = tmp_path / "probes.jsonl"
    path.write_text(json.dumps({"about": ABOUT}) + "\n")
    study.Study(path, tmp_path, command="c", say=str).run([cell])
    lines = study.read(path)
    assert [sorted(line)[0] for line in lines] == ["about", "also", *["arm"] * 4]
    assert len(lines[1]["also"]["features"]) == 6
    found = Results(lines)
    widths = {name: branch["channels"] for name, branch in found.branches("depth").items()}
    assert widths == {f"{study.LITE0}/level": 1, f"{study.DEPTH_MM}/level": 1}
    assert found.energy_share(-1, 1.0, "depth") > 99.9 > 60 > found.energy_share(-1, 0.001, "depth")
    printed = probe_tables.natural_table(found, "depth")
    assert "off x 0.001" in printed and "| 2 " in printed
    assert f"{study.DEPTH_MM}, level" in probe_tables.branches_table(found, "depth")
    assert probe_tables.natural_table(found, "two") == "not run"


def test_depth_in_millimetres_is_that_of_the_scenes(tmp_path):
    (path,) = extract(study.DEPTH_MM, "val", tmp_path, data=study.TOY3D, images=2)
    found = np.load(path)
    scene = render_scene("val", 1)
    assert found.shape == (2, 32, 32, 1) and found.dtype == np.float16
    assert found[1, 5, 7, 0] == pytest.approx(1000 * scene.depth[22, 30], rel=1e-3)
    labels = np.load(path.with_name("labels.val.npy"))
    assert labels[1, 5, 7] == scene.labels[22, 30] and labels.max() < 5


@pytest.mark.skipif(not page.RESULT.is_file(), reason="nothing was run")
def test_the_page_is_the_printed_one():
    found = Results(study.read(page.RESULT))
    assert page.PAGE.read_text() == page.page(found, page.TEXT.read_text()), "print it again: python -m evidence.page"
    assert page.summary(found) in (ROOT / "README.md").read_text(), "README's sentences: python -m evidence.page"
    text = page.RESULT.read_text()
    assert "/tmp/" not in text and "/root/" not in text
    assert all(
        set(json.loads(line)) - {"about"} or "features" in json.loads(line)["about"] for line in text.splitlines()
    )
