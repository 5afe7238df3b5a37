"""The benchmark beside peers runs at a tiny size, compares before it measures, and names what is not installed."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from evidence import benchmark_decoders, speed_tables
from evidence.decoder_speed import peers
from evidence.decoder_speed.heads import EQUALIZED, OURS, Maps, Setting, uper
from evidence.decoder_speed.rounds import Contender, measure, quartiles

QUICK = ("cross_entropy_19", "fapn")
SLOW = ("uper_256", "psp_training", "aspp_512", "semantic_fpn", "semantic_fpn_training", "arg_max_19", "step", "help")


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["benchmark_decoders", *words])
    benchmark_decoders.main()


def test_works_are_measured_and_printed(tmp_path, monkeypatch, capsys):
    file = tmp_path / "decoders.json"
    torch.manual_seed(0)
    run(monkeypatch, "--works", *QUICK, "--shrink", "16", "--rounds", "2", "--output", str(file))
    works = json.loads(file.read_text())["works"]
    assert list(works) == [name for name in benchmark_decoders.WORKS if name in QUICK]
    for work in works.values():
        assert str(tmp_path) not in work["command"] and "--output" not in work["command"]
        for row in work["rows"]:
            assert row["cpu_s"] > 0 and row["wall_s"] > 0 and row["peak_mb"] > 0
            assert row["cpu_ratio"] == sorted(row["cpu_ratio"])
    (own,) = [row for row in works["cross_entropy_19"]["rows"] if row["contender"] == OURS]
    assert own["difference"] < 1e-5 and own["goal"] == [0.72, 0.3]
    run(monkeypatch, "--works", "fapn", "--shrink", "16", "--rounds", "1", "--output", str(file))
    again = json.loads(file.read_text())["works"]
    assert (
        list(again) == list(works)
        and again["fapn"]["rounds"] == 1
        and again["cross_entropy_19"] == works["cross_entropy_19"]
    )

    monkeypatch.setattr(speed_tables, "RESULTS", tmp_path)
    assert "FaPN" in speed_tables.step_speed_table() and "cross entropy, 19" in speed_tables.loss_speed_table()
    assert torch.__version__ in speed_tables.decoder_speed_setting()


@pytest.mark.slow
def test_the_other_works_are_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speed_tables, "RESULTS", tmp_path)
    run(monkeypatch, "--works", *SLOW, "--shrink", "16", "--rounds", "1", "--output", str(tmp_path / "decoders.json"))
    works = json.loads((tmp_path / "decoders.json").read_text())["works"]
    assert works["step"]["rows"][1]["difference"] < 1e-5
    assert works["help"]["rows"][-1]["cpu_s"] > 0
    (equalized,) = [row for row in works["uper_256"]["rows"] if row["contender"] == EQUALIZED]
    assert equalized["to"] == OURS and equalized["goal"] == [1.02, 1.05]
    assert works["psp_training"]["title"] in speed_tables.decoder_speed_table()


def test_without_peers_ours_is_compared_with_itself(monkeypatch):
    monkeypatch.setattr(peers, "module_of", lambda name: None)
    contenders = uper(Setting(shrink=16), Maps(64, 2, True), {OURS: (0.5, 0.5)})
    rows = measure(contenders, rounds=1, device="cpu")
    assert rows[0]["contender"] == OURS and [row["to"] for row in rows] == [OURS] * len(rows)
    assert rows[0]["cpu_ratio"] == [1, 1, 1]
    assert 0 < rows[1]["gradient_difference"] < 1e-9


def test_another_output_is_refused():
    ones, twos = torch.ones(3), torch.full((3,), 2.0)
    contenders = [Contender("one", lambda: None, lambda: ones), Contender("two", lambda: None, lambda: twos)]
    with pytest.raises(ValueError, match="two differs from one"):
        measure(contenders, rounds=1, device="cpu")


def test_peaks_are_those_of_the_allocator():
    def turn():
        x = torch.empty(250_000)
        del x
        return torch.empty(500_000)

    (row,) = measure([Contender("both", turn)], rounds=1, device="cpu")
    assert row["peak_mb"] == pytest.approx(2.0, rel=0.01)
    assert quartiles([3.0, 1.0, 2.0]) == [1.5, 2.0, 2.5] and quartiles([1.0]) == [1.0] * 3


def test_a_device_that_is_not_there_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, "--device", "cuda")
    assert stopped.value.code == 2 and "no CUDA device" in capsys.readouterr().err
