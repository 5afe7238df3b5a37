"""A dense task that is one file trains, is evaluated, and has equalizers and statistics, through the Trainer."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import tests.tasks.mean_colour as mean_colour
from scaleeq.engine import DatasetCatalog
from scaleeq.inference import Inference, InferenceOptions
from scaleeq.tasks import build_tasks, register
from scaleeq.training import Trainer, evaluate_only
from scaleeq.training.setup import build_mapper
from scaleeq.training.step import TrainingStep
from tests.training.tiny import TEST_SET, tiny_config

ALONE = {
    "MODEL__TASKS__NAMES": ["mean_colour"],
    "MODEL__AUX_HEAD__IN_FEATURES": [],
    "MODEL__AUX_HEAD__LOSS_WEIGHTS": [],
    "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 54,  # another number than the data set's: nobody reads it
}
EQUALIZED = {
    "MODEL__SCALE_EQUALIZER__ENABLED": True,
    "MODEL__SCALE_EQUALIZER__STATISTICS_PERIOD": 4,
}


def config(tmp_path, **changes):
    return tiny_config(tmp_path, **ALONE, **changes)


def test_one_file_trains_and_is_evaluated_with_equalizers_and_statistics(tmp_path):
    cfg = config(tmp_path, SOLVER__MAX_ITER=12, TEST__EVAL_PERIOD=6, **EQUALIZED)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    losses = [line["loss_mean_colour"] for line in lines if "loss_mean_colour" in line]
    evaluated = [line["mean_colour/mae"] for line in lines if "mean_colour/mae" in line]
    assert losses and 0 < results["mean_colour"]["mae"] == pytest.approx(evaluated[-1])
    assert results["mean_colour"]["mae"] < 0.4

    equalizers = [module for name, module in trainer.checkpointer.model.named_modules() if ".equalizers." in name]
    assert equalizers
    statistics = json.loads((tmp_path / "scale_statistics.json").read_text())
    assert "sem_seg_head.fusion" in json.dumps(statistics)
    best = json.loads((tmp_path / "model_best.json").read_text())
    assert (best["metric"], best["value"]) == ("mean_colour/mae", pytest.approx(min(evaluated)))
    state = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    assert state["sem_seg_head.classifier.weight"].shape == (3, 8, 1, 1)

    alone = config(tmp_path, MODEL__WEIGHTS=str(tmp_path / "model_final.pth"), **EQUALIZED)
    assert evaluate_only(alone, Trainer)["mean_colour"]["mae"] == pytest.approx(results["mean_colour"]["mae"])


@pytest.mark.parametrize("passes", [2, 4])
def test_the_gradient_is_the_whole_batchs_however_it_is_cut(tmp_path, passes):
    """With batch norms that look at single images the loss of a cut batch is that of the whole one."""
    cfg = config(tmp_path, SOLVER__IMS_PER_BATCH=4)
    model = Trainer.build_model(cfg).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    batch = next(iter(Trainer.build_train_loader(cfg)))
    batch[0]["mean_colour"][:, :50] = mean_colour.UNKNOWN  # unequal numbers of valid elements
    gradients = []
    for size in (4, 4 // passes):
        step = TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.1), micro_batch=size)
        losses, norm = step.backward(batch, 0)
        gradients.append((float(losses["loss_mean_colour"]), float(norm)))
    assert gradients[1] == pytest.approx(gradients[0], rel=1e-5)


def test_a_sample_has_the_target_as_the_image_is_cut_and_turned(tmp_path):
    """The target is a function of the image: that of a flipped crop is the flipped crop of the image's."""
    cfg = config(tmp_path, INPUT__MIN_SIZE_TRAIN=(0,), INPUT__CROP__SIZE=[64, 100])
    record = DatasetCatalog.get("toy_sem_seg_val")[3]
    mapper = build_mapper(cfg, is_train=True)
    inner = slice(mean_colour.WINDOW, -mean_colour.WINDOW)
    for seed in range(6):
        sample = mapper(record, np.random.default_rng(seed))
        assert "sem_seg" not in sample and sample["mean_colour"].dtype == torch.float32
        image = sample["image"].permute(1, 2, 0).numpy()
        again = torch.from_numpy(build_tasks(cfg)["mean_colour"].read(record, image)).permute(2, 0, 1)
        torch.testing.assert_close(sample["mean_colour"][:, inner, inner], again[:, inner, inner], rtol=0, atol=1e-5)


def test_a_sample_without_its_target_is_padding_and_a_batch_of_them_is_refused(tmp_path):
    task = build_tasks(config(tmp_path))["mean_colour"]
    batch = [{"mean_colour": torch.ones(3, 2, 3)}, {"file_name": "without.png"}]
    targets = task.targets(batch, (4, 4), torch.device("cpu"))
    assert float(task.count(targets)) == 18 and (targets[1] == mean_colour.UNKNOWN).all()
    with pytest.raises(ValueError, match=r"without\.png has no 'mean_colour' target to train on"):
        task.targets(batch[1:], (4, 4), torch.device("cpu"))


class Directions(torch.nn.Module):
    """Predicts, as "normals", the first channel of the image as x, its mirror image's sign turned by nobody."""

    device = torch.device("cpu")

    def forward(self, batch):
        size = (batch[0].get("height", 8), batch[0].get("width", 8))
        image = batch[0]["image"][None].float()
        return [{"normals": torch.nn.functional.interpolate(image, size, mode="bilinear", align_corners=False)[0]}]


def test_flips_and_scales_follow_the_tasks_geometry(tmp_path):
    """x of a mirror image is negated: the mean of a picture and its mirror image is half of their difference; what a
    twice as large view gives counts by the power of its zoom."""
    task = build_tasks(config(tmp_path))["mean_colour"]
    task.name, task.geometry = "normals", replace(task.geometry, padding=0.0, negated_x=(0,))
    sample = {"image": torch.rand(3, 8, 8), "height": 8, "width": 8}
    options = InferenceOptions(scales=(1.0,), flip=True)
    (result,) = Inference(Directions().eval(), options=options, task=task)([sample])
    assert float(result["normals"][0].abs().max()) < 1e-6, "x = -x of the mirror image, whose picture is the same"
    torch.testing.assert_close(result["normals"][1:], sample["image"][1:])

    task.geometry = replace(task.geometry, zoom_power=-1.0)
    options = InferenceOptions(scales=(2.0,))
    (doubled,) = Inference(Directions().eval(), options=options, task=task)([sample])
    (plain,) = Inference(Directions().eval(), options=InferenceOptions(scales=(1.0,)), task=task)([sample])
    ratio = doubled["normals"].mean() / plain["normals"].mean()
    assert float(ratio) == pytest.approx(2, rel=0.05)

    both = InferenceOptions(scales=(1.0, 2.0))
    (mean,) = Inference(Directions().eval(), options=both, task=task)([sample])
    torch.testing.assert_close(mean["normals"], (plain["normals"] + doubled["normals"]) / 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MODEL__TASKS__NAMES": ["mean_color"]}, r"MODEL.TASKS.NAMES is 'mean_color'; .*did you mean mean_colour"),
        ({"MODEL__TASKS__NAMES": ["mean_colour", "mean_colour"]}, "name mean_colour once"),
        (
            {"MODEL__AUX_HEAD__IN_FEATURES": ["res4"], "MODEL__AUX_HEAD__LOSS_WEIGHTS": [0.4]},
            "AUX_HEAD.*classes",
        ),
        ({"MODEL__FUSION__TRANSFER": "supervised_gated"}, "supervised gates predict classes"),
    ],
)
def test_refusals(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        cfg = tiny_config(tmp_path, **ALONE | changes)
        Trainer.build_model(cfg).train()([{"image": torch.zeros(3, 64, 64), "mean_colour": torch.zeros(3, 64, 64)}] * 2)


@pytest.mark.parametrize("key", ["BOUNDARY", "VALIDATION_LOSS"])
def test_what_is_for_classes_is_refused(tmp_path, key):
    with pytest.raises(ValueError, match=rf"TEST\.{key} is True, which is for classes, but MODEL\.TASKS\.NAMES"):
        Trainer.check_evaluators(config(tmp_path, **{f"TEST__{key}": True}))


def test_expected_results_know_the_tasks_metrics(tmp_path):
    Trainer.check_evaluators(config(tmp_path, TEST__EXPECTED_RESULTS=[["mean_colour", "mae", 0.2, 0.1]]))
    with pytest.raises(ValueError, match=r"TEST\.EXPECTED_RESULTS.*'mIoU'"):
        Trainer.check_evaluators(config(tmp_path, TEST__EXPECTED_RESULTS=[["mean_colour", "mIoU", 0.2, 0.1]]))


def test_two_tasks_with_one_name_are_refused():
    class Another(mean_colour.MeanColour):
        pass

    with pytest.raises(ValueError, match=r"a task 'mean_colour' already, .*mean_colour\.MeanColour"):
        register(Another)


def test_the_test_set_is_scored_with_windows_too(tmp_path):
    cfg = config(tmp_path, TEST__SLIDE__WINDOW=[64])
    results = Trainer.test(cfg, Trainer.build_model(cfg).eval())
    assert results["mean_colour"]["mae"] < 0.5 and TEST_SET in cfg.DATASETS.TEST
