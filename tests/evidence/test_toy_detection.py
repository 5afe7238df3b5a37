"""The evidence file of the detectors' pyramids, and its table. Oracle: the comparison that it is made of, by hand."""

from __future__ import annotations

import json

import pytest

from evidence import toy_detection
from evidence.printed import between, marks
from scaleeq.experiments.execute import run_folder
from scaleeq.experiments.plan import read_plan
from scaleeq.experiments.summary import summarize_comparison
from scaleeq.files import write_json
from tests.experiments.folders import write_values

PLAN = toy_detection.ROOT / "configs" / "ablations" / "toy_detection.yaml"
# Variant -> box and mask AP50 of each seed; the last has not been run.
VALUES = {
    "fpn": ([60.0, 61.0, 62.0], [50.0, 52.0, 54.0]),
    "fpn_equalized": ([62.0, 64.0, 63.0], [50.0, 52.0, 54.0]),
    "fapn": ([60.5, 61.5, 62.5], [51.0, 53.0, 55.0]),
}


def test_the_file_and_the_page_hold_what_the_comparison_says(tmp_path, monkeypatch, capsys):
    plan = read_plan(PLAN, seeds=[0, 1, 2])
    for variant in plan.variants:
        for seed in plan.seeds if variant.name in VALUES else ():
            box, mask = (of[seed] for of in VALUES[variant.name])
            write_values(run_folder(tmp_path, variant, seed), {"bbox/AP50": box, "segm/AP50": mask})
    write_json(tmp_path / "comparison.json", summarize_comparison(plan, tmp_path))
    monkeypatch.setattr(toy_detection, "RESULT", tmp_path / "toy_detection.json")
    monkeypatch.setattr(toy_detection, "PAGE", tmp_path / "page.md")
    page = "a\n{}\nold\n{}\nb\n".format(*marks("detectors_table"))
    toy_detection.PAGE.write_text(page)
    monkeypatch.setattr("sys.argv", ["toy_detection", str(tmp_path), "--code", "abc"])
    toy_detection.main()
    saved = json.loads(toy_detection.RESULT.read_text())
    assert saved["code"] == "commit abc" and saved["command"].endswith("toy_detection.yaml --seeds 0 1 2")
    table = toy_detection.detectors_table(saved)
    assert table in capsys.readouterr().out
    assert toy_detection.PAGE.read_text() == between(page, "detectors_table", table)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    rows = {name: cells for name, *cells in lines}
    assert rows["fpn"] == ["61.0 ± 1.0", "-", "52.0 ± 2.0", "-", "3"]
    assert rows["fpn, equalized"][0] == "63.0 ± 1.0"
    # Differences 2, 3, 1: their mean 2, half the interval 4.303 / sqrt(3).
    assert rows["fpn, equalized"][1] == "to fpn: +2.00 (-0.48 to +4.48)"
    assert rows["fapn"][1].startswith("to fpn: +0.50") and rows["fapn"][2] == "53.0 ± 2.0"
    assert rows["fapn, equalized"] == ["not run"] * 5


@pytest.mark.skipif(not toy_detection.RESULT.is_file(), reason="nothing was run")
def test_the_recorded_comparison_has_three_paired_seeds_and_no_path_of_a_machine():
    text = toy_detection.RESULT.read_text()
    content = json.loads(text)
    assert "/tmp/" not in text and "/root/" not in text
    assert all(variant["n"] == len(content["seeds"]) >= 3 for variant in content["variants"].values())
