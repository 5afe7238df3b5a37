"""Which images a run reads, so that a resumed one is not continued on others without a word.

A data set's fingerprint has 64 bits for each record, in the order of the records, which decides the sampling: a hash of
the names and sizes in bytes of its files (of a toy scene: its parameters). Names are relative to the folder that all
files of the data set share, so a copy at another place is the same data set. Files are not opened: one changed within
its size is not noticed.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence

import torch

from scaleeq.engine import CfgNode, DatasetCatalog
from scaleeq.records import Json, JsonView

from .folder import find_dataset
from .loading import spread_over
from .sets.catalog import Record

FRACTION = "DATASETS.TRAIN_FRACTION"
State = Json  # a fraction, and for each of KEYS: data set -> numbers
KEYS = ("DATASETS.TRAIN", "DATASETS.TEST")


def fingerprint(records: Sequence[Record]) -> torch.Tensor:
    """(N,) int64, one number a record."""
    files = [[(key, str(record[key])) for key in _file_keys(record)] for record in records]
    names: dict[str, set[str]] = defaultdict(set)
    for _, path in (pair for pairs in files for pair in pairs):
        folder, name = os.path.split(path)
        names[folder].add(name)
    places = _relative(list(names))
    sizes = {folder: _sizes(folder, wanted) for folder, wanted in names.items()}
    numbers = []
    for record, pairs in zip(records, files, strict=True):
        words = [repr(record["read"].keywords)] if "read" in record else []
        for key, path in pairs:
            folder, name = os.path.split(path)
            words += [key, places[folder], name, str(sizes[folder].get(name))]
        digest = hashlib.blake2b("\0".join(words).encode(errors="surrogateescape"), digest_size=8).digest()
        numbers.append(int.from_bytes(digest, "little", signed=True))
    return torch.tensor(numbers, dtype=torch.int64)


def _file_keys(record: Record) -> list[str]:
    """The keys of a record's files, sorted; one that is made by a function has none, and is known by one name."""
    return ["file_name"] if "read" in record else [key for key in sorted(record) if key.endswith("file_name")]


def _relative(folders: Sequence[str]) -> dict[str, str]:
    """Each folder -> its path from the one that all share; as it is, where they share none."""
    try:
        shared = os.path.commonpath(folders) if folders else ""
    except ValueError:  # absolute and relative ones
        return {folder: folder for folder in folders}
    return {folder: os.path.relpath(folder, shared or os.curdir) for folder in folders}


def _sizes(folder: str, names: set[str]) -> dict[str, int]:
    """Name -> bytes, of those that are there; the folder is listed once, which is quick on a network disk too."""
    try:
        with os.scandir(folder or os.curdir) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.name in names}
    except OSError:  # generated, or not a local path
        return {}


class DataFingerprint:
    """Of the data sets that a config names; DATASETS.TRAIN's after TRAIN_FRACTION.

    Its state_dict is part of a checkpoint; `differences` compares with one.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self._fraction = float(cfg.DATASETS.TRAIN_FRACTION)
        self._names: dict[tuple[str, str], list[str]] = {}  # of the images, by key and data set
        self._numbers: dict[tuple[str, str], torch.Tensor] = {}
        for key, sets in zip(KEYS, (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST), strict=True):
            for name in sets:
                find_dataset(name)  # registers a folder
                records = DatasetCatalog.get(name)
                if key == KEYS[0]:
                    records = spread_over(records, self._fraction)
                self._names[key, name] = [os.path.basename(str(record.get("file_name", ""))) for record in records]
                self._numbers[key, name] = fingerprint(records)

    def state_dict(self) -> State:
        state: State = {FRACTION: self._fraction, **{key: {} for key in KEYS}}
        for (key, name), numbers in self._numbers.items():
            state[key][name] = numbers
        return state

    def differences(self, saved: JsonView) -> list[str]:
        """One phrase for each data set that has changed since `saved`, a state_dict.

        Data sets that only one of them names are not compared, nor is DATASETS.TRAIN with another TRAIN_FRACTION: those
        are changes of the config, of which a resumed run warns.
        """
        found = []
        for (key, name), now in self._numbers.items():
            before = saved[key].get(name)
            if before is None or (key == KEYS[0] and saved[FRACTION] != self._fraction) or torch.equal(before, now):
                continue
            both = min(len(before), len(now))
            unequal = (before[:both] != now[:both]).nonzero()
            first = int(unequal[0]) if len(unequal) else both
            names = self._names[key, name]
            where = f"from image {first + 1} on, now {names[first]}," if first < len(names) else f"after {names[-1]}"
            counts = f"{len(now)} images, the run began with {len(before)}"
            if len(now) == len(before):
                counts = f"{len(now)} images as before, but others, or in another order, or of other sizes"
            found.append(f"{key} {name} has {counts}: they differ {where.rstrip(',')}")
        return found
