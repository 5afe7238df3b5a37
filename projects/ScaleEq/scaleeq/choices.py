"""Names that a user types: choices, the one wording in which an unknown one is refused, nearest names, full keys.

Needs the standard library alone, and is open to every room.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

Choice = TypeVar("Choice")


def one_of(value: Choice, choices: Iterable[Choice], *, key: str) -> Choice:
    """The value itself, where it is one of `choices`.

    key: what the value is of, as its user types it: a config key, an argument, an option.

    ValueError: it is none of them; names the key, the value, the choices, and the one that it looks like.
    """
    known = list(choices)
    if any(value == choice and type(value) is type(choice) for choice in known):
        return value
    listed = ", ".join(repr(choice) if choice == "" else str(choice) for choice in known)
    raise ValueError(f"{key} is {value!r}; choose one of {listed}{did_you_mean(value, known)}")


def did_you_mean(value: object, known: Iterable[object]) -> str:
    """ " (did you mean fpn?)" where one of the known names looks like `value`; else empty."""
    names = {str(name).lower(): str(name) for name in known if str(name)}
    near = nearest(str(value).lower(), names, count=1)
    return f" (did you mean {names[near[0]]}?)" if near else ""


def nearest(name: object, known: Iterable[str], *, count: int = 4, cutoff: float = 0.6) -> list[str]:
    """Up to `count` of the known names that look like `name`, the most similar first; cutoff in [0, 1], 1: equal."""
    return difflib.get_close_matches(str(name), list(known), n=count, cutoff=cutoff)


def flatten(
    tree: Mapping[str, Any], prefix: str = "", *, sections: bool = False, separator: str = "."
) -> Iterator[tuple[str, Any]]:
    """Full key ("SOLVER.MAX_ITER") and value of every leaf of nested mappings, in their order.

    sections: the mappings too, each before what it holds. separator: between the words of a key.
    """
    for name, value in tree.items():
        inner = isinstance(value, Mapping)
        if sections or not inner:
            yield f"{prefix}{name}", value
        if inner:
            yield from flatten(value, f"{prefix}{name}{separator}", sections=sections, separator=separator)
