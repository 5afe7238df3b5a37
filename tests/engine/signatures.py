"""The public face of a class, function or module as plain data: its members, their parameters and defaults."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any


def members(thing: Any, packages: tuple[str, ...]) -> dict[str, Any]:
    """Member -> [[parameter, kind, default], ...], "property" or "abstract"; a function is its own member "()".

    packages: only members that come from a module of these are listed; an instance counts as its class.
    """
    if inspect.isroutine(thing) or hasattr(thing, "__wrapped__"):
        return {"()": parameters(thing)}
    if isinstance(thing, ModuleType):
        public = {name: value for name, value in vars(thing).items() if not name.startswith("_")}
        return {name: parameters(value) for name, value in public.items() if _is_from(value, packages)}
    found: dict[str, Any] = {}
    for owner in (thing if inspect.isclass(thing) else type(thing)).__mro__:
        if owner.__module__.partition(".")[0] not in {package.partition(".")[0] for package in packages}:
            continue
        for name, value in vars(owner).items():
            if name == "__init__" or not name.startswith("_"):
                found.setdefault(name, _member(value))
    return {name: value for name, value in found.items() if value is not None}


def _is_from(value: Any, packages: tuple[str, ...]) -> bool:
    return callable(value) and getattr(value, "__module__", "").startswith(packages) and not inspect.isclass(value)


def _member(value: Any) -> Any:
    if getattr(value, "__isabstractmethod__", False):
        return "abstract"  # its parameters are its subclasses'
    if isinstance(value, property):
        return "property"
    function = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
    return parameters(function) if callable(function) else None


def parameters(function: Any) -> list[list[str]]:
    """[name, kind, default] of each parameter but self and cls; the default as it prints, "" for none."""
    found = inspect.signature(function).parameters.values()
    rows = [[p.name, p.kind.name, "" if p.default is p.empty else repr(p.default)] for p in found]
    return [row for row in rows if row[0] not in ("self", "cls")]


def misfits(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """What of `ours` a caller could use that `theirs` does not take in the same way."""
    found = []
    for member, face in ours.items():
        other = theirs.get(member)
        if other is None:
            found.append(f"{member} is not there")
        elif isinstance(face, str) or isinstance(other, str):
            found += [f"{member} is {face}, there {other}"] if face != other else []
        else:
            found += [f"{member}: {problem}" for problem in _parameter_misfits(face, other)]
    return found


def _parameter_misfits(ours: list[list[str]], theirs: list[list[str]]) -> list[str]:
    their_kinds = {kind for _, kind, _ in theirs}
    takes_anything = {"VAR_POSITIONAL", "VAR_KEYWORD"} <= their_kinds
    by_name = {row[0]: row for row in theirs}
    found = []
    for row in ours:
        other = by_name.get(row[0])
        if other != row and not (other is None and takes_anything):
            found.append(f"parameter {row} is there {other}")
    required = [row[0] for row in theirs if row[2] == "" and not row[1].startswith("VAR_")]
    found += [f"there {name} is required" for name in required if name not in [row[0] for row in ours]]
    positional = [[row[0] for row in rows if row[1] == "POSITIONAL_OR_KEYWORD"] for rows in (ours, theirs)]
    if not takes_anything and positional[0] != positional[1][: len(positional[0])]:
        found.append(f"positions {positional[0]} are there {positional[1]}")
    return found
