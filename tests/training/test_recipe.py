"""The parts of a run: who imports whom among them, what a subclass may replace, and what an evaluation leaves."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pytest
import torch

import scaleeq.training
from scaleeq.data.sets.toy import COLORS
from scaleeq.engine import DatasetEvaluator, SafeCheckpointer
from scaleeq.pictures import colorize
from scaleeq.tasks.metric import Metric
from scaleeq.training import Recipe, Trainer, evaluate_only
from scaleeq.training.examples import WIDTH, Example, draw_examples
from scaleeq.training.testing import Evaluation, InferenceClock, run_test

from .tiny import OTHER_TEST_SET, TEST_SET, tiny_config

ROOM = Path(scaleeq.training.__file__).parent
SMALL = {"MODEL__TIMM__NAME": "test_resnet", "SOLVER__MAX_ITER": 2, "TEST__EVAL_PERIOD": 1}

# ---------------------------------------------------------------------------------------------------- imports


def imports(path: Path) -> tuple[set[str], set[str]]:
    """What a module of the room imports, wherever it says so: (modules of the room, all other names)."""
    own, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            own |= {(node.module or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            others.add(node.module or "")
        elif isinstance(node, ast.Import):
            others |= {alias.name for alias in node.names}
    return own, others


def test_no_module_of_the_room_is_imported_in_a_circle():
    """Not for types either: a module is counted wherever an import stands."""
    graph = {path.stem: imports(path)[0] for path in ROOM.glob("*.py")}
    assert "testing" in graph["recipe"] and "recipe" in graph["trainer"]
    order = list(TopologicalSorter(graph).static_order())  # CycleError
    assert order.index("recipe") < order.index("trainer")
    assert not [path.name for path in ROOM.glob("*.py") if "TYPE_CHECKING" in path.read_text()]


def test_the_machinery_draws_without_matplotlib():
    for path in ROOM.glob("*.py"):
        if path.name == "pictures.py":  # draws a finished run
            continue
        own, others = imports(path)
        assert "visualization" not in own, path.name
        assert not [name for name in others if "matplotlib" in name or "visualization" in name], path.name


# ---------------------------------------------------------------------------------------------------- parts


class Distance(DatasetEvaluator):
    """The mean of its outputs; lower is better."""

    def reset(self):
        self.values = []

    def process(self, inputs, outputs):
        self.values += [float(output["sem_seg"].abs().mean()) for output in outputs]

    def evaluate(self):
        return {"depth": {"rmse": float(np.mean(self.values))}}


class Nearest(Trainer):
    """As a user would write it for a task of his own."""

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return Distance()

    @classmethod
    def headline(cls, cfg):
        return Metric(name="depth/rmse", unit="m", higher_is_better=False)


def test_the_best_is_the_lowest_where_lower_is_better(tmp_path):
    trainer = Nearest(tiny_config(tmp_path, **SMALL))
    trainer.train()
    values = {at: value for value, at in trainer.storage.history("depth/rmse").values()}
    best = torch.load(tmp_path / "model_best.pth", weights_only=True)
    lowest = min(values, key=values.get)
    assert (best["depth/rmse"], best["iteration"]) == (values[lowest], lowest)
    assert len(values) == 2


def test_early_stop_names_the_metric_that_is_missing(tmp_path):
    class Other(Nearest):
        headline = Recipe.headline

    cfg = tiny_config(tmp_path, **SMALL, SOLVER__EARLY_STOP_PATIENCE=1)
    with pytest.raises(RuntimeError, match=r"compares values of sem_seg/mIoU of the first data set in DATASETS\.TEST"):
        Other(cfg).train()


def test_headline_of_several_data_sets():
    metric = Metric(name="depth/rmse", unit="m", higher_is_better=False)
    assert metric.of_first(["a"]) == metric
    assert metric.of_first(["a", "b"]).name == "a/depth/rmse"
    assert metric.is_better(1.0, 2.0) and not metric.is_better(float("nan"), metric.worst)
    assert metric.is_better(1e9, metric.worst) and Metric(name="x").is_better(-1e9, Metric(name="x").worst)


def test_a_test_that_was_written_for_detectron2(tmp_path):
    """It takes no evaluation; a clock counts all the same."""

    class Plain(Recipe):
        @classmethod
        def test(cls, cfg, model, evaluators=None):
            return super().test(cfg, model, evaluators)

    cfg = tiny_config(tmp_path, MODEL__TIMM__NAME="test_resnet", MODEL__WEIGHTS=str(tmp_path / "weights.pth"))
    model = Plain.build_model(cfg)
    SafeCheckpointer(model, str(tmp_path)).save("weights")
    clock = InferenceClock()
    with clock.watching(model):
        results = run_test(Plain.test, cfg, model, Evaluation(cfg, clock=clock, num_examples=1))
    folded = evaluate_only(cfg, Plain)
    assert folded == evaluate_only(cfg)
    assert folded["sem_seg"] == pytest.approx(results["sem_seg"], abs=0.5, nan_ok=True)
    assert clock.num_images == 4 and clock.seconds > 0


# ---------------------------------------------------------------------------------------------------- pictures


def test_an_evaluation_keeps_examples_evenly(tmp_path):
    cfg = tiny_config(tmp_path, MODEL__TIMM__NAME="test_resnet", DATASETS__TEST=(TEST_SET, OTHER_TEST_SET))
    model = Recipe.build_model(cfg)
    evaluation = Evaluation(cfg, num_examples=2)
    plain = Recipe.test(cfg, model)
    assert Recipe.test(cfg, model, evaluation=evaluation) == plain
    kept, others = evaluation.examples[TEST_SET], evaluation.examples[OTHER_TEST_SET]
    assert [Path(each.file_name).stem for each in kept] == ["0000", "0002"] and len(others) == 2
    first = next(iter(Recipe.build_test_loader(cfg, TEST_SET)))[0]
    channels = first["image"] if cfg.INPUT.FORMAT == "RGB" else first["image"].flip(0)
    assert np.array_equal(kept[0].image, channels.permute(1, 2, 0).numpy())
    assert np.array_equal(kept[0].truth, np.asarray(first["sem_seg_truth"]))
    model.eval()
    with torch.no_grad():
        assert np.array_equal(kept[0].prediction, model([first])[0]["sem_seg"].argmax(0).numpy())
    names = {f"{what}/{name}" for what in ("predictions", "confusion") for name in (TEST_SET, OTHER_TEST_SET)}
    assert set(Recipe.pictures(evaluation)) == names
    matrix = evaluation.confusions[TEST_SET]
    assert matrix.shape == (8, 8) and 100 * np.trace(matrix) / matrix.sum() == plain[TEST_SET]["sem_seg"]["pACC"]
    assert Recipe.pictures(Evaluation(cfg)) == {}


def test_examples_are_drawn_by_the_data_set_s_colours(tmp_path):
    tiny_config(tmp_path)
    labels = np.arange(2 * WIDTH, dtype=np.uint8).reshape(2, WIDTH) % 8
    image = np.full((2, WIDTH, 3), 9, np.uint8)
    both, one = Example("a", image, labels, 7 - labels), Example("b", image, labels)
    drawn = draw_examples(TEST_SET, [both, one])
    assert drawn.shape == (4, 3 * WIDTH, 3) and drawn.dtype == np.uint8
    assert np.array_equal(drawn[:2, WIDTH : 2 * WIDTH], colorize(7 - labels, COLORS, 255))
    assert np.array_equal(drawn[2:, WIDTH : 2 * WIDTH], colorize(labels, COLORS, 255))
    assert (drawn[:, :WIDTH] == 9).all() and not drawn[2:, 2 * WIDTH :].any()
    small = Example("c", image, np.tile(np.uint8([0, 7]), (2, WIDTH // 4)))  # enlarged: no class lies between two
    found = draw_examples(TEST_SET, [small])[:, WIDTH:].reshape(-1, 3)
    assert {tuple(each) for each in found} == {tuple(COLORS[0]), tuple(COLORS[7])}


def shown(folder: Path) -> dict[str, list[int]]:
    """Tag -> the steps at which TensorBoard's file has an image."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder), size_guidance={"images": 0})
    board.Reload()
    return {tag: [event.step for event in board.Images(tag)] for tag in board.Tags()["images"]}


def test_tensorboard_shows_each_evaluation(tmp_path):
    class Drawing(Trainer):
        @classmethod
        def pictures(cls, evaluation):
            assert len(evaluation.examples[TEST_SET]) == 4
            return {"mine": np.zeros((5, 6, 3), np.uint8)}

    trainer = Drawing(tiny_config(tmp_path / "mine", **SMALL))
    trainer.train()
    assert shown(tmp_path / "mine") == {"mine": [0, 2]}
    assert trainer.storage._vis_data == []
    Trainer(tiny_config(tmp_path / "ours", **SMALL)).train()
    assert shown(tmp_path / "ours") == {f"{what}/{TEST_SET}": [0, 2] for what in ("predictions", "confusion")}
