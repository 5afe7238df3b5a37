"""Contenders that take turns in one process, and what is told of them: ratios of time, peaks of memory, waits.

A ratio is of two turns of the same round, for a machine is slower in some minutes than in others; CPU time is told
beside wall time, because on a machine with other work the latter means little. On a CUDA device the second clock is
the device's own, between two events.
"""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from scaleeq.training.timing import quartiles

Row = dict[str, Any]
TOLERANCE = 1e-5  # of outputs, to the largest number of the first contender's


@dataclass
class Contender:
    """What takes a turn.

    turn: what is measured. output: its result for the comparison with the first contender's, or None where it computes
    another function. to: the contender that it is a ratio to; "": the first. goal: at most, of time and of peak memory.
    memory: whether its peak means something; prepare: what is done before the peak is measured.
    """

    name: str
    turn: Callable[[], Any]
    output: Callable[[], torch.Tensor] | None = None
    to: str = ""
    goal: tuple[float | None, float | None] = (None, None)
    memory: bool = True
    prepare: Callable[[], Any] = lambda: None
    gradient_difference: float | None = None


def measure(contenders: Sequence[Contender], *, rounds: int, device: str) -> list[Row]:
    """A row for each contender: its time and peak as ratios to another's of the same run.

    ValueError: an output is not the first one's; fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; there is at least one")
    differences = [_difference(contenders[0], each) for each in contenders]
    for each in contenders:
        each.turn()  # caches, threads and memory are those of a later turn
    times: dict[str, list[tuple[float, float]]] = {each.name: [] for each in contenders}
    for _ in range(rounds):
        for each in contenders:
            times[each.name].append(timed(each.turn, device))
    peaks = {each.name: peak_bytes(each, device) if each.memory else None for each in contenders}
    rows = []
    for each, difference in zip(contenders, differences, strict=True):
        known = each.to in times
        to = each.to if known else contenders[0].name
        goal = each.goal if known or not each.to else (None, None)
        row: Row = {"contender": each.name, "to": to, "difference": difference, "goal": list(goal)}
        row["gradient_difference"] = each.gradient_difference
        for clock, kind in enumerate(("cpu", "wall" if device == "cpu" else "device")):
            own, other = ([pair[clock] for pair in times[name]] for name in (each.name, to))
            row[f"{kind}_s"] = median(own)
            row[f"{kind}_ratio"] = quartiles([a / b for a, b in zip(own, other, strict=True)])
        own_peak, other_peak = peaks[each.name], peaks[to]
        row["peak_mb"] = None if own_peak is None else own_peak / 1e6
        row["peak_ratio"] = own_peak / other_peak if own_peak and other_peak else None
        rows.append(row)
    return rows


def _difference(first: Contender, other: Contender) -> float | None:
    """The largest difference of two outputs, to the largest number of the first; None: nothing to compare."""
    if first.output is None or other.output is None or other is first:
        return None
    expected, found = first.output(), other.output()
    difference = float((found.double() - expected.double()).abs().max() / expected.double().abs().max())
    if not difference <= TOLERANCE:
        raise ValueError(f"{other.name} differs from {first.name} by {difference:.1e} of the largest output")
    return difference


def timed(call: Callable[[], Any], device: str) -> tuple[float, float]:
    """Seconds of the CPU, with processes that were waited for, and of the wall; of the device, where it is CUDA's."""
    if device == "cpu":
        cpu, wall = _cpu_seconds(), time.perf_counter()
        call()
        return _cpu_seconds() - cpu, time.perf_counter() - wall
    torch.cuda.synchronize()
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    cpu = _cpu_seconds()
    before.record()
    call()
    after.record()
    cpu = _cpu_seconds() - cpu
    torch.cuda.synchronize()
    return cpu, before.elapsed_time(after) / 1e3


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peak_bytes(contender: Contender, device: str) -> int:
    """The most that a turn allocates beside what there was before it; of torch's allocator."""
    contender.prepare()
    gc.collect()
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        used = torch.cuda.memory_allocated()
        contender.turn()
        return torch.cuda.max_memory_allocated() - used
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        contender.turn()
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


def waits(call: Callable[[], Any]) -> dict[str, float]:
    """Of a turn on a CUDA device: how often the host waited for it, and milliseconds of all waits, by the profiler."""
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        call()
    found = [event for event in profile.events() or [] if event.name in WAITS]
    return {"count": len(found), "ms": sum(event.cpu_time_total for event in found) / 1e3}
