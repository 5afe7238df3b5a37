"""What evidence files have in common."""

from __future__ import annotations

from evidence.collected import command_line


def test_a_command_line_has_no_file_of_one_machine(monkeypatch):
    words = ["/somewhere/benchmark.py", "--rounds", "3", "--output", "/tmp/a b", "--works", "uper 512", "--json=/x"]
    monkeypatch.setattr("sys.argv", words)
    assert command_line("benchmark_decoders") == "python -m evidence.benchmark_decoders --rounds 3 --works 'uper 512'"
