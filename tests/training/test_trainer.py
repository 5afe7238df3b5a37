"""Whole runs, as small as they get: files, resuming, evaluation, refusals. Oracle: an unbroken run for a broken one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from scaleeq.engine import DatasetEvaluator, DatasetEvaluators, SafeCheckpointer, seed_all_rng
from scaleeq.equalization.calibration import require_calibrated
from scaleeq.training import Trainer, evaluate_only, testing
from scaleeq.training.evaluate import hash_weights

from .tiny import OTHER_TEST_SET, TEST_SET, OneStep, tiny_config

ONE_ITERATION = {"SOLVER__MAX_ITER": 1, "SOLVER__WARMUP_ITERS": 0}


def train(cfg, trainer_class=Trainer, *, resume=False):
    seed_all_rng(0)
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def metrics(output_dir):
    return [json.loads(line) for line in (output_dir / "metrics.json").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A scale-equalized run of three iterations: its config and its trainer."""
    cfg = tiny_config(tmp_path_factory.mktemp("run"), MODEL__SCALE_EQUALIZER__ENABLED=True, SOLVER__CHECKPOINT_PERIOD=2)
    return cfg, train(cfg)


def output_dir(cfg):
    return Path(cfg.OUTPUT_DIR)


def test_a_run_leaves_its_files(finished):
    cfg, _ = finished
    output = output_dir(cfg)
    names = {path.name for path in output.iterdir()}
    assert {"metrics.json", "model_0000001.pth", "model_final.pth", "last_checkpoint", "scale_statistics.json"} <= names
    assert {"model_best.pth", "model_best.json"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    statistics = json.loads((output / "scale_statistics.json").read_text())
    assert set(statistics["fusions"]) == {"sem_seg_head.context", "sem_seg_head.fusion"}
    assert statistics["at_end"]["iteration"] == 2


def test_metrics_are_named_and_add_up(finished):
    cfg, trainer = finished
    training, evaluation = metrics(output_dir(cfg))
    total, *parts = (
        [value for value, _ in trainer.storage.history(name).values()]
        for name in ("total_loss", "loss_sem_seg", "loss_sem_seg_aux_res4")
    )
    assert total == pytest.approx([sum(losses) for losses in zip(*parts, strict=True)])
    assert training["total_loss"] == sorted(total)[1]  # what is written is the median over a window
    assert training["grad_norm"] > 0
    assert training["iteration"] == 2
    assert training["lr"] == pytest.approx(0.002 / 3)  # poly of power 1: what is left after 2 of 3 iterations
    assert training["data_time"] > 0
    assert evaluation["sem_seg/mIoU"] == trainer.last_eval_results["sem_seg"]["mIoU"]


def test_equalizers_are_calibrated_before_the_first_checkpoint(finished):
    cfg, _ = finished
    model = Trainer.build_model(cfg)
    with pytest.raises(RuntimeError, match=r"sem_seg_head\.fusion"):
        require_calibrated(model)
    SafeCheckpointer(model).load(str(output_dir(cfg) / "model_0000001.pth"))
    require_calibrated(model)


def test_eval_only_repeats_the_number_and_records_it(finished, tmp_path):
    cfg, trainer = finished
    weights = str(output_dir(cfg) / "model_final.pth")
    eval_cfg = tiny_config(tmp_path, MODEL__SCALE_EQUALIZER__ENABLED=True, MODEL__WEIGHTS=weights)
    results = evaluate_only(eval_cfg, Trainer)
    # Folded: equal to rounding, which may decide a pixel between two classes.
    assert results["sem_seg"] == pytest.approx(trainer.last_eval_results["sem_seg"], abs=0.5, nan_ok=True)
    record = json.loads((tmp_path / "inference" / "results.json").read_text())
    assert record["sem_seg"] == results["sem_seg"]
    assert record["weights_sha256"] == hash_weights(trainer.model.state_dict())
    assert record["parameters"] == sum(parameter.numel() for parameter in trainer.model.parameters())
    assert record["multiply_adds"] > 10**8
    assert record["seconds_per_image"] > 0
    assert record["datasets"] == [TEST_SET]
    assert evaluate_only(cfg, Trainer, resume=True) == results


def test_weights_with_nan_are_not_scored(finished, tmp_path):
    cfg, _ = finished
    content = torch.load(output_dir(cfg) / "model_final.pth", weights_only=True)
    content["model"]["sem_seg_head.fusion.equalizers.res2.std"].zero_()
    torch.save(content, tmp_path / "weights.pth")
    eval_cfg = tiny_config(tmp_path, MODEL__SCALE_EQUALIZER__ENABLED=True, MODEL__WEIGHTS=str(tmp_path / "weights.pth"))
    with pytest.raises(ValueError, match=r"weights\.pth holds numbers .*fusion\.equalizers\.res2\.std of 'model' is 0"):
        evaluate_only(eval_cfg, Trainer)
    assert not (tmp_path / "inference").exists()


def test_another_training_s_state_is_refused_before_anything_is_loaded(finished, tmp_path):
    cfg, trainer = finished
    content = torch.load(output_dir(cfg) / "model_final.pth", weights_only=True)
    content["trainer"]["iteration"] = "2"
    content["trainer"]["hooks"]["LRScheduler"]["last_epoch"] = None
    content["trainer"]["hooks"]["LRScheduler"]["base_lrs"] = 0.1
    del content["trainer"]["optimizer"]["param_groups"][0]["betas"]
    content["trainer"]["optimizer"]["state"][0]["exp_avg"] = torch.zeros(1, 1)
    torch.save(content, tmp_path / "model.pth")
    weights = [value.clone() for value in trainer.model.state_dict().values()]
    numbers = trainer.iter, trainer.scheduler.last_epoch
    with pytest.raises(ValueError, match=r"model\.pth does not fit, nothing was loaded") as caught:
        trainer.checkpointer.load(str(tmp_path / "model.pth"))
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        "of another kind: trainer.iteration is a str, '2' in the file, a int, 3 here",
        "of another kind: trainer.hooks.LRScheduler.base_lrs is a float, 0.1 in the file, a list here",
        "of another kind: trainer.hooks.LRScheduler.last_epoch is a NoneType in the file, a int, 3 here",
        "missing in the file: trainer.optimizer.param_groups.0.betas",
        "of another shape: trainer.optimizer.state.0.exp_avg is (1, 1) in the file, its parameter (64, 3, 7, 7)",
    ]
    assert numbers == (trainer.iter, trainer.scheduler.last_epoch)
    assert all(map(torch.equal, weights, trainer.model.state_dict().values()))


def test_scores_need_weights(tmp_path):
    with pytest.raises(ValueError, match=r"MODEL\.WEIGHTS"):
        evaluate_only(tiny_config(tmp_path), Trainer)
    with pytest.raises(ValueError, match=r"MODEL\.WEIGHTS"):
        evaluate_only(tiny_config(tmp_path), Trainer, resume=True)
    assert not (tmp_path / "inference").exists()


def test_scores_need_calibrated_equalizers(tmp_path):
    cfg = tiny_config(tmp_path, MODEL__SCALE_EQUALIZER__ENABLED=True, MODEL__WEIGHTS=str(tmp_path / "fresh.pth"))
    torch.save({"model": Trainer.build_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
    with pytest.raises(RuntimeError, match=r"sem_seg_head\.context, sem_seg_head\.fusion"):
        evaluate_only(cfg, Trainer)


# ---------------------------------------------------------------------------------------------------- resuming


class Recording(Trainer):
    """Keeps what each iteration was fed and what it lost."""

    stop_at = -1

    def build_hooks(self):
        self.record = []
        return super().build_hooks()

    @classmethod
    def build_train_loader(cls, cfg, start_iteration=0):
        for batch in super().build_train_loader(cfg, start_iteration):
            cls.latest = [(sample["image_id"], int(sample["image"].sum())) for sample in batch]
            yield batch

    def run_step(self):
        if self.iter == self.stop_at:
            raise InterruptedError(f"stopped at {self.iter}")
        super().run_step()
        self.record.append((self.iter, self.latest, self.storage.latest()["total_loss"][0]))


class Stopping(Recording):
    stop_at = 3


@pytest.mark.parametrize("optimizer", ["ADAMW", "SGD"])
def test_a_resumed_run_equals_an_unbroken_one(tmp_path, optimizer):
    changes = {
        "SOLVER__MAX_ITER": 4,
        "SOLVER__CHECKPOINT_PERIOD": 2,
        "SOLVER__OPTIMIZER": optimizer,
        "MODEL__SCALE_EQUALIZER__ENABLED": True,
    }
    unbroken = train(tiny_config(tmp_path / "unbroken", **changes), Recording)
    cfg = tiny_config(tmp_path / "broken", **changes)
    with pytest.raises(InterruptedError):
        train(cfg, Stopping)
    calibrated = (tmp_path / "broken" / "scale_statistics.json").read_text()
    resumed = train(cfg, Recording, resume=True)
    assert resumed.start_iter == 2  # of the third iteration there was no checkpoint
    assert resumed.record == unbroken.record[2:]
    for name, tensor in unbroken.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    assert resumed.last_eval_results == unbroken.last_eval_results
    assert resumed.scheduler.state_dict() == unbroken.scheduler.state_dict()
    after = json.loads((tmp_path / "broken" / "scale_statistics.json").read_text())
    assert after["fusions"] == json.loads(calibrated)["fusions"]


# ---------------------------------------------------------------------------------------------------- the step


def one_step(tmp_path, **changes):
    """A trainer after one iteration on the plain model, without evaluation."""
    return train(tiny_config(tmp_path, DATASETS__TEST=(), **ONE_ITERATION, **changes), Recording)


def test_bf16_on_the_cpu_changes_the_loss_a_little(tmp_path):
    exact = one_step(tmp_path / "fp32").record[0][2]
    rounded = one_step(tmp_path / "bf16", SOLVER__AMP__ENABLED=True).record[0][2]
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.02)


def test_gradients_are_clipped_between_backward_and_step(tmp_path):
    clip = {"SOLVER__CLIP_GRADIENTS__ENABLED": True, "SOLVER__CLIP_GRADIENTS__CLIP_TYPE": "full_model"}
    trainer = one_step(tmp_path, SOLVER__CLIP_GRADIENTS__CLIP_VALUE=0.01, **clip)
    norm = torch.stack([parameter.grad.norm() for parameter in trainer.model.parameters()]).norm()
    assert float(norm) == pytest.approx(0.01, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_the_run_before_the_weights_change(tmp_path):
    seed_all_rng(0)
    trainer = Trainer(tiny_config(tmp_path))
    trainer.model.pixel_std.zero_()  # no config can say so
    before = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    with pytest.raises(FloatingPointError, match=r"(?s)iteration 0.*loss_sem_seg nan"):
        trainer.train()
    assert all(torch.equal(parameter, before[name]) for name, parameter in trainer.model.named_parameters())
    assert not list(tmp_path.glob("*.pth"))


def test_so_many_checkpoints_are_kept(tmp_path):
    trainer = Trainer(tiny_config(tmp_path, SOLVER__KEEP_CHECKPOINTS=2))
    for iteration in (1, 2, 3):
        trainer.checkpointer.save(f"model_{iteration:07}", iteration=iteration)
    assert sorted(file.name for file in tmp_path.glob("*.pth")) == ["model_0000002.pth", "model_0000003.pth"]


# ---------------------------------------------------------------------------------------------------- refusals


def test_labels_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="set it to 8"):
        Trainer(tiny_config(tmp_path, MODEL__SEM_SEG_HEAD__NUM_CLASSES=9))
    with pytest.raises(ValueError, match="255"):
        Trainer(tiny_config(tmp_path, MODEL__SEM_SEG_HEAD__IGNORE_VALUE=254))
    with pytest.raises(ValueError, match="nearest are toy_sem_seg_train"):
        Trainer(tiny_config(tmp_path, DATASETS__TRAIN=("toy_sem_seg_trian",)))

    unknown = tiny_config(tmp_path, MODEL__META_ARCHITECTURE="Segmentr")
    with pytest.raises(ValueError, match=r"MODEL\.META_ARCHITECTURE is 'Segmentr'; choose one of"):
        Trainer.build_model(unknown)


class CountImages(DatasetEvaluator):
    def reset(self):
        self.count = 0

    def process(self, inputs, outputs):
        self.count += len(outputs)

    def evaluate(self):
        return {"sem_seg": {"images": self.count}}


def test_results_of_several_data_sets_are_kept_apart(tmp_path):
    cfg = tiny_config(tmp_path, DATASETS__TEST=(TEST_SET, OTHER_TEST_SET), **ONE_ITERATION)
    model = Trainer.build_model(cfg)
    with pytest.raises(ValueError, match="1 evaluators for 2 data sets"):
        Trainer.test(cfg, model, CountImages())
    results = Trainer.test(cfg, model, [CountImages(), CountImages()])
    assert results == {TEST_SET: {"sem_seg": {"images": 4}}, OTHER_TEST_SET: {"sem_seg": {"images": 2}}}
    assert Trainer.test(tiny_config(tmp_path), model, CountImages()) == {"sem_seg": {"images": 4}}
    train(cfg)
    assert json.loads((tmp_path / "model_best.json").read_text())["metric"] == f"{TEST_SET}/sem_seg/mIoU"


def test_results_are_listed_where_there_are_some(tmp_path, monkeypatch):
    listed = []
    monkeypatch.setattr(testing, "print_csv_format", listed.append)
    cfg = tiny_config(tmp_path, DATASETS__TEST=(OTHER_TEST_SET,))
    model = Trainer.build_model(cfg)
    assert Trainer.test(cfg, model, DatasetEvaluators([])) == {}
    assert listed == []
    Trainer.test(cfg, model, CountImages())
    assert listed == [{"sem_seg": {"images": 2}}]


# ---------------------------------------------------------------------------------------------------- the record


def test_hash_knows_names_types_shapes_and_values():
    weights = {"a": torch.arange(4.0), "b": torch.zeros((), dtype=torch.int64)}
    digest = hash_weights(weights)
    assert digest == hash_weights(dict(reversed(weights.items())))
    others = [
        {**weights, "a": torch.arange(4.0) + 1e-6},
        {**weights, "a": torch.arange(4.0).view(2, 2)},
        {**weights, "b": torch.zeros((), dtype=torch.float64)},
        {"a": weights["a"], "c": weights["b"]},
    ]
    assert len({digest, *map(hash_weights, others)}) == 5


def test_the_averaged_model_is_compiled_too(tmp_path):
    trainer = OneStep(tiny_config(tmp_path, MODEL__COMPILE=True, SOLVER__EMA_DECAY=0.9))
    evaluated, kind = trainer.evaluated_model()
    assert kind == "ema" and evaluated is not trainer.checkpointer.model
    for model in (evaluated, trainer.checkpointer.model):
        assert model.backbone._compiled_call_impl is not None and model.sem_seg_head._compiled_logits is not None
