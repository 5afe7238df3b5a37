"""A covering array: few points of a grid that contain every pair of values that may occur together.

Greedy and deterministic, after AETG (Cohen et al., "The AETG system", 1997): each new point starts from a pair that is
not covered yet and takes, axis by axis in random order, the value that covers most; the best of a few such points is
kept. Rules forbid combinations: a choice takes from the other axes the values that it leaves impossible, and a point
is completed by depth-first search.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence, Set

Point = dict[str, str]
Pair = frozenset[tuple[str, str]]
Rule = Mapping[str, Sequence[str]]  # forbids the points whose value is listed, on each of its axes
Domains = Mapping[str, Sequence[str]]  # what each axis may still be


def matches(rule: Rule, point: Point) -> bool:
    """Whether a point has what the rule forbids."""
    return all(point[axis] in values for axis, values in rule.items())


def pairs(point: Point) -> set[Pair]:
    """The pairs of values that a point contains."""
    return {frozenset(two) for two in itertools.combinations(point.items(), 2)}


class Grid:
    """Axes (name -> values) and the rules that forbid some of their combinations."""

    def __init__(self, axes: Mapping[str, Sequence[str]], rules: Sequence[Rule]):
        self.axes = axes
        self.rules = {axis: [rule for rule in rules if axis in rule] for axis in axes}

    def choose(self, domains: Domains, axis: str, value: str) -> Domains | None:
        """What is left of the domains with this choice; None: some rule is broken."""
        left, changed = {**domains, axis: (value,)}, [axis]
        while changed:
            for rule in self.rules[changed.pop()]:
                escapes = {one: [v for v in left[one] if v not in values] for one, values in rule.items()}
                open_axes = [one for one, values in escapes.items() if values]
                if not open_axes:
                    return None
                if len(open_axes) == 1 and len(escapes[open_axes[0]]) < len(left[open_axes[0]]):
                    left[open_axes[0]] = tuple(escapes[open_axes[0]])
                    changed.append(open_axes[0])
        return left

    def points(self, domains: Domains, order: Sequence[str], missing: Set[Pair] = frozenset()) -> Iterator[Point]:
        """Allowed points within the domains; axes in `order` take the value first that covers most of `missing`."""
        if not order:
            yield {axis: domains[axis][0] for axis in self.axes}
            return
        axis, known = order[0], [(one, values[0]) for one, values in domains.items() if len(values) == 1]
        gain = {v: sum(frozenset(((axis, v), other)) in missing for other in known) for v in domains[axis]}
        for value in sorted(gain, key=gain.__getitem__, reverse=True):
            if left := self.choose(domains, axis, value):
                yield from self.points(left, order[1:], missing)

    def points_with(self, pair: Pair, order: Sequence[str], missing: Set[Pair] = frozenset()) -> Iterator[Point]:
        """Allowed points that contain a pair."""
        domains: Domains | None = self.axes
        for axis, value in sorted(pair):
            if domains is None or value not in domains[axis]:
                return
            domains = self.choose(domains, axis, value)
        if domains is not None:
            yield from self.points(domains, order, missing)

    def allowed_pairs(self) -> dict[Pair, None]:
        """Every pair of values that some allowed point contains."""
        allowed: dict[Pair, None] = {}
        seen: set[Pair] = set()
        for (one, ones), (other, others) in itertools.combinations(self.axes.items(), 2):
            for x, y in itertools.product(ones, others):
                pair = frozenset(((one, x), (other, y)))
                if pair not in seen:
                    seen |= pairs(next(self.points_with(pair, list(self.axes)), {}))
                if pair in seen:
                    allowed[pair] = None
        return allowed

    def covering_array(self, *, candidates: int = 8, seed: int = 0) -> list[Point]:
        """Allowed points that together contain all allowed pairs."""
        generator, missing, array = random.Random(seed), self.allowed_pairs(), []
        while missing:
            found = []
            for start in generator.sample(list(missing), min(candidates, len(missing))):
                order = generator.sample(list(self.axes), len(self.axes))
                found.append(next(self.points_with(start, order, missing.keys())))
            array.append(max(found, key=lambda point: len(pairs(point) & missing.keys())))
            for pair in pairs(array[-1]):
                missing.pop(pair, None)
        return array
