"""What is told of the peak of memory. Oracle: a subtraction by hand. Times: tests/probes/test_counting.py."""

from __future__ import annotations

import pytest

from scaleeq.reports.costs import time_table
from scaleeq.training import timing

from .tiny import tiny_config


class Instant:
    """A model that takes a second for everything."""

    def __init__(self, cfg, *, size, batch) -> None:
        self.seconds = {kind: [] for kind in timing.KINDS}

    def forward(self) -> None:
        pass

    def training(self) -> None:
        pass

    def measure(self, kind) -> float:
        return 1.0


@pytest.mark.parametrize(("used", "peak", "told"), [(100.0, 164.26, 64.3), (None, 164.26, None), (100.0, None, None)])
def test_the_peak_is_told_without_what_was_in_use_before(tmp_path, monkeypatch, used, peak, told):
    monkeypatch.setattr(timing, "TimedModel", Instant)
    monkeypatch.setattr(timing, "reset_peak", lambda device: used)
    monkeypatch.setattr(timing, "peak_mib", lambda device: peak)
    (record,) = timing.time_configs([tiny_config(tmp_path)], sizes=[(32, 32)], iterations=1)
    assert record["peak_mib"] == told
    assert f"| {'-' if told is None else '64'} " in time_table([{"config": "a", "size": (32, 32), **record}])
