"""The evidence file of joint and single tasks, and its tables. Oracle: the comparison that it is made of, by hand."""

from __future__ import annotations

import json

import pytest

from evidence import joint_toy
from evidence.collected import kept
from evidence.printed import between, marks
from scaleeq.experiments.summary import summarize_comparison
from scaleeq.files import write_json
from tests.experiments.test_several_tasks import VALUES, written


def cells(table, *first):
    """What follows in the first row that begins with these cells."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    return next(row[len(first) :] for row in rows if row[: len(first)] == list(first))


def test_the_file_keeps_numbers_and_no_paths(tmp_path, monkeypatch, capsys):
    content = summarize_comparison(*written(tmp_path, VALUES))
    write_json(tmp_path / "comparison.json", content)
    step = {"config": "toy/multitask", "training_cpu_ratio": [1.21, 1.25, 1.33]}
    (tmp_path / "steps").write_text(json.dumps(step) + "\n")
    monkeypatch.setattr(joint_toy, "RESULT", tmp_path / "joint_toy.json")
    monkeypatch.setattr(joint_toy, "PAGE", tmp_path / "page.md")
    page = "a\n{}\nold\n{}\nb\n".format(*marks("joint_tables"))
    joint_toy.PAGE.write_text(page)
    words = ["joint_toy", str(tmp_path), "--code", "abc", "--steps", str(tmp_path / "steps")]
    monkeypatch.setattr("sys.argv", words)
    joint_toy.main()
    saved = json.loads((tmp_path / "joint_toy.json").read_text())
    assert saved["code"] == "commit abc" and "--seeds 0 1 2" in saved["command"] and saved["steps"] == [step]
    assert saved["variants"]["joint"]["runs"]["0"] == {"value": 1.1, "seconds": 3.0, "peak_mib": 500}
    assert set(saved["more"][0]["variants"]["joint"]["runs"]["0"]) == {"value"}
    printed = capsys.readouterr().out
    assert joint_toy.PAGE.read_text() == between(page, "joint_tables", joint_toy.tables(saved))
    for part in (joint_toy.table, joint_toy.differences_table, joint_toy.step_table):
        assert part(saved) in printed
    assert cells(printed, "single tasks") == ["1.050 ± 0.050", "23.00 ± 1.00", "-"]
    (mean,) = {compared["mean"] for name, compared in saved["more"][1]["comparisons"].items() if name == "joint"}
    row = cells(printed, "joint")
    assert row[:2] == ["1.150 ± 0.050", "21.00 ± 1.00"] and row[2].startswith(f"{mean:+.2f} (")
    row = cells(printed, "depth/rmse, m, lower is better", "joint_equalized - joint")
    assert (row[0], row[-1]) == ("-0.200", "better")
    assert cells(printed, "`toy/multitask`") == ["1.25", "1.21 to 1.33"]


def test_what_was_not_run_is_said_so(tmp_path):
    values = {name: {metric: [None] * 3 for metric in of} for name, of in VALUES.items()}
    content = kept(summarize_comparison(*written(tmp_path, values)))
    assert cells(joint_toy.table(content), "joint") == ["not run", "not run", "- (-)"]
    assert "not run" in joint_toy.step_table(content) and "not run" in joint_toy.differences_table(content)


@pytest.mark.skipif(not joint_toy.RESULT.is_file(), reason="nothing was run")
def test_the_recorded_comparison_has_paired_seeds_and_no_path_of_a_machine():
    text = joint_toy.RESULT.read_text()
    content = json.loads(text)
    assert "/tmp/" not in text and "/root/" not in text and len(content["file_sha256"]) == 64
    assert all(
        variant["n"] == len(content["seeds"]) for part in content["more"] for variant in part["variants"].values()
    )
