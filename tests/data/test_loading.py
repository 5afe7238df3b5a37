"""Loaders: a training sample is a function of (seed, position), whatever loads it."""

from __future__ import annotations

import itertools
import sys

import cv2
import numpy as np
import pytest
import torch

from scaleeq.config import add_scaleeq_config
from scaleeq.data.loading import (
    PositionBatches,
    TrainStream,
    build_test_loader,
    build_train_loader,
    epoch_permutation,
    labels_as_bytes,
    spread_over,
)
from scaleeq.data.sets import toy
from scaleeq.engine import get_cfg


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_scaleeq_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(toy.CLASSES)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("toy_sem_seg_train",), ("toy_sem_seg_val",)
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = (64, 160), "range"
    cfg.INPUT.MIN_SIZE_TEST = 0
    cfg.INPUT.COLOR_AUG_SSD = True
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SEED = 7
    return cfg


def equal(first: list[dict], second: list[dict]) -> bool:
    return len(first) == len(second) and all(
        a["file_name"] == b["file_name"]
        and torch.equal(a["image"], b["image"])
        and torch.equal(a["sem_seg"], b["sem_seg"])
        for a, b in zip(first, second, strict=True)
    )


def take(loader, count: int) -> list[list[dict]]:
    return list(itertools.islice(iter(loader), count))


def test_samples_do_not_depend_on_workers_nor_on_the_start(cfg):
    expected = take(build_train_loader(cfg), 4)
    cfg.DATALOADER.NUM_WORKERS = 2
    for start, count in ((0, 4), (2, 2)):
        batches = take(build_train_loader(cfg, start), count)
        assert all(equal(*both) for both in zip(batches, expected[start:], strict=True))
    cfg.SEED = 8
    assert not equal(take(build_train_loader(cfg), 1)[0], expected[0])


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_the_batch_by_slots(world_size):
    """Together, in the order of the ranks, they hold what a single process holds."""
    shares = [
        itertools.islice(PositionBatches(batch_size=8, rank=rank, world_size=world_size, start_iteration=3), 3)
        for rank in range(world_size)
    ]
    together = [[position for share in batch for position in share] for batch in zip(*shares, strict=True)]
    assert together == [list(range(first, first + 8)) for first in (24, 32, 40)]


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match=r"IMS_PER_BATCH.*6 samples cannot be split evenly among 4"):
        PositionBatches(batch_size=6, rank=0, world_size=4)


def test_every_epoch_is_a_permutation_of_its_own():
    records = [{"file_name": str(index)} for index in range(10)]
    stream = TrainStream(records, lambda record, rng: (record["file_name"], rng.integers(1 << 30)), seed=3)
    samples = [stream[position] for position in range(30)]
    epochs = [[int(name) for name, _ in samples[first : first + 10]] for first in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert len({draw for _, draw in samples}) == 30, "each position has draws of its own"
    assert [stream[position] for position in (29, 0, 11)] == [samples[29], samples[0], samples[11]]


def test_the_stream_is_as_documented():
    """From (seed, position) by hand: what another program needs to repeat it."""
    np.testing.assert_array_equal(epoch_permutation(5, 2, 9), np.random.default_rng([5, 2, 1]).permutation(9))
    stream = TrainStream([{"file_name": "a"}], lambda record, rng: rng.random(), seed=5)
    assert stream[6] == np.random.default_rng([5, 6]).random()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the platform's way of starting processes stays")
def test_workers_are_forked_also_where_processes_are_spawned(cfg):
    """As in a rank that was itself spawned: there the default is to spawn, which imports torch once more."""
    cfg.DATALOADER.NUM_WORKERS = 1
    assert build_train_loader(cfg).multiprocessing_context.get_start_method() == "fork"
    cfg.DATALOADER.NUM_WORKERS = 0
    assert build_train_loader(cfg).multiprocessing_context is None


def test_workers_after_threads_in_the_parent_do_not_hang(cfg):
    """Torch and OpenCV have started their threads before the fork; the timeout of the suite would end a deadlock."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.randn(400, 400) @ torch.randn(400, 400)
        torch.randn(8, 8, 128, 128).relu_().sum().item()
        cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (31, 31), 5)
        cfg.DATALOADER.NUM_WORKERS = 2
        loader = iter(build_train_loader(cfg))
        for _ in range(3):
            torch.randn(400, 400) @ torch.randn(400, 400)
            assert len(next(loader)) == 4
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_test_loader_gives_every_image_once_in_order(cfg, num_workers):
    cfg.DATALOADER.NUM_WORKERS = num_workers
    loader = build_test_loader(cfg, "toy_sem_seg_val")
    assert len(loader) == 64
    batches = list(loader)
    assert [sample["image_id"] for batch in batches for sample in batch] == [f"val_{index:04d}" for index in range(64)]
    assert all(len(batch) == 1 for batch in batches)
    assert torch.equal(batches[9][0]["sem_seg_truth"], torch.from_numpy(toy.render_scene("val", 9)[1]))


def test_several_train_sets_are_joined(cfg):
    cfg.DATASETS.TRAIN = ("toy_sem_seg_train", "toy_sem_seg_val")
    assert len(build_train_loader(cfg).dataset.records) == 512 + 64


@pytest.mark.parametrize(
    ("fraction", "kept"), [(1.0, list(range(10))), (0.5, [0, 2, 4, 6, 8]), (0.3, [0, 3, 6]), (0.01, [0])]
)
def test_a_fraction_of_the_images_is_spread_over_the_list(fraction, kept):
    assert [record["image_id"] for record in spread_over([{"image_id": i} for i in range(10)], fraction)] == kept
    with pytest.raises(ValueError, match="TRAIN_FRACTION is 0; give a share"):
        spread_over([], 0)


def test_training_sees_the_fraction_alone(cfg):
    cfg.DATASETS.TRAIN_FRACTION = 0.25
    assert len(build_train_loader(cfg).dataset.records) == 128  # of 512 scenes


def test_without_a_seed_one_is_drawn(cfg):
    cfg.SEED = -1
    assert build_train_loader(cfg).dataset.seed >= 0


def test_refusals(cfg):
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 54
    for build in (build_train_loader, lambda cfg: build_test_loader(cfg, "toy_sem_seg_val")):
        with pytest.raises(ValueError, match=r"NUM_CLASSES is 54, but the data set toy_sem_seg_.* has 8 classes"):
            build(cfg)
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(ValueError, match=r"DATASETS.TRAIN is empty"):
        build_train_loader(cfg)
    with pytest.raises(ValueError, match=r"there are .*camvid"):
        build_test_loader(cfg, "no_such_set")


def test_labels_on_their_way_to_a_gpu_are_bytes_where_they_fit():
    labels = torch.tensor([[0, 7], [254, 255]])
    samples = [{"sem_seg": labels, "file_name": "a"}, {"image": labels}, {"sem_seg": labels + 1}, {"sem_seg": -labels}]
    compact = labels_as_bytes(samples)
    assert compact[0]["sem_seg"].dtype == torch.uint8 and torch.equal(compact[0]["sem_seg"].long(), labels)
    assert compact[0]["file_name"] == "a"
    assert compact[1:] == samples[1:]
    assert samples[0]["sem_seg"] is labels
