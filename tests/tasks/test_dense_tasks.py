"""Depth, normals, edges, saliency and human parts: each trains alone on the toy 3-D scenes, and obeys its geometry."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch

from scaleeq.data.augmentation import Crop, TrainAugmentation
from scaleeq.data.sets import toy3d
from scaleeq.data.sets.catalog import register_dataset
from scaleeq.data.surface import normals_from_depth
from scaleeq.engine import DatasetCatalog, build_model
from scaleeq.evaluation.normals import angles
from scaleeq.geometry import Map
from scaleeq.inference import Inference, InferenceOptions
from scaleeq.ops import resize
from scaleeq.tasks import DepthTask, EdgesTask, HumanPartsTask, NormalsTask, SaliencyTask, build_tasks
from scaleeq.tasks.losses.binary import balanced_cross_entropy
from scaleeq.training import Trainer, evaluate_only
from scaleeq.training.step import TrainingStep
from tests.training.tiny import tiny_config

TASKS = {task.name: task for task in (DepthTask(), NormalsTask(), EdgesTask(), SaliencyTask(), HumanPartsTask())}
NAME = "tiny3d_val"

LOWER_IS_BETTER = {"rmse", "absRel", "sqRel", "RMSElog", "SILog", "mean", "median"}  # errors; all else are shares


@pytest.mark.parametrize("name", TASKS)
def test_the_direction_of_every_metric(name):
    metrics = TASKS[name].metrics
    assert {key for key, metric in metrics.items() if not metric.higher_is_better} == LOWER_IS_BETTER & set(metrics)


def first_scenes() -> list[dict]:
    return DatasetCatalog.get("toy3d_val")[:3]


def config(tmp_path, task, **changes):
    register_dataset(NAME, partial(first_scenes), classes=toy3d.CLASSES, colors=toy3d.COLORS)
    options = {
        "MODEL__TASKS__NAMES": [task],
        "MODEL__AUX_HEAD__IN_FEATURES": [],
        "MODEL__AUX_HEAD__LOSS_WEIGHTS": [],
        "MODEL__DEPTH__MEAN": 5.0,
        "DATASETS__TRAIN": ("toy3d_train",),
        "DATASETS__TEST": (NAME,),
    }
    return tiny_config(tmp_path, **options | changes)


@pytest.mark.parametrize("name", TASKS)
def test_it_trains_and_is_evaluated_alone(tmp_path, name):
    cfg = config(tmp_path, name, MODEL__SCALE_EQUALIZER__ENABLED=True)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    task = build_tasks(cfg)[name]
    assert set(task.metrics) <= set(results[name])
    assert all(math.isfinite(results[name][metric]) for metric in task.metrics)
    alone = config(
        tmp_path, name, MODEL__WEIGHTS=str(tmp_path / "model_final.pth"), MODEL__SCALE_EQUALIZER__ENABLED=True
    )
    assert evaluate_only(alone, Trainer)[name][task.headline] == pytest.approx(
        results[name][task.headline], rel=1e-5
    )  # folded


@pytest.mark.parametrize("name", TASKS)
def test_the_gradient_is_the_whole_batchs_however_it_is_cut(tmp_path, name):
    cfg = config(tmp_path, name, SOLVER__IMS_PER_BATCH=4)
    model = Trainer.build_model(cfg).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    batch = next(iter(Trainer.build_train_loader(cfg)))
    padding = TASKS[name].geometry.padding
    batch[0][name][..., :50] = padding  # unequal numbers of valid elements
    batch[3][name][:] = padding  # and an image of which nothing is known
    found = []
    for size in (4, 2, 1):
        step = TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.1), micro_batch=size)
        losses, norm = step.backward(batch, 0)
        found.append((float(losses[f"loss_{name}"]), float(norm)))
    assert found[0][0] > 0 and math.isfinite(found[0][1])
    assert found[1] == pytest.approx(found[0], rel=1e-5) and found[2] == pytest.approx(found[0], rel=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_nothing_known_is_a_loss_of_0_with_a_finite_gradient(name):
    task = TASKS[name]
    shape = (2, 3, 8, 8) if name == "normals" else (2, 8, 8)
    prediction = torch.zeros(2, task.channels, 4, 4, requires_grad=True)
    (loss,) = task.losses(prediction, torch.full(shape, task.geometry.padding, dtype=task.dtype)).values()
    loss.backward()
    assert float(loss.detach()) == 0 and prediction.grad is not None and bool((prediction.grad == 0).all())


def test_losses_against_a_reference():
    rng = torch.Generator().manual_seed(0)
    raw, depth = torch.randn(2, 1, 6, 7, generator=rng), torch.rand(2, 6, 7, generator=rng) * 5
    depth[0, :3] = 0
    expected = (raw[:, 0] - depth).abs()[depth > 0].mean()
    assert torch.allclose(TASKS["depth"].losses(raw, depth)["loss_depth"], expected)
    vectors = torch.nn.functional.normalize(torch.randn(2, 3, 6, 7, generator=rng), dim=1)
    vectors[1, :, 2:] = 0
    raw = torch.randn(2, 3, 6, 7, generator=rng)
    error = (torch.nn.functional.normalize(raw, dim=1) - vectors).abs().permute(0, 2, 3, 1)
    expected = 3 * error[vectors.norm(dim=1) > 0.5].mean()
    assert torch.allclose(TASKS["normals"].losses(raw, vectors)["loss_normals"], expected)


@pytest.mark.parametrize("weight", [0.95, 0.0])
def test_balanced_cross_entropy_against_a_reference(weight):
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(2, 5, 6)), rng.choice([0, 0, 1, 255], (2, 5, 6))
    total = 0.0
    for x, t in zip(logits, targets, strict=True):
        w = weight or 1 - (t == 1).sum() / (t != 255).sum()
        p = 1 / (1 + np.exp(-x))
        total += -(w * np.log(p[t == 1])).sum() - ((1 - w) * np.log(1 - p[t == 0])).sum()
    found = balanced_cross_entropy(torch.from_numpy(logits), torch.from_numpy(targets), positive_weight=weight)
    assert float(found) == pytest.approx(total, rel=1e-9)


def test_predictions_start_where_the_training_set_is():
    assert DepthTask(mean=4.5).predictor(8).bias.item() == 4.5
    assert TASKS["normals"].predictor(8).bias.tolist() == [0, 0, -1]
    assert EdgesTask(frequency=0.05).predictor(8).bias.sigmoid().item() == pytest.approx(0.05)


# --- geometry ---


def augmented(seed, **options):
    """A scene's depth and normals after an augmentation, with the ray of each pixel as a third map."""
    scene = toy3d.render_scene("train", seed)
    y, x = np.mgrid[: toy3d.HEIGHT, : toy3d.WIDTH].astype(np.float32)
    rays = np.stack([(x - toy3d.CENTER[0]) / toy3d.FOCAL_PX, (y - toy3d.CENTER[1]) / toy3d.FOCAL_PX], axis=-1)
    maps = {
        "depth": Map(scene.depth, TASKS["depth"].geometry),
        "normals": Map(scene.normals, TASKS["normals"].geometry),
        "rays": Map(rays, TASKS["normals"].geometry),  # a mirror negates x of them too
        "surfaces": Map(scene.surfaces, TASKS["edges"].geometry),
    }
    return TrainAugmentation(**options)(scene.image, maps, np.random.default_rng(seed))[1]


def is_off_by(maps, zoom=1.0):
    """99 % of the angles between normals of the depth and the normals, inside surfaces, are below this."""
    z = maps["depth"].astype(np.float64) * zoom
    points = np.concatenate([maps["rays"] * z[..., None], z[..., None]], axis=-1)
    inner = (slice(1, -1), slice(1, -1))
    normals = np.cross(points[2:, 1:-1] - points[:-2, 1:-1], points[1:-1, 2:] - points[1:-1, :-2])
    normals *= -np.sign((normals * points[inner]).sum(-1, keepdims=True))
    ids = maps["surfaces"]
    same = np.logical_and.reduce(
        [ids[inner] == other for other in (ids[:-2, 1:-1], ids[2:, 1:-1], ids[1:-1, :-2], ids[1:-1, 2:])]
    )
    same &= np.linalg.norm(maps["normals"][inner], axis=-1) > 0.5
    return float(np.percentile(angles(normals[same].T, maps["normals"][inner][same].T), 99))


@pytest.mark.parametrize("flip", ["horizontal", "vertical", "none"])
def test_normals_of_the_depth_are_the_normals_after_every_flip_and_crop(flip):
    for seed in range(6):
        assert is_off_by(augmented(seed, flip=flip, crop=Crop(kind="absolute", size=(140, 90)))) < 2.5


@pytest.mark.parametrize("signs", [(-1, 1, 1), (1, -1, 1)], ids="xy")
def test_a_wrong_sign_would_be_seen(signs):
    maps = augmented(0, flip="none")
    maps["normals"] = maps["normals"] * np.array(signs, np.float32)
    assert is_off_by(maps) > 20


def test_a_zoom_divides_depth_and_keeps_directions():
    scene = toy3d.render_scene("train", 0)
    maps = augmented(0, flip="none", short_sides=(256,))
    assert maps["depth"].shape == (256, 256)
    np.testing.assert_allclose(maps["depth"][::2, ::2], scene.depth / 2, rtol=1e-6)
    assert np.allclose(np.linalg.norm(maps["normals"], axis=-1), 1, atol=1e-5)
    np.testing.assert_array_equal(maps["normals"][::2, ::2], scene.normals)


@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
def test_a_flip_twice_is_the_identity(direction):
    scene = toy3d.render_scene("train", 1)
    for key, task in TASKS.items():
        once = task.geometry.flipped(getattr(scene, key), direction)
        np.testing.assert_array_equal(task.geometry.flipped(once, direction), getattr(scene, key))


class Oracle(torch.nn.Module):
    """Predicts a scene's normals, of a picture whose channels are its pixels' normals."""

    device = torch.device("cpu")

    def forward(self, batch):
        image, size = batch[0]["image"], (batch[0].get("height", 0), batch[0].get("width", 0))
        size = size if size[0] else tuple(image.shape[-2:])
        found = torch.nn.functional.interpolate(image[None].float(), size, mode="bilinear", align_corners=False)
        return [{"normals": found[0]}]


def test_averaged_directions_have_length_1(tmp_path):
    normals = torch.from_numpy(toy3d.render_scene("val", 0).normals.copy()).permute(2, 0, 1)
    inference = Inference(Oracle().eval(), options=InferenceOptions(scales=(0.5, 1.0)), task=TASKS["normals"])
    (result,) = inference([{"image": normals, "height": 128, "width": 128}])
    assert torch.allclose(result["normals"].norm(dim=0), torch.ones(128, 128), atol=1e-4)
    degrees = angles(result["normals"].numpy().reshape(3, -1), normals.numpy().reshape(3, -1))
    assert np.median(degrees) < 0.5


def test_normals_from_depth_leave_out_what_is_unknown_or_far_off():
    depth = np.full((9, 9), 2.0, np.float32)
    depth[4, 4], depth[:, 7:] = 0, 5.0
    normals = normals_from_depth(depth, focal_px=50)
    assert normals[2, 2].tolist() == [0, 0, -1]
    for place in ((4, 4), (4, 3), (3, 4), (2, 6), (2, 7), (0, 0)):
        assert not normals[place].any(), place


@pytest.mark.parametrize(
    "options",
    [None, InferenceOptions(scales=(1.0,)), InferenceOptions(window=(96, 128), stride=(96, 128))],
    ids=["plain", "view", "window"],
)
def test_depth_of_a_picture_that_was_enlarged_for_the_model_is_farther(tmp_path, options):
    """MIN_SIZE_TEST: the model has seen everything twice as near as it is in the picture that the result is for."""
    cfg = config(tmp_path, "depth")
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    task = build_tasks(cfg)["depth"]
    predict = model if options is None else Inference(model, options=options, tasks=[task])
    image = torch.rand(3, 96, 128) * 255
    with torch.no_grad():
        ((seen,), (shown,)) = (predict([{"image": image, **size}]) for size in ({}, {"height": 48, "width": 64}))
    smaller = resize(seen["depth"][None], (48, 64))[0]
    torch.testing.assert_close(shown["depth"], 2 * smaller)
    assert float(smaller.min()) > 1  # the bias is 5 m: not zeros that any factor keeps
