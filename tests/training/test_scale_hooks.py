"""The trainer hooks, run by the engine's own training loop. Oracle: the branches measured by hand."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from scaleeq.engine import TrainerBase
from scaleeq.training import Trainer
from scaleeq.training.scale_hooks import MAX_HISTORY, CalibrationHook, ScaleStatisticsHook, thinned
from tests.equalization.test_calibration import TinyNet, make_loader
from tests.training.tiny import tiny_config


class Loop(TrainerBase):
    """Forward and backward on fixed batches, plain SGD."""

    def __init__(self, model: torch.nn.Module, *hooks) -> None:
        super().__init__()
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), 0.1)
        self.register_hooks(list(hooks))

    def run_step(self) -> None:
        loss = self.model(make_loader(1, seed=self.iter)[0]).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.after_backward()
        self.optimizer.step()


def test_calibration_runs_once_and_only_in_a_fresh_run(tmp_path):
    loaders = []

    def build_loader():
        loaders.append(make_loader())
        return loaders[-1]

    model = TinyNet()
    hook = CalibrationHook(model, build_loader, output_dir=str(tmp_path))
    Loop(model, hook).train(0, 1)
    content = json.loads((tmp_path / "scale_statistics.json").read_text())
    stds = {branch: float(e.std) for branch, e in model.last.equalizer_of.items()}
    assert {b: v["std"] for b, v in content["fusions"]["last"]["branches"].items()} == pytest.approx(stds, rel=1e-6)
    assert list(content["fusions"]) == ["context", "last"]
    before = {key: value.clone() for key, value in model.state_dict().items() if "equalizers" in key}
    Loop(model, hook).train(1, 3)
    assert len(loaders) == 1
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_resuming_without_statistics_is_refused_by_name(tmp_path):
    model = TinyNet()
    with pytest.raises(RuntimeError, match=r"resumed at iteration 5.*context, last are not calibrated"):
        Loop(model, CalibrationHook(model, make_loader, output_dir=str(tmp_path))).train(5, 6)


@pytest.mark.parametrize("implementation", ["module", "reparametrize"])
@pytest.mark.parametrize("granularity", ["branch", "channel"])
def test_scales_are_recorded_every_n_iterations_and_at_the_end(tmp_path, implementation, granularity):
    model = TinyNet(dropout=0.0, implementation=implementation, granularity=granularity)
    hooks = [CalibrationHook(model, make_loader, output_dir=str(tmp_path))]
    loop = Loop(model, *hooks, ScaleStatisticsHook(model, period=3, output_dir=str(tmp_path)))
    seen = {}

    def measure(module, args, out):
        seen.setdefault(loop.iter, out.detach())

    model.last.branches["fine"].lateral.register_forward_hook(measure)
    loop.train(0, 6)
    history = loop.storage.history("scale/last/fine/std").values()
    assert [iteration for _, iteration in history] == [0, 3, 5]
    for value, iteration in history:
        assert value == pytest.approx(float(seen[iteration].std(correction=0)), rel=1e-4)
    mean, _ = loop.storage.history("scale/last/fine/mean").values()[-1]
    assert mean == pytest.approx(float(seen[5].mean()), abs=1e-5)
    stds = [loop.storage.history(f"scale/last/{branch}/std").values()[-1][0] for branch in ("fine", "context")]
    assert loop.storage.history("scale/last/spread").latest() == pytest.approx(max(stds) / min(stds))
    equalizer = model.last.equalizer_of["fine"]
    equalized = ((seen[5] - equalizer.mean) / equalizer.std).std(correction=0)
    assert loop.storage.history("scale/last/fine/std_equalized").latest() == pytest.approx(float(equalized), rel=1e-4)
    content = json.loads((tmp_path / "scale_statistics.json").read_text())
    assert set(content) == {"fusions", "at_start", "at_end", "history"}
    start, end = content["at_start"], content["at_end"]
    assert [record["iteration"] for record in content["history"]] == [0, 3]  # every 3; the last one is at_end
    for number in ("relative_step", "weight_gradient", "map_gradient", "std_predicted", "energy_share"):
        assert loop.storage.history(f"scale/last/context/{number}").latest() > 0
        assert content["history"][1]["fusions"]["last"]["branches"]["context"][number] == pytest.approx(
            loop.storage.history(f"scale/last/context/{number}").values()[1][0], rel=1e-4
        )
    assert loop.storage.history("scale/last/gradient_spread").latest() >= 1
    assert start["iteration"] == 0
    assert start["fusions"]["last"]["branches"]["fine"]["std"] == pytest.approx(history[0][0])
    assert end["iteration"] == 5
    assert end["fusions"]["last"]["branches"]["fine"]["std"] == pytest.approx(stds[0])
    assert model.last.observer is None


def test_recording_changes_no_weight(tmp_path):
    trained = []
    for period in (0, 1):
        model = TinyNet(dropout=0.0)
        hooks = [CalibrationHook(model, make_loader, output_dir=str(tmp_path))]
        hooks.append(ScaleStatisticsHook(model, period=period, output_dir=str(tmp_path)))
        Loop(model, *hooks).train(0, 3)
        trained.append(model.state_dict())
    assert all(torch.equal(trained[0][key], trained[1][key]) for key in trained[0])


def test_models_without_equalizers_are_recorded_but_not_calibrated(tmp_path):
    model = TinyNet()
    for fusion in (model.context, model.last):
        for equalizer in fusion.equalizer_of.values():
            equalizer.set_statistics(torch.tensor(0.0), torch.tensor(1.0), 1)
        fusion.fold()
    (tmp_path / "scale_statistics.json").write_text('{"fusions": "of an earlier run"}')
    hooks = [CalibrationHook(model, lambda: pytest.fail("nothing to calibrate"), output_dir=str(tmp_path))]
    Loop(model, *hooks, ScaleStatisticsHook(model, period=1, output_dir=str(tmp_path))).train(0, 2)
    content = json.loads((tmp_path / "scale_statistics.json").read_text())
    assert set(content) == {"at_start", "at_end", "history"}
    assert {"mean", "std"} <= set(content["at_end"]["fusions"]["last"]["branches"]["fine"])
    assert not any("equalized" in key for key in content["at_end"]["fusions"]["last"]["branches"]["fine"])


def test_nothing_watches_between_records(tmp_path):
    model = TinyNet(dropout=0.0)
    hook = ScaleStatisticsHook(model, period=2, output_dir=str(tmp_path))
    watched = []
    loop = Loop(model, CalibrationHook(model, make_loader, output_dir=str(tmp_path)), hook)
    model.register_forward_pre_hook(
        lambda *_: watched.append([bool(f.observer or f.combine._forward_hooks) for f in (model.context, model.last)])
    )
    loop.train(0, 4)
    assert watched[-4:] == [[True, True], [False, False], [True, True], [True, True]]  # the last one is recorded too
    assert not model.context.combine._forward_hooks


def test_nothing_watches_after_a_failure(tmp_path):
    def fail():
        raise RuntimeError("in a step that is watched")

    model = TinyNet(dropout=0.0)
    hook = ScaleStatisticsHook(model, period=1, output_dir=str(tmp_path))
    loop = Loop(model, CalibrationHook(model, make_loader, output_dir=str(tmp_path)), hook)
    loop.after_backward = fail
    with pytest.raises(RuntimeError, match="watched"):
        loop.train(0, 1)
    assert not any(fusion.observer or fusion.combine._forward_hooks for fusion in (model.context, model.last))


def test_the_file_stays_small_and_a_resumed_run_has_the_same_history(tmp_path):
    iterations = range(0, 3 * MAX_HISTORY * 10, 10)
    history: list[dict] = []
    for iteration in iterations:
        history = thinned([*history, {"iteration": iteration}], 10)
        assert len(history) <= MAX_HISTORY and history[0]["iteration"] == 0
    assert [record["iteration"] for record in history] == list(range(0, iterations[-1] + 1, 40))

    def run(folder, start, end):
        model = TinyNet(dropout=0.0)
        hook = ScaleStatisticsHook(model, period=1, output_dir=str(folder))
        Loop(model, CalibrationHook(model, make_loader, output_dir=str(folder)), hook).train(start, end)
        return hook, json.loads((folder / "scale_statistics.json").read_text())["history"]

    _, unbroken = run(tmp_path / "a", 0, 4)
    (tmp_path / "b").mkdir()
    content = {"history": [*unbroken[:2], {"iteration": 2, "of": "the part that is done again"}]}
    (tmp_path / "b" / "scale_statistics.json").write_text(json.dumps(content))
    model = TinyNet(dropout=0.0)
    hook = ScaleStatisticsHook(model, period=1, output_dir=str(tmp_path / "b"))
    Loop(model, hook).train(2, 4)
    resumed = json.loads((tmp_path / "b" / "scale_statistics.json").read_text())["history"]
    assert [record["iteration"] for record in resumed] == [0, 1, 2, 3]
    assert resumed[:2] == unbroken[:2] and "of" not in resumed[2]


@pytest.mark.parametrize(
    "content", ["", "null", "[]", '{"history": 3}', '{"history": [{"iteration": "1"}]}', '{"at_start": {}}', "\0", None]
)
def test_an_odd_file_is_named_and_begun_again(content, tmp_path, caplog):
    file = tmp_path / "scale_statistics.json"
    file.mkdir() if content is None else file.write_text(content)
    hook = ScaleStatisticsHook(TinyNet(dropout=0.0), period=1, output_dir=str(tmp_path))
    Loop(hook.model, hook).train(2, 4)
    assert f"{file} " in caplog.text and ("taken as missing" in caplog.text or "was a folder" in caplog.text)
    assert [record["iteration"] for record in json.loads(file.read_text())["history"]] == [2, 3]


def test_in_a_compiled_model_only_weights_are_recorded(tmp_path, caplog):
    """Compiled without being traced: the mark that a compiled module has is what counts."""
    model = TinyNet(dropout=0.0)
    model.last.compile(backend="eager")
    hooks = [CalibrationHook(model, make_loader, output_dir=str(tmp_path))]
    with caplog.at_level(logging.INFO):
        Loop(model, *hooks, ScaleStatisticsHook(model, period=1, output_dir=str(tmp_path))).train(0, 2)
    assert "MODEL.COMPILE" in caplog.text
    content = json.loads((tmp_path / "scale_statistics.json").read_text())
    assert set(content["at_end"]["fusions"]["last"]["branches"]["fine"]) == {"weight_gradient", "relative_step"}


def test_an_observer_from_before_is_given_back(tmp_path):
    model = TinyNet(dropout=0.0)
    calls = []
    model.last.observer = lambda fusion, seen: calls.append(seen.branch)
    before = model.last.observer
    hooks = [CalibrationHook(model, make_loader, output_dir=str(tmp_path))]
    Loop(model, *hooks, ScaleStatisticsHook(model, period=2, output_dir=str(tmp_path))).train(0, 2)
    assert model.last.observer is before and model.context.observer is None


def test_float16s_loss_scale_is_not_in_what_is_recorded(tmp_path):
    """Losses are multiplied by 65536 there, so that gradients of maps do not vanish. Oracle: float32, within a half."""
    recorded = []
    for name, options in (
        ("float32", {}),
        ("float16", {"SOLVER__AMP__ENABLED": True, "SOLVER__AMP__DTYPE": "float16"}),
    ):
        cfg = tiny_config(
            tmp_path / name, SEED=0, SOLVER__MAX_ITER=1, SOLVER__WARMUP_ITERS=0, DATASETS__TEST=(),
            MODEL__SCALE_EQUALIZER__STATISTICS_PERIOD=1, **options,
        )  # fmt: skip
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
        content = json.loads((tmp_path / name / "scale_statistics.json").read_text())
        branches = content["at_start"]["fusions"]["sem_seg_head.fusion"]["branches"]
        recorded.append({branch: each["map_gradient"] for branch, each in branches.items()})
    assert recorded[1] == pytest.approx(recorded[0], rel=0.5)
