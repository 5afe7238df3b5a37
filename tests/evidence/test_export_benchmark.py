"""The benchmark of exported files, run small, and its table. Oracle: the file that it leaves, by hand."""

from __future__ import annotations

import json

import pytest

from evidence import benchmark_export, speed_tables

ROW = {"difference": 2e-6, "sizes": [[96, 64], [33, 47]], "file_mb": 44.71, "ratio_quartiles": [0.5, 0.61, 0.7]}


def test_the_table_says_what_was_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(speed_tables, "RESULTS", tmp_path)
    assert "not run" in speed_tables.export_table() and "0.61" not in speed_tables.export_table()
    (tmp_path / "export.json").write_text(json.dumps({"families": {"FCN": ROW}}))
    lines = {line.split("|")[1].strip(): line for line in speed_tables.export_table().splitlines()}
    cells = [cell.strip() for cell in lines["FCN"].split("|")[2:-1]]
    assert cells == ["2e-06", "96x64, 33x47", "44.7", "0.61 [0.50 0.70]"]
    assert "not run" in lines["UPer"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_measures_a_family_and_keeps_the_others(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    output = tmp_path / "export.json"
    output.write_text(json.dumps({"families": {"ESeg": ROW}}))
    words = ["benchmark_export", "--families", "FCN", "--size", "64", "64", "--rounds", "1", "--output", str(output)]
    monkeypatch.setattr("sys.argv", words)
    benchmark_export.main()
    found = json.loads(output.read_text())["families"]
    assert list(found) == ["FCN", "ESeg"] and found["ESeg"] == ROW
    assert found["FCN"]["difference"] < 1e-4 and found["FCN"]["file_mb"] > 40  # ResNet-18 alone has 11.2 M weights
    assert found["FCN"]["torch_s"] > 0 and len(found["FCN"]["ratio_quartiles"]) == 3
