"""Modules by name, of one kind."""

from __future__ import annotations

from collections.abc import ItemsView, ValuesView
from typing import TYPE_CHECKING, Generic, TypeVar

from torch import nn

M = TypeVar("M")


class Named(nn.ModuleDict, Generic[M]):
    """An nn.ModuleDict whose modules are known to be of one kind."""

    if TYPE_CHECKING:

        def __getitem__(self, key: str) -> M: ...  # type: ignore[override]
        def values(self) -> ValuesView[M]: ...  # type: ignore[override]
        def items(self) -> ItemsView[str, M]: ...  # type: ignore[override]
