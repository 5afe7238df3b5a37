"""Which images each process evaluates.

Source: Detectron2's data/samplers/distributed_sampler.py.
Deviations: only InferenceSampler; training has its own stream.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler

from . import comm


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
