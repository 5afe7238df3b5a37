"""How fast images are counted, against peers, in one run: contenders take turns, medians, CPU time and wall time.

Each contender is a process of its own (see peer), which reads the same maps from files; mmsegmentation may
live in another interpreter. A peer that is not installed is named as such. One number of threads after the other, and
once more on one thread with an allocator that keeps freed memory: what Detectron2's and torchmetrics' large temporaries
cost depends on that, and a training process may be in either state.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
from tabulate import tabulate

from scaleeq.evaluation.cityscapes import LABEL_IDS

from . import peer
from .maps import label_pair, predicted, scene_with_instances

KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 25), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}  # glibc's
Times = tuple[float, float]  # seconds an image: wall, CPU
Row = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """Maps and who counts them.

    kind: "smooth", "noise" (random predictions) or "instances" (of Cityscapes' classes).
    groups: of contenders; each is compared with the first of its group.
    """

    height: int
    width: int
    num_classes: int
    kind: str
    groups: tuple[tuple[str, ...], ...]

    @property
    def title(self) -> str:
        return f"{self.height} x {self.width}, {self.num_classes} classes, {self.kind}"


COUNTING = ((peer.OURS, peer.COPY, peer.DETECTRON2, peer.DETECTRON2_CONFUSION, peer.MMSEGMENTATION, peer.TORCHMETRICS),)
LIKE_FOR_LIKE = ((peer.OURS, peer.COPY, peer.DETECTRON2_CONFUSION),)
SUBJECTS = (
    Subject(512, 683, 150, "smooth", COUNTING),
    Subject(1024, 2048, 19, "smooth", COUNTING),
    Subject(512, 683, 150, "noise", LIKE_FOR_LIKE),
    Subject(1024, 2048, 19, "noise", LIKE_FOR_LIKE),
    Subject(
        *(1024, 2048, 19, "instances"),
        ((peer.OURS_IN_MEMORY, peer.CITYSCAPES_IN_MEMORY), (peer.OURS_OF_FILES, peer.CITYSCAPES_OF_FILES)),
    ),
)


class Contender:
    """A process that counts the maps of a folder whenever it is told to."""

    def __init__(
        self, name: str, folder: Path, num_classes: int, *, python: str = "", environment: Mapping[str, str] = {}
    ) -> None:
        """python: another interpreter, without this one's packages; "": this one."""
        own = {} if python else {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.name = name
        self.process = subprocess.Popen(
            [python or sys.executable, peer.__file__, name, str(folder), str(num_classes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "ignore", **own, **environment},
        )

    def wait(self) -> str | None:
        """The version of its package once it is ready; None if that is not installed."""
        ready = self._answer()
        return ready.get("version")

    def time(self, threads: int) -> Times:
        """Seconds an image of a turn."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{threads}\n")
        self.process.stdin.flush()
        wall, cpu = self._answer()
        return wall, cpu

    def close(self) -> None:
        self.process.communicate()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ValueError(f"{self.name} ended with an error, see above")
        return json.loads(line)


def time_counting(
    *,
    images: int,
    rounds: int,
    threads: Sequence[int],
    peer_python: str = "",
    keep_memory: bool = True,
    subjects: Sequence[Subject] = SUBJECTS,
) -> list[Row]:
    """A row for each subject, setting and contender: images a second and how many times slower than ours.

    threads: numbers of; other subjects than smooth maps get the first alone. keep_memory: smooth maps also with an
    allocator that does, on one thread, like for like. peer_python: an interpreter with mmsegmentation.
    ValueError: it has none.
    """
    rows: list[Row] = []
    for subject in subjects:
        smooth = subject.kind == "smooth"
        with tempfile.TemporaryDirectory() as name:
            write_maps(subject, Path(name), images)
            numbers = threads if smooth else threads[:1]
            rows += _time_subject(subject, Path(name), rounds, numbers, peer_python, {})
            if keep_memory and smooth:
                kept = dataclasses.replace(subject, groups=LIKE_FOR_LIKE)
                rows += _time_subject(kept, Path(name), rounds, [1], "", KEEP_MEMORY)
    return rows


def write_maps(subject: Subject, folder: Path, images: int) -> None:
    """predictions.npy, truths.npy, with instances also instances.npy, and pictures: truths, for the instances all."""
    rng = np.random.default_rng(0)
    height, width, num_classes = subject.height, subject.width, subject.num_classes
    arrays: dict[str, list[np.ndarray]] = {"predictions": [], "truths": []}
    raw = np.arange(256, dtype=np.uint8)
    if subject.kind == "instances":
        arrays["instances"] = []
        raw[:] = 0
        raw[: len(LABEL_IDS)] = LABEL_IDS
    for index in range(images):
        if subject.kind == "instances":
            truth, instances = scene_with_instances(rng, height, width)
            prediction = predicted(rng, truth, num_classes)
            arrays["instances"].append(instances)
            cv2.imwrite(str(folder / peer.INSTANCES.format(index)), instances.astype(np.uint16))
            cv2.imwrite(str(folder / peer.PREDICTION.format(index)), raw[prediction])
        else:
            prediction, truth = label_pair(rng, height, width, num_classes, noise=subject.kind == "noise")
        arrays["predictions"].append(prediction)
        arrays["truths"].append(truth)
        cv2.imwrite(str(folder / peer.TRUTH.format(index)), raw[truth])
    for name, maps in arrays.items():
        np.save(folder / f"{name}.npy", np.stack(maps))


def _time_subject(
    subject: Subject,
    folder: Path,
    rounds: int,
    threads: Sequence[int],
    peer_python: str,
    environment: Mapping[str, str],
) -> list[Row]:
    names = [name for group in subject.groups for name in group]
    contenders = {
        name: Contender(
            name,
            folder,
            subject.num_classes,
            python=peer_python if name == peer.MMSEGMENTATION else "",
            environment=environment,
        )
        for name in names
    }
    versions = {name: contender.wait() for name, contender in contenders.items()}
    if peer_python and versions.get(peer.MMSEGMENTATION, "") is None:
        raise ValueError(f"{peer_python} has no mmsegmentation")
    rows = []
    for count in threads:
        times: dict[str, list[Times]] = {name: [] for name in names}
        for _ in range(rounds + 1):
            for name in names:
                if versions[name]:
                    times[name].append(contenders[name].time(count))
        setting = f"{count}, freed memory kept" if environment else str(count)
        for group in subject.groups:
            rows += [
                {"maps": subject.title, "threads": setting, "contender": name, "version": versions[name]}
                | compared(times[name], times[group[0]])
                for name in group
            ]
    for contender in contenders.values():
        contender.close()
    return rows


def compared(times: Sequence[Times], reference: Sequence[Times]) -> Row:
    """Medians over the rounds, of which the first is a warm-up; ratios are of the same round."""
    row: Row = {}
    for index, kind in enumerate(("cpu", "wall")):
        own, other = ([value[1 - index] for value in values[1:]] for values in (times, reference))
        row[f"images_per_s_{kind}"] = 1 / median(own) if own else None
        row[f"times_ours_{kind}"] = median(a / b for a, b in zip(own, other, strict=True)) if own else None
    return row


def benchmark_table(rows: Sequence[Row]) -> str:
    """Rows of time_counting, or of time_stored, as a table; what is not installed is said to be."""

    def cell(value: float | None) -> str:
        return "not installed" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

    columns = ("images_per_s_cpu", "images_per_s_wall", "times_ours_cpu", "times_ours_wall")
    names = ("images/s, CPU", "images/s, wall", "x our time, CPU", "x our time, wall")
    return tabulate(
        [[row["maps"], row["threads"], row["contender"], *(cell(row[column]) for column in columns)] for row in rows],
        headers=["maps", "threads", "contender", *names],
        tablefmt="pipe",
        disable_numparse=True,
    )


def default_threads() -> int:
    """As many as this process may use cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
