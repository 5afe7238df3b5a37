"""One run that is killed again and again until it is left to end, and the unbroken one that it is compared with."""

from __future__ import annotations

import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .kill_check import Part, Steps, damage, differences, metric_differences, step_differences, whole_lines
from .kill_moments import (
    AIMS,
    CALIBRATION,
    ENDING,
    FINAL_EVALUATION,
    REPEATED,
    UNIFORM,
    ends,
    last_tag,
    next_iteration,
    phase_of,
    resumed_from,
    start_of,
    wait_for,
)
from .kill_run import ITERATIONS, STEPS_FILE, Attempt, arguments, read_steps

TIMEOUT_S = 240.0
PATIENCE_S = 60.0  # from a signal to the end of the process
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL)


@dataclass(frozen=True)
class Kill:
    """One kill, and what the run did about it."""

    run: str
    aim: str
    phase: str
    seconds: float  # after the start of the attempt
    signal: str  # SIGKILL to all processes; another one is answered
    to: str  # "process", "group" or "rank"
    ended_s: float  # after the signal
    steps: int  # that the attempt had done
    resumed_from: str  # "": there was no checkpoint yet
    resumed_at: int  # iteration
    repeated: int  # steps of this attempt that were done once more


@dataclass
class Run:
    """A run, from its first start to its end, and what is wrong with it."""

    name: str
    kills: list[Kill] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Unbroken:
    """The run that nobody kills: its folder, its single steps, and how long it took."""

    variant: str
    watched: bool
    output_dir: Path
    steps: Steps
    startup_s: float
    training_s: float

    def seconds_left(self, folder: Path) -> float:
        """How long a run takes from the last checkpoint of this folder on."""
        start = next_iteration(folder, ITERATIONS)
        return self.startup_s + self.training_s * (1 - start / (ITERATIONS + 1))


def run_unbroken(folder: Path, variant: str, *, watched: bool = True) -> Unbroken:
    """RuntimeError where it fails."""
    folder.mkdir(parents=True)
    attempt = Attempt(folder / "run", arguments(folder / "run", variant), watched=watched)
    startup_s = 0.0
    while not attempt.ended():
        if not startup_s and start_of(attempt.log()) is not None:
            startup_s = attempt.seconds
        time.sleep(0.005)
    if attempt.status:
        raise RuntimeError(f"a run that nobody killed ended with {attempt.status}:\n{_console(folder)}")
    steps = {step["iteration"]: step for step in read_steps(folder / STEPS_FILE)}
    return Unbroken(variant, watched, folder / "run", steps, startup_s, attempt.seconds - startup_s)


def _console(folder: Path) -> str:
    return (folder / "console.txt").read_text(errors="replace")[-3000:]


class Killer:
    """Kills runs that should all end as `reference` did.

    folder: of the runs; those with faults stay. signals: instead of SIGKILL alone, any of SIGNALS.
    """

    def __init__(self, reference: Unbroken, folder: Path, *, seed: list[int], signals: bool = False):
        self.reference = reference
        self.signals = signals
        self.folder = folder
        self.rng = np.random.default_rng(seed)
        self._aims: list[str] = []
        self._pace = 1.0  # how much slower this machine is now than in the unbroken run

    def run(self, name: str, num_kills: int) -> Run:
        """A whole run with so many kills, or fewer, where it ends before an aimed moment comes."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        run, output_dir = Run(name), folder / "run"
        parts: list[Part] = []
        kills: list[dict[str, Any]] = []
        for left_alone in [False] * num_kills + [True]:
            aim = "" if left_alone else self._draw(output_dir)
            attempt = Attempt(output_dir, arguments(output_dir, self.reference.variant), watched=self.reference.watched)
            try:
                blow = self._attack(attempt, aim)
            except TimeoutError as error:
                run.faults.append(str(error))
                break
            killed = blow is not None
            log, start = attempt.log(), start_of(attempt.log())
            if start is not None or not killed:
                kills = [_resumed(kill, log, start or 0) for kill in kills]
            parts.append(Part(parts[-1].start if start is None and parts else start or 0, whole_lines(output_dir)))
            run.faults += damage(output_dir) + step_differences(self.reference.steps, attempt.steps())
            if blow is None:
                run.faults += self._ending(attempt, parts)
                break
            kills.append(self._kill(name, aim, attempt, blow))
        run.kills = [Kill(**kill) for kill in kills]
        again = [kill for kill in run.kills if kill.signal != "SIGKILL" and kill.repeated]
        run.faults += [f"trained again after {kill.signal}: {kill}" for kill in again]
        if not run.faults:
            shutil.rmtree(folder)
        return run

    def _draw(self, output_dir: Path) -> str:
        """The next aim; in every deck each phase is there once, and a uniform moment for every two of them."""
        if not self._aims:
            deck = [*AIMS, *[UNIFORM] * (len(AIMS) // 2)]
            self._aims = [deck[index] for index in self.rng.permutation(len(deck))]
        calibrated = bool(last_tag(output_dir))
        for index, aim in enumerate(self._aims):
            if not (calibrated and aim == CALIBRATION):
                return self._aims.pop(index)
        return UNIFORM

    def _attack(self, attempt: Attempt, aim: str) -> dict[str, Any] | None:
        """What ended the attempt; None, where it ended before or has no aim.

        TimeoutError: it does not end, or it ends as if nothing had come.
        """
        expected = self.reference.seconds_left(attempt.output_dir)
        left = self._pace * expected
        latest_s = left * float(self.rng.uniform(0.0 if aim == UNIFORM else 0.8, 1.0))
        if aim in (FINAL_EVALUATION, ENDING):
            latest_s = TIMEOUT_S
        skip = int(self.rng.integers(5)) if aim in REPEATED else 0
        delay = float(self.rng.uniform()) * (self.rng.uniform() > 0.3)
        number = SIGNALS[self.rng.integers(len(SIGNALS))] if self.signals else signal.SIGKILL
        to = ("process", "group") if self.reference.watched else ("process", "group", "rank")
        target = to[self.rng.integers(len(to))] if self.signals and number != signal.SIGKILL else "group"
        came = wait_for(attempt, aim, skip=skip, delay=delay, latest_s=latest_s, timeout_s=TIMEOUT_S)
        if not came:
            self._pace = (self._pace * attempt.seconds / expected) ** 0.5
            return None
        if number == signal.SIGKILL:
            killed = attempt.kill()
            blow = {"phase": phase_of(attempt), "seconds": round(attempt.seconds, 3), "ended_s": 0.0}
        else:
            killed, blow = self._signal(attempt, number, target)
        return {**blow, "signal": signal.Signals(number).name, "to": target} if killed else None

    def _signal(self, attempt: Attempt, number: int, to: str) -> tuple[bool, dict[str, Any]]:
        """Whether the signal ended the attempt, and when that was."""
        if attempt.ended():
            return False, {}
        blow = {"phase": phase_of(attempt), "seconds": round(attempt.seconds, 3)}
        trained = ends(attempt.log())
        attempt.send(number, to)
        sent = time.perf_counter()
        name = f"{signal.Signals(number).name} to the {to} in the phase {blow['phase']!r}"
        if not attempt.wait(PATIENCE_S):
            raise TimeoutError(f"{name} was not answered within {PATIENCE_S:.0f} s:\n{attempt.log()[-2000:]}")
        answered = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
        if attempt.status == 0 and (blow["phase"] == ENDING or (to == "rank" and trained)):
            return False, {}  # it had ended, or the rank had
        if attempt.status not in (128 + answered, -number):
            raise TimeoutError(
                f"{name} was answered by status {attempt.status}:\n{_console(attempt.output_dir.parent)}"
            )
        return True, {**blow, "ended_s": round(time.perf_counter() - sent, 3)}

    def _kill(self, name: str, aim: str, attempt: Attempt, blow: dict[str, Any]) -> dict[str, Any]:
        steps = attempt.steps()
        return {
            "run": name,
            "aim": aim,
            **blow,
            "steps": len(steps),
            "resumed_from": "",
            "resumed_at": -1,
            "repeated": steps[-1]["iteration"] + 1 if steps else 0,  # until it is known where the next attempt begins
        }

    def _ending(self, attempt: Attempt, parts: list[Part]) -> list[str]:
        """What is wrong with a run that was left to end."""
        if attempt.status:
            return [f"ended with {attempt.status}:\n{_console(attempt.output_dir.parent)}"]
        unbroken = self.reference
        return [
            *differences(unbroken.output_dir, attempt.output_dir),
            *metric_differences(unbroken.output_dir, attempt.output_dir, parts, unbroken.steps),
        ]


def _resumed(kill: dict[str, Any], log: str, start: int) -> dict[str, Any]:
    """A kill that waited for an attempt to say where it goes on."""
    if kill["resumed_at"] >= 0:
        return kill
    repeated = max(0, kill["repeated"] - start)
    return {**kill, "resumed_from": resumed_from(log), "resumed_at": start, "repeated": repeated}
