"""Loaders. The training stream has positions k = 0, 1, 2, ...; a sample is a function of (seed, k) alone.

Position k belongs to epoch k // N, whose permutation (of the seed and the epoch) picks the record, and
numpy.random.default_rng([seed, k]) drives its augmentation. Iteration i of a global batch of B holds the positions
i * B .. i * B + B - 1; each rank takes its slots of them. So samples depend neither on the number of workers nor on the
number of ranks, and training resumes at any iteration by starting there. With DATALOADER.WEIGHTS a mixture of the data
sets picks the record instead (mixture.py). Deviation from Detectron2, whose sampler
starts again when a run is resumed, and whose workers seed themselves.
"""

from __future__ import annotations

import functools
import itertools
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from scaleeq.engine import CfgNode, DatasetCatalog, InferenceSampler, comm
from scaleeq.stopping import leave_signals_to_parent

from .folder import find_dataset
from .mapper import Sample, SegmentationMapper
from .mixture import Mixture
from .rules import check_classes, check_train_sets, samples_per_pass
from .sets.catalog import Record

PERMUTATION_STREAM = 1  # keeps the epochs' draws apart from the samples'


class TrainStream(Dataset):
    """The samples of all positions k >= 0, by stream[k]."""

    def __init__(
        self,
        records: Sequence[Record],
        mapper: SegmentationMapper,
        *,
        seed: int,
        order: Callable[[int], int] | None = None,
    ) -> None:
        """order: position -> index of a record; None: each once an epoch."""
        if not records:
            raise ValueError("no records to train on")
        self.order = order
        self.records = records
        self.mapper = mapper
        self.seed = seed

    def __getitem__(self, position: int) -> Sample:
        if self.order is None:
            epoch, index = divmod(position, len(self.records))
            record = self.records[epoch_permutation(self.seed, epoch, len(self.records))[index]]
        else:
            record = self.records[self.order(position)]
        return self.mapper(record, np.random.default_rng([self.seed, position]))


@functools.lru_cache(maxsize=4)
def epoch_permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of an epoch: (size,) int64."""
    return np.random.default_rng([seed, epoch, PERMUTATION_STREAM]).permutation(size)


class RecordSamples(Dataset):
    """The samples of a data set for testing, in its order."""

    def __init__(self, records: Sequence[Record], mapper: SegmentationMapper) -> None:
        self.records = records
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        return self.mapper(self.records[index])


class PositionBatches(Sampler[list[int]]):
    """Positions of one rank's share of every batch, without end."""

    def __init__(self, *, batch_size: int, rank: int, world_size: int, start_iteration: int = 0) -> None:
        """
        batch_size: of all ranks together.
        start_iteration: the first batch is this iteration's.
        Raises ValueError if the ranks cannot share a batch evenly.
        """
        self.batch_size = batch_size
        self.share = samples_per_pass(batch_size, num_processes=world_size)
        self.rank = rank
        self.start_iteration = start_iteration

    def __iter__(self) -> Iterator[list[int]]:
        for iteration in itertools.count(self.start_iteration):
            first = iteration * self.batch_size + self.rank * self.share
            yield list(range(first, first + self.share))


def build_train_loader(
    cfg: CfgNode, start_iteration: int = 0, *, mapper: SegmentationMapper | None = None
) -> DataLoader:
    """An endless loader of DATASETS.TRAIN; each batch is this rank's list of samples.

    start_iteration: where the stream starts, for resuming.
    mapper: instead of the config's.
    """
    check_train_sets(cfg)
    fraction = cfg.DATASETS.TRAIN_FRACTION
    sets = [spread_over(load_records(cfg, name), fraction) for name in cfg.DATASETS.TRAIN]
    records = [record for each in sets for record in each]
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    logging.getLogger(__name__).info(
        "Training on %d images of %s, seed %d, from iteration %d",
        len(records),
        ", ".join(cfg.DATASETS.TRAIN),
        seed,
        start_iteration,
    )
    batches = PositionBatches(
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
        rank=comm.get_rank(),
        world_size=comm.get_world_size(),
        start_iteration=start_iteration,
    )
    weights = cfg.DATALOADER.WEIGHTS
    order = Mixture(list(map(len, sets)), weights, seed=seed) if weights else None
    stream = TrainStream(records, mapper or SegmentationMapper.from_config(cfg, is_train=True), seed=seed, order=order)
    return _loader(stream, batches, cfg.DATALOADER.NUM_WORKERS, to_cuda=cfg.MODEL.DEVICE.startswith("cuda"))


def spread_over(records: Sequence[Record], fraction: float) -> list[Record]:
    """So large a share of the records, at least one, at even distances; the same ones whatever the seed."""
    if not 0 < fraction <= 1:
        raise ValueError(f"DATASETS.TRAIN_FRACTION is {fraction}; give a share in (0, 1]")
    kept = max(1, round(fraction * len(records)))
    return [records[index * len(records) // kept] for index in range(kept if records else 0)]


def build_test_loader(cfg: CfgNode, name: str, *, mapper: SegmentationMapper | None = None) -> DataLoader:
    """A loader of this rank's part of the data set, one image a batch, in order.

    name: of the data set. mapper: instead of the config's.
    """
    samples = RecordSamples(load_records(cfg, name), mapper or SegmentationMapper.from_config(cfg, is_train=False))
    batches = [[index] for index in InferenceSampler(len(samples))]
    return _loader(samples, batches, cfg.DATALOADER.NUM_WORKERS, to_cuda=cfg.MODEL.DEVICE.startswith("cuda"))


def load_records(cfg: CfgNode, name: str) -> list[Record]:
    """The records of a data set, after checking that a model of its classes has them all.

    ValueError: MODEL.SEM_SEG_HEAD.NUM_CLASSES is not the data set's number, or there is no such data set.
    FileNotFoundError: its files are missing.
    """
    check_classes(cfg, name, find_dataset(name))
    return DatasetCatalog.get(name)


def _loader(dataset: Dataset, batches: Iterable[list[int]], num_workers: int, *, to_cuda: bool) -> DataLoader:
    """to_cuda: the samples go to a GPU: pinned, so that no copy there makes the host wait, and with labels as bytes.

    Workers are not persistent: a run's stream is iterated once, an evaluation's samples too, and a second iterator of
    one loader would take over the first one's workers, and with them its place in the stream.
    """
    to_cuda = to_cuda and torch.cuda.is_available()
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=labels_as_bytes if to_cuda else _as_list,
        pin_memory=to_cuda,
        worker_init_fn=_single_thread,
        # A rank that was spawned would spawn its workers too, and each of them import torch again: seconds a loader.
        multiprocessing_context="fork" if num_workers and sys.platform == "linux" else None,
    )


def _as_list(samples: list[Sample]) -> list[Sample]:
    return samples


def labels_as_bytes(samples: list[Sample]) -> list[Sample]:
    """The samples with "sem_seg" as uint8, an eighth of the mapper's int64 (Detectron2's type): between processes, in
    pinned memory and on the way to the device, where the training step makes int64 of it again.

    Labels of a mapper of your own that do not fit stay as they are.
    """
    compact = []
    for sample in samples:
        labels = sample.get("sem_seg")
        if labels is not None and torch.equal(labels.to(torch.uint8).to(labels.dtype), labels):
            sample = {**sample, "sem_seg": labels.to(torch.uint8)}
        compact.append(sample)
    return compact


def _single_thread(worker_id: int) -> None:
    """Workers are the parallelism: threads inside them would only compete, and OpenMP threads do not survive a fork."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    leave_signals_to_parent()
