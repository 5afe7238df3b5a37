"""A command that is killed once, in the middle, and resumed. Oracle: the same one unbroken."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from pathlib import Path

from .kill_check import Part, damage, differences, metric_differences, whole_lines
from .kill_moments import last_tag, start_of
from .kill_run import Attempt
from .test_kills import finished

ITERATIONS = 6  # of the runs, with a checkpoint every second one


def check_killed_once(folder: Path, config: str, options: Mapping[str, object]) -> Path:
    """Assert that it ends with the bits of an unbroken run in all its files; its folder."""
    words = {name: _arguments(folder / name, config, options) for name in ("unbroken", "killed")}
    unbroken = Attempt(folder / "unbroken" / "run", words["unbroken"], watched=False)
    assert finished(unbroken, 600) == 0, (folder / "unbroken" / "console.txt").read_text()[-3000:]
    attempt = Attempt(folder / "killed" / "run", words["killed"], watched=False)
    while not attempt.ended() and not last_tag(attempt.output_dir):
        time.sleep(0.001)
    time.sleep(0.05)
    assert attempt.kill(), f"it ended before the kill with {attempt.status}"
    assert attempt.status == -signal.SIGKILL and not damage(attempt.output_dir)
    parts = [Part(0, whole_lines(attempt.output_dir))]
    resumed = Attempt(attempt.output_dir, words["killed"], watched=False)
    assert finished(resumed, 600) == 0, (folder / "killed" / "console.txt").read_text()[-3000:]
    start = start_of(resumed.log())
    assert start is not None and 0 < start < ITERATIONS
    parts.append(Part(start, whole_lines(resumed.output_dir)))
    assert not differences(unbroken.output_dir, resumed.output_dir)
    assert not metric_differences(unbroken.output_dir, resumed.output_dir, parts, steps={})
    return resumed.output_dir


def _arguments(folder: Path, config: str, options: Mapping[str, object]) -> list[str]:
    folder.mkdir()
    words = [str(word) for pair in options.items() for word in pair]
    return ["--config-file", config, "--resume", *words, "OUTPUT_DIR", str(folder / "run")]
