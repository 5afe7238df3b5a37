"""When to kill a run, and in what it was when it died: both are read off its log and its folder alone."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import torch

from .kill_run import Attempt

START_UP, CALIBRATION, STEP, ENDING = "start-up", "calibration", "step", "after the last evaluation"
WRITING, TAGGING = "checkpoint is written", "between a checkpoint and its tag"
EVALUATION, FINAL_EVALUATION = "evaluation", "final evaluation"
BEST, RECORD = "best weights are written", "a record is written"
PHASES = (START_UP, CALIBRATION, STEP, WRITING, TAGGING, EVALUATION, BEST, RECORD, FINAL_EVALUATION, ENDING)
UNIFORM = "any moment"


def start_of(log: str) -> int | None:
    """The iteration from which an attempt trained; None: it did not come so far."""
    found = re.search(r"Starting training from iteration (\d+)", log)
    return int(found[1]) if found else None


def resumed_from(log: str) -> str:
    """The name of the checkpoint that an attempt loaded; "": none."""
    found = re.search(r"Loading from \S*?(model_\w+\.pth)", log)
    return found[1] if found else ""


def last_tag(folder: Path) -> str:
    """What last_checkpoint names; "" without it."""
    tag = folder / "last_checkpoint"
    return tag.read_text() if tag.is_file() else ""


def next_iteration(folder: Path, iterations: int) -> int:
    """The first iteration that the last checkpoint does not hold, of so many; 0 without one."""
    tag = last_tag(folder)
    if tag == "model_stopped.pth":
        return torch.load(folder / tag, map_location="cpu", weights_only=True, mmap=True)["iteration"] + 1
    digits = "".join(filter(str.isdigit, tag))
    return int(digits) + 1 if digits else iterations if tag else 0


def _parts(attempt: Attempt) -> set[str]:
    """Names of the files that this attempt is writing."""
    found = set()
    for path in attempt.output_dir.glob(".*.part"):
        try:
            if path.stat().st_mtime >= attempt.started_at:
                found.add(path.name)
        except FileNotFoundError:  # renamed meanwhile
            continue
    return found


def _saving(log: str) -> str:
    """The checkpoint that was begun last; "": none."""
    return (re.findall(r"Saving checkpoint to \S*?(model_\w+\.pth)", log) or [""])[-1]


def _calibrating(log: str) -> bool:
    named = re.search(r"Calibrating the scale equalizers of (.*)", log)
    return named is not None and len(re.findall("calibrated .* on .* images", log)) <= named[1].count(",")


def _evaluating(log: str) -> bool:
    return log.rfind("Start inference") > log.rfind("in csv format")


def _tagging(attempt: Attempt, log: str) -> bool:
    name = _saving(log)
    return bool(name) and (attempt.output_dir / name).is_file() and last_tag(attempt.output_dir) != name


def ends(log: str) -> bool:
    """Whether the attempt has trained its last iteration, or has found it trained."""
    return "model_final.pth" in (_saving(log) or resumed_from(log))


def _evaluated_at_end(log: str) -> bool:
    return ends(log) and not _evaluating(log) and "Start inference" in log[log.rfind("model_final.pth") :]


def phase_of(attempt: Attempt) -> str:
    """One of PHASES: in what an attempt is, or was when it died."""
    log, parts = attempt.log(), _parts(attempt)
    if any(name.startswith(".model_best.pth") for name in parts):
        return BEST
    if any(".pth." in name for name in parts):
        return WRITING
    if _tagging(attempt, log):
        return TAGGING
    if parts:
        return RECORD
    if start_of(log) is None:
        return START_UP
    if _calibrating(log):
        return CALIBRATION
    if _evaluating(log):
        return FINAL_EVALUATION if ends(log) else EVALUATION
    return ENDING if _evaluated_at_end(log) else STEP


def _writes(attempt: Attempt, pattern: str) -> bool:
    return any(re.fullmatch(pattern, name) for name in _parts(attempt))


def _config_is_cut(attempt: Attempt) -> bool:
    config = attempt.output_dir / "config.yaml"
    return _writes(attempt, r"\.config\.yaml\..*\.part") or (config.is_file() and not config.stat().st_size)


# What to wait for, and the longest time in seconds to wait after it.
AIMS: dict[str, tuple[Callable[[Attempt], bool], float]] = {
    START_UP: (lambda attempt: bool(attempt.log()), 0.3),
    "config.yaml is written": (_config_is_cut, 0.0),
    CALIBRATION: (lambda attempt: _calibrating(attempt.log()), 0.2),
    WRITING: (lambda attempt: _writes(attempt, r"\.model_(\d+|final|stopped)\.pth\..*\.part"), 0.02),
    TAGGING: (lambda attempt: _tagging(attempt, attempt.log()), 0.0),
    EVALUATION: (lambda attempt: _evaluating(attempt.log()), 0.1),
    BEST: (lambda attempt: _writes(attempt, r"\.model_best\.pth\..*\.part"), 0.005),
    RECORD: (lambda attempt: _writes(attempt, r"\..*\.json\..*\.part"), 0.0),
    FINAL_EVALUATION: (lambda attempt: _evaluating(attempt.log()) and ends(attempt.log()), 0.1),
    ENDING: (lambda attempt: _evaluated_at_end(attempt.log()), 0.02),
}


REPEATED = (WRITING, TAGGING, EVALUATION, BEST, RECORD)  # moments that come several times in a run


def wait_for(attempt: Attempt, aim: str, *, skip: int, delay: float, latest_s: float, timeout_s: float) -> bool:
    """Wait until the moment of `aim` ("": none), and a share `delay` of its longest delay after it.

    skip: one that comes several times counts when the attempt has begun so many checkpoints.
    latest_s: after the start; a moment that has not come by then is not waited for any longer. UNIFORM: the moment.
    Returns whether to kill now, not whether the attempt still runs. TimeoutError: the attempt does not end.
    """
    came, longest_s = AIMS.get(aim, (lambda attempt: False, 0.0))
    while not attempt.ended():
        if came(attempt) and attempt.log().count("Saving checkpoint to") >= skip:
            time.sleep(delay * longest_s)
            return True
        if aim and attempt.seconds > latest_s:
            return True
        if attempt.seconds > timeout_s:
            attempt.kill()
            raise TimeoutError(f"still running after {timeout_s:.0f} s; its log ends with\n{attempt.log()[-2000:]}")
        time.sleep(0.0005 if aim else 0.005)
    return False
