"""A value that a user chooses by name, and the one wording in which an unknown one is refused.

Needs the standard library alone, and is open to every room.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeVar

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
    near = difflib.get_close_matches(str(value).lower(), list(names), n=1, cutoff=0.6)
    return f" (did you mean {names[near[0]]}?)" if near else ""
