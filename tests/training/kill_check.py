"""Whether a run's folder is whole after a kill, and whether it ended as the unbroken run's did.

The oracle is the unbroken run: every value that does not measure time is compared bit for bit. Smoothed values of
metrics.json are compared with numpy's median over the unbroken run's single steps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .kill_moments import last_tag

TIMES = {"time", "data_time", "eta_seconds", "rank_data_time", "last_time", "last_data_time"}
SMOOTHED = {"total_loss", "loss_sem_seg", "loss_sem_seg_aux_res4", "grad_norm"}
Steps = dict[int, dict[str, float]]


@dataclass(frozen=True)
class Part:
    """What one attempt contributed to metrics.json: its first iteration, and the number of whole lines at its end."""

    start: int
    lines: int


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)


def damage(folder: Path) -> list[str]:
    """What is broken in the folder of a run that is not running; [] where it can be resumed from what it names."""
    found = []
    for path in sorted(folder.glob("model_*.pth")):
        try:
            if "model" not in load(path):
                found.append(f"{path.name} holds no model")
        except Exception as error:
            found.append(f"{path.name} cannot be read: {error}")
    tag = folder / "last_checkpoint"
    if tag.is_file() and not (folder / tag.read_text()).is_file():
        found.append(f"last_checkpoint names {tag.read_text()!r}, which does not exist")
    for path in sorted(folder.glob("*.json")):
        text = path.read_text()
        lines = text.split("\n")[:-1] if path.name == "metrics.json" else [text]  # behind the last \n: a cut line
        for line in lines:
            try:
                json.loads(line)
            except ValueError:
                found.append(f"{path.name} holds {line!r}")
    return found


def whole_lines(folder: Path) -> int:
    """Complete lines of metrics.json."""
    path = folder / "metrics.json"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def differences(reference: Path, folder: Path) -> list[str]:
    """How the files of two finished runs differ, metrics.json apart; [] where they agree bit for bit."""
    names = [{path.name for path in (*run.glob("model_*"), *run.glob("*.json"))} for run in (reference, folder)]
    found = [
        f"{name} is missing, or is there without being in the unbroken run" for name in sorted(names[0] ^ names[1])
    ]
    for name in sorted(names[0] & names[1] - {"metrics.json"}):
        read: Callable[[Path], Any] = load if name.endswith(".pth") else lambda path: json.loads(path.read_text())
        found += [f"{name}: {text}" for text in unequal(read(reference / name), read(folder / name))]
    found += [f"last_checkpoint: {text}" for text in unequal(last_tag(reference), last_tag(folder))]
    found += [f"{part.name} was left" for part in folder.rglob(".*.part")]
    return found


def unequal(expected: Any, got: Any, where: str = "") -> Iterator[str]:
    """The places in nested values where they are not of one type and one value, bit for bit; NaN equals NaN."""
    if type(expected) is not type(got):
        yield f"{where} is {got!r}, a {type(got).__name__}, not a {type(expected).__name__}"
    elif isinstance(expected, dict):
        if expected.keys() != got.keys():
            yield f"{where} has the keys {sorted(map(str, expected.keys() ^ got.keys()))} on one side alone"
        for key in expected.keys() & got.keys():
            yield from unequal(expected[key], got[key], f"{where}/{key}")
    elif isinstance(expected, (list, tuple)):
        if len(expected) != len(got):
            yield f"{where} is {got!r}, not {expected!r}"
        for index, pair in enumerate(zip(expected, got, strict=False)):
            yield from unequal(*pair, f"{where}/{index}")
    elif isinstance(expected, torch.Tensor):
        if (expected.shape, expected.dtype) != (got.shape, got.dtype):
            yield f"{where} is {got.dtype} {tuple(got.shape)}, not {expected.dtype} {tuple(expected.shape)}"
        elif not torch.equal(_bits(expected), _bits(got)):
            yield f"{where} differs by up to {(expected.double() - got.double()).abs().max():.3g}"
    elif expected != got and not (isinstance(expected, float) and math.isnan(expected) and math.isnan(got)):
        yield f"{where} is {got!r}, not {expected!r}"


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def step_differences(expected: Steps, steps: Sequence[dict[str, Any]]) -> list[str]:
    """How single steps, repeated ones among them, differ from the unbroken run's."""
    return [text for step in steps for text in unequal(expected[step["iteration"]], step, f"step {step['iteration']}")]


def metric_differences(reference: Path, folder: Path, parts: Sequence[Part], steps: Steps) -> list[str]:
    """How metrics.json of a run that was resumed differs from what the unbroken run's says.

    parts: of the attempts, in their order. steps: iteration -> what the unbroken run's step was.
    """
    known: dict[int, dict[str, Any]] = {}
    for row in _rows(reference):
        known.setdefault(row["iteration"], {}).update(row)
    rows, found, done = _rows(folder), [], 0
    for part in parts:
        own, resumed = rows[done : part.lines], {"iteration": part.start, "resumed": True}
        if own and done and own[0] != resumed:
            found.append(f"metrics.json, line {done + 1}: {own[0]!r} instead of {resumed!r}")
        for row in own:
            if row != resumed:
                found += _row_differences(row, known, steps, part.start)
        done = part.lines
    have: dict[int, dict[str, Any]] = {}
    for row in rows:
        have.setdefault(row["iteration"], {}).update(row)
    for iteration, row in known.items():
        lacking = {key for key in row if key.startswith("sem_seg/")} - have.get(iteration, {}).keys()
        found += [f"metrics.json lacks {sorted(lacking)[0]} of iteration {iteration}"] if lacking else []
    return found


def _row_differences(row: dict[str, Any], known: dict[int, dict[str, Any]], steps: Steps, start: int) -> Iterator[str]:
    iteration = row["iteration"]
    for key, value in row.items():
        smoothed = key in SMOOTHED or key.startswith("loss_")  # a task's each
        if key in TIMES or key == "iteration" or (not steps and smoothed):
            continue
        if smoothed:
            window = [steps[i][key] for i in range(max(start, iteration - 19), iteration + 1)]
            expected: Any = float(np.median(window))
        elif key in known.get(iteration, {}):
            expected = known[iteration][key]
        elif key == "lr":  # the line of an iteration after which a signal ended the attempt
            expected = steps[iteration][key] if steps else value
        else:
            yield f"metrics.json has {key} at iteration {iteration}, which the unbroken run has not"
            continue
        yield from unequal(expected, value, f"metrics.json, iteration {iteration}, {key}")


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
