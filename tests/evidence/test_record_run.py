"""Evidence files of single trainings. Oracles: the folders that they are made of, written by hand."""

from __future__ import annotations

import json

import pytest

from evidence import record_run, tables
from scaleeq.files import write_json

MIOU = {"mIoU": 61.5, "pACC": 90.0, "IoU-sky": 98.0, "IoU-bee": 25.0}
BRANCH = {"mean": 0.4, "std": 0.5, "gradient_std": 9.0}
SAID = {"code": "abc", "device": "a thread", "note": ""}


def write_folders(training):
    """A training over midnight, 20 iterations with one evaluation, and the evaluation of its last weights."""
    training.mkdir()
    lines = [{"iteration": 9, "total_loss": 2.0}, {"iteration": 19, "total_loss": 1.0}]
    lines.append({"iteration": 20, "sem_seg/mIoU": 61.5})
    (training / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (training / "log.txt").write_text("[11/28 23:59:30] a\nsecond line\n[11/29 00:02:00] b\n")
    fusion = {"branches": {"res2": BRANCH}, "spread": 1.2, "gradient_spread": 3.0}
    moments = {when: {"iteration": at, "fusions": {"f": fusion}} for when, at in (("at_start", 0), ("at_end", 19))}
    write_json(training / "scale_statistics.json", {**moments, "history": []})
    results = {"sem_seg": MIOU, "engine": "standalone", "weights_sha256": "ff", "parameters": 12}
    results |= {"weights": str(training / "model_final.pth"), "fusions": {"f": fusion}}
    write_json(record_run.evaluated(training) / "inference" / "results.json", results)


def test_a_run_s_file_has_what_the_tables_need_and_no_path(tmp_path, monkeypatch):
    write_folders(tmp_path / "toy_fpn")
    monkeypatch.setattr(record_run, "RESULTS", tmp_path)
    words = [
        "record_run",
        "toy/fpn+scale_equalizer",
        str(tmp_path / "toy_fpn"),
        "--code",
        "abc",
        "--device",
        "a thread",
    ]
    monkeypatch.setattr("sys.argv", words)
    record_run.main()
    text = (tmp_path / "toy_fpn_scale_equalizer.json").read_text()
    content = json.loads(text)
    assert str(tmp_path) not in text and content["weights"] == "model_final.pth"
    training = content["training"]
    assert (training["iterations"], training["minutes_in_all"], training["final_total_loss"]) == (20, 2.5, 1.0)
    assert content["miou_by_iteration"] == {"20": 61.5} and content["sem_seg"] == MIOU
    kept = {"f": {"branches": {"res2": {"mean": 0.4, "std": 0.5}}, "spread": 1.2}}
    assert content["scales"]["fusions"] == content["scales"]["at_end"]["fusions"] == kept


def test_a_variant_has_a_file_of_its_own(tmp_path, monkeypatch):
    write_folders(tmp_path / "sgd")
    monkeypatch.setattr(record_run, "RESULTS", tmp_path)
    name, folder, changes = "camvid/uper_lite0", str(tmp_path / "sgd"), ["SOLVER.OPTIMIZER", "SGD"]
    words = ["record_run", name, folder, "--variant", "SGD", "--changes", *changes, "--code", "abc", "--device", "a"]
    monkeypatch.setattr("sys.argv", words)
    record_run.main()
    content = json.loads((tmp_path / "camvid_uper_lite0_SGD.json").read_text())
    assert content["command"].startswith("scaleeq train camvid/uper_lite0 SOLVER.OPTIMIZER SGD; scaleeq eval camvid/")
    assert (record_run.RESULTS / f"{record_run.run_name('camvid/uper_lite0, SGD')}.json").is_file()


def test_rows_of_the_toy_comparison(tmp_path):
    write_folders(tmp_path / "toy_fpn")
    numbers = {"params": 11645384, "macs": 722075648, "training_cpu_ratio": [0.9, 1.1, 1.3], "images_per_s": 5.0}
    counts = {"config": "toy/fpn", "params": numbers.pop("params"), "macs": numbers.pop("macs")}
    lines = [counts, {"config": "toy/fpn", **numbers}]
    (tmp_path / "toy.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    content = record_run.toy_records(tmp_path, tmp_path / "toy.jsonl", **SAID)
    row = content["configs"]["toy/fpn"]
    assert row["IoU"] == {"bee": 25.0, "sky": 98.0} and "images_per_s" not in row
    assert tables.toy_row(row) == ("61.5", "11.65", "0.72", "1.10")
    (tmp_path / "toy.jsonl").write_text(json.dumps(counts) + "\n")
    with pytest.raises(KeyError, match="training_cpu_ratio"):
        record_run.toy_records(tmp_path, tmp_path / "toy.jsonl", **SAID)


def test_full_length_runs_are_told_and_what_was_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(record_run, "RESULTS", tmp_path)
    record = {
        "training": {"minutes_in_all": 46.6}, "sem_seg": {"mIoU": 64.85, "pACC": 90.26}, "weights_sha256": "ab" * 32,
    }  # fmt: skip
    write_json(tmp_path / "camvid_semfpn_lite0_fapn.json", record)
    lines = record_run.full_length_table().splitlines()[2:]
    rows = {row[0]: row[1:] for line in lines for row in [[cell.strip() for cell in line.split("|")[1:-1]]]}
    assert rows.pop("camvid/semfpn_lite0+fapn") == ["65", "64.8", "90.3", "47", "ab" * 8]
    assert list(rows) == [name for name in record_run.FULL_LENGTH if "fapn" not in name]
    assert {row[1] for row in rows.values()} == {"not run"}
