"""A mixture of data sets: which record is at a position of the training stream, in given shares of the sets.

The positions are cut into blocks of BLOCK. In each block every set has the same number of places, in an order of the
seed and the block; so how many samples of a set come before a position is known without looking at them, and a run
resumes anywhere. Each set goes through its own epochs, every one in an order of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

BLOCK = 1000  # positions; shares are rounded to so many parts
MIXTURE_STREAM, SET_STREAM = 2, 3  # keep these draws apart from those of samples and of epochs without a mixture


class Mixture:
    """position -> index in the records of all sets, one set after another."""

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], *, seed: int) -> None:
        """
        sizes: records of each set. weights: what the shares of the sets are in proportion to.
        ValueError: not one weight a set, or one whose share is less than one in BLOCK.
        """
        refuse_weights(weights, len(sizes))
        self.sizes, self.seed = list(sizes), seed
        self.places = places(weights)
        self.starts = [sum(self.sizes[:index]) for index in range(len(sizes))]
        self._block = functools.lru_cache(maxsize=4)(self._make_block)
        self._order = functools.lru_cache(maxsize=4 * len(self.sizes))(self._make_order)

    def __call__(self, position: int) -> int:
        """The index of the record at a position, from 0 on."""
        block, offset = divmod(position, BLOCK)
        sets, before = self._block(block)
        which = int(sets[offset])
        epoch, index = divmod(block * self.places[which] + int(before[offset]), self.sizes[which])
        return self.starts[which] + int(self._order(which, epoch)[index])

    def _make_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """(BLOCK,) each: the set at each place, and how many of that set come before it in the block."""
        sets = np.repeat(np.arange(len(self.places)), self.places)
        sets = np.random.default_rng([self.seed, block, MIXTURE_STREAM]).permutation(sets)
        before = np.zeros(BLOCK, np.int64)
        for which, count in enumerate(self.places):
            before[sets == which] = np.arange(count)
        return sets, before

    def _make_order(self, which: int, epoch: int) -> np.ndarray:
        """(size,): the order of a set's records in one of its epochs."""
        return np.random.default_rng([self.seed, epoch, SET_STREAM, which]).permutation(self.sizes[which])

    def __getstate__(self) -> dict[str, object]:
        """Without what is cached, which a worker makes again."""
        return {key: value for key, value in self.__dict__.items() if key not in ("_block", "_order")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._block = functools.lru_cache(maxsize=4)(self._make_block)
        self._order = functools.lru_cache(maxsize=4 * len(self.sizes))(self._make_order)


def refuse_weights(weights: Sequence[float], num_sets: int) -> None:
    """ValueError: not one weight a set, or one whose share is less than one in BLOCK."""
    if len(weights) != num_sets or not all(weight > 0 for weight in weights):
        raise ValueError(
            f"DATALOADER.WEIGHTS is {list(weights)}; give a number above 0 for each of {num_sets} data sets"
        )
    if not all(places(weights)):
        raise ValueError(
            f"DATALOADER.WEIGHTS is {list(weights)}: the smallest share is less than one in {BLOCK}; leave that "
            "set out of DATASETS.TRAIN, or give it more"
        )


def places(weights: Sequence[float]) -> list[int]:
    """How many of BLOCK places each weight gets: in proportion, the largest remainders rounded up."""
    shares = np.asarray(weights, np.float64) / sum(weights) * BLOCK
    found = np.floor(shares).astype(int)
    for index in np.argsort(-(shares - found), kind="stable")[: BLOCK - int(found.sum())]:
        found[index] += 1
    return found.tolist()
