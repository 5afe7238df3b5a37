"""Four of the tasks that come with ScaleEq in one model, on scenes with planes for surfaces. Oracle: one task alone."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from scaleeq.data.sets.catalog import register_dataset
from scaleeq.data.sets.toy import CLASSES, COLORS
from scaleeq.engine import DatasetCatalog, build_model
from scaleeq.inference import Inference, InferenceOptions
from scaleeq.tasks import build_tasks
from scaleeq.training import Trainer
from scaleeq.training.step import TrainingStep
from tests.training.tiny import tiny_config

TASKS = ["sem_seg", "depth", "normals", "edges"]
SIZE = (128, 128)  # of the toy scenes


def a_plane(slope):
    """Depth of a plane that recedes upwards, metres; its upper rows are unknown."""
    depth = 2 + slope * np.linspace(1, 0, SIZE[0], dtype=np.float32)[:, None].repeat(SIZE[1], 1)
    depth[:20] = 0
    return depth


def its_normals(slope):
    normal = np.array([0.0, -slope, -1.0], np.float32)
    return np.broadcast_to(normal / np.linalg.norm(normal), (*SIZE, 3))


def some_edges(slope):
    edges = np.zeros(SIZE, np.uint8)
    edges[20], edges[:, int(40 * slope) : int(40 * slope) + 2] = 1, 1
    return edges


def planes(split, size):
    """Toy scenes with more truths; every third one has no depth, every fourth no labels."""
    records = []
    for index, scene in enumerate(DatasetCatalog.get(f"toy_sem_seg_{split}")[:size]):
        slope = 1 + index / size
        maps = {"read_depth": a_plane, "read_normals": its_normals, "read_edges": some_edges}
        record = scene | {key: partial(make, slope) for key, make in maps.items()}
        if index % 3 == 1:
            del record["read_depth"]
        records.append(record)
    return records


def config(tmp_path, **changes):
    for split, size in (("train", 12), ("val", 3)):
        register_dataset(f"planes_{split}", partial(planes, split, size), classes=CLASSES, colors=COLORS)
    keys = {"MODEL__TASKS__NAMES": TASKS, "MODEL__TASKS__WEIGHTS": [1.0, 1.0, 10.0, 50.0], "SEED": 1}
    keys |= {"DATASETS__TRAIN": ("planes_train",), "DATASETS__TEST": ("planes_val",), "TEST__EDGES__MATCH": False}
    keys |= {"MODEL__SCALE_EQUALIZER__ENABLED": True, "MODEL__SCALE_EQUALIZER__SCOPE": "all"}
    return tiny_config(tmp_path, **keys | changes)


def test_four_tasks_train_and_are_evaluated(tmp_path):
    cfg = config(tmp_path, TEST__EVAL_PERIOD=2, TEST__BEST_METRIC="depth/rmse")
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    assert {"sem_seg", "depth", "normals", "edges"} == set(results)
    assert 0 < results["depth"]["rmse"] < 2 and 0 < results["normals"]["mean"] < 90
    losses = {name for name in trainer.storage.latest() if name.startswith("loss_")}
    assert losses == {"loss_sem_seg_aux_res4", *(f"loss_{task}" for task in TASKS)}
    assert trainer.headline(cfg).name == "depth/rmse" and (tmp_path / "model_best.json").is_file()


def test_the_loss_of_each_task_is_the_whole_batchs_however_it_is_cut(tmp_path):
    """1 x 8, 2 x 4 and 4 x 2, with unequal numbers of valid pixels, and images of which a task knows nothing."""
    cfg = config(tmp_path, SOLVER__IMS_PER_BATCH=8, MODEL__SCALE_EQUALIZER__ENABLED=False)
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    batch = next(iter(Trainer.build_train_loader(cfg)))
    assert {"depth" in sample for sample in batch} == {True, False}
    batch[0]["sem_seg"][:40], batch[1]["edges"][:, 20:] = 255, 255
    batch[2]["normals"][:], batch[3]["edges"][:] = 0, 255
    found = []
    for size in (8, 4, 2):
        step = TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.1), micro_batch=size)
        losses, norm = step.backward(batch, 0)
        found.append({name: float(loss) for name, loss in losses.items()} | {"norm": float(norm)})
    assert {f"loss_{task}" for task in TASKS} < found[0].keys() and min(found[0].values()) > 0
    assert found[1] == pytest.approx(found[0], rel=1e-5) and found[2] == pytest.approx(found[0], rel=1e-5)


@pytest.mark.parametrize("options", [{"window": (64, 64)}, {"scales": (0.5, 1.0), "flip": True}])
def test_each_task_is_averaged_by_its_own_rules(tmp_path, options):
    """A pass of one task alone gives the same; normals keep their length, edges are probabilities."""
    cfg = config(tmp_path, MODEL__SCALE_EQUALIZER__ENABLED=False)
    model, tasks = build_model(cfg).eval(), build_tasks(cfg)
    sample = [{"image": torch.rand(3, 96, 128) * 255, "height": 96, "width": 128}]
    found = Inference(model, options=InferenceOptions(**options), tasks=list(tasks.values()))(sample)[0]
    for name, task in tasks.items():
        assert torch.equal(
            found[name], Inference(model, options=InferenceOptions(**options), task=task)(sample)[0][name]
        )
        assert task.picture(found[name]).shape == (96, 128, 3)
    torch.testing.assert_close(found["normals"].norm(dim=0), torch.ones(96, 128))
    assert float(found["edges"].min()) >= 0 and float(found["edges"].max()) <= 1
