"""Datasets by name: how to list their records, and what is known about them; which images each process evaluates.

Source: Detectron2's data/catalog.py and data/samplers/distributed_sampler.py.
Deviations: metadata keys that Detectron2 has renamed (class_names, stuff_class_names) are not redirected; of the
samplers only InferenceSampler, as training has its own stream.
"""

from __future__ import annotations

import builtins
import copy
import types
from collections import UserDict
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import Sampler

from . import comm


class _Catalog(UserDict):
    """A dictionary by the names of datasets, with Detectron2's further words for it."""

    title: str

    def list(self) -> builtins.list[str]:
        return builtins.list(self.keys())

    def remove(self, name: str) -> None:
        self.pop(name)

    def __str__(self) -> str:
        return f"{self.title}: {', '.join(self.keys())})"

    __repr__ = __str__


class _DatasetCatalog(_Catalog):
    """Name -> function without arguments that returns the list of records, the same at every call."""

    title = "DatasetCatalog(registered datasets"

    def register(self, name: str, func: Callable[[], builtins.list[dict]]) -> None:
        """Raises AssertionError where func is not callable or the name is taken."""
        if not callable(func):
            raise AssertionError(f"dataset {name!r} is registered with a function, not with {func!r}")
        if name in self:
            raise AssertionError(f"dataset {name!r} is already registered")
        self[name] = func

    def get(self, name: str) -> builtins.list[dict]:  # type: ignore[override]
        """The records of a dataset. Raises KeyError, listing the datasets, for a name that is not registered."""
        if name not in self:
            raise KeyError(f"dataset {name!r} is not registered; available: {', '.join(map(str, self))}")
        return self[name]()


class Metadata(types.SimpleNamespace):
    """What is known about one dataset, as attributes; one that is set keeps its value."""

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        raise AttributeError(f"no {key!r} in the metadata of dataset {self.name!r}; it has {sorted(self.__dict__)}")

    def __setattr__(self, key: str, val: object) -> None:
        if not hasattr(self, key):
            super().__setattr__(key, val)
        elif getattr(self, key) != val:
            raise AssertionError(
                f"{key!r} of dataset {self.name!r} is {getattr(self, key)!r} and cannot become {val!r}"
            )

    def as_dict(self) -> dict[str, object]:
        """A shallow copy: changing it does not change the metadata."""
        return copy.copy(self.__dict__)

    def set(self, **kwargs: object) -> Metadata:
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        return getattr(self, key, default)


class _MetadataCatalog(_Catalog):
    """Name -> Metadata, made at the first request and kept."""

    title = "MetadataCatalog(registered metadata"

    def get(self, name: str) -> Metadata:  # type: ignore[override]
        """Raises AssertionError for an empty name."""
        if not name:
            raise AssertionError("a dataset's name cannot be empty")
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()


class InferenceSampler(Sampler[int]):
    """Indices 0 ... size - 1, each on exactly one process: contiguous shards, the first ones longer by one."""

    def __init__(self, size: int) -> None:
        """size: number of images. Raises AssertionError where it is not positive."""
        if size <= 0:
            raise AssertionError(f"InferenceSampler needs at least one image, not {size}")
        self._local_indices = self._get_local_indices(size, comm.get_world_size(), comm.get_rank())

    @staticmethod
    def _get_local_indices(total_size: int, world_size: int, rank: int) -> range:
        share, left = divmod(total_size, world_size)
        begin = rank * share + min(rank, left)
        return range(begin, begin + share + (rank < left))

    def __iter__(self) -> Iterator[int]:
        yield from self._local_indices

    def __len__(self) -> int:
        return len(self._local_indices)
