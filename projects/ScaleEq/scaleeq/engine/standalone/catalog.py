"""Datasets by name: how to list their records, and what is known about them.

Source: Detectron2's data/sets/catalog.py.
Deviations: metadata keys that Detectron2 has renamed (class_names, stuff_class_names) are not redirected.
"""

from __future__ import annotations

import builtins
import copy
import types
from collections import UserDict
from collections.abc import Callable
from typing import Any


class _DatasetCatalog(UserDict):
    """Name -> function without arguments that returns the list of records, the same at every call."""

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

    def list(self) -> builtins.list[str]:
        return builtins.list(self.keys())

    def remove(self, name: str) -> None:
        self.pop(name)

    def __str__(self) -> str:
        return f"DatasetCatalog(registered datasets: {', '.join(self.keys())})"

    __repr__ = __str__


class Metadata(types.SimpleNamespace):
    """What is known about one dataset, as attributes; one that is set keeps its value."""

    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        raise AttributeError(f"no {key!r} in the metadata of dataset {self.name!r}; it has {sorted(self.__dict__)}")

    def __setattr__(self, key: str, val: Any) -> None:
        if not hasattr(self, key):
            super().__setattr__(key, val)
        elif getattr(self, key) != val:
            raise AssertionError(
                f"{key!r} of dataset {self.name!r} is {getattr(self, key)!r} and cannot become {val!r}"
            )

    def as_dict(self) -> dict[str, Any]:
        """A shallow copy: changing it does not change the metadata."""
        return copy.copy(self.__dict__)

    def set(self, **kwargs: Any) -> Metadata:
        for key, value in kwargs.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        return getattr(self, key, default)


class _MetadataCatalog(UserDict):
    """Name -> Metadata, made at the first request and kept."""

    def get(self, name: str) -> Metadata:  # type: ignore[override]
        """Raises AssertionError for an empty name."""
        if not name:
            raise AssertionError("a dataset's name cannot be empty")
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]

    def list(self) -> builtins.list[str]:
        return builtins.list(self.keys())

    def remove(self, name: str) -> None:
        self.pop(name)

    def __str__(self) -> str:
        return f"MetadataCatalog(registered metadata: {', '.join(self.keys())})"

    __repr__ = __str__


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
