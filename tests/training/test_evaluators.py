"""What build_evaluator composes for a data set, as the keys of TEST ask for."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from scaleeq.data import register_dataset
from scaleeq.data.sets.toy import CLASSES, COLORS
from scaleeq.engine import DatasetCatalog, DatasetEvaluators, MetadataCatalog
from scaleeq.evaluation import SemSegEvaluator, ValidationLossEvaluator, sem_seg
from scaleeq.evaluation.ade20k import ADE20KScore
from scaleeq.ops import Argmax
from scaleeq.training import Recipe, testing
from scaleeq.training.evaluators import build_evaluator
from scaleeq.training.testing import labels_suffice
from tests.training.tiny import OTHER_TEST_SET, TEST_SET, first_scenes, tiny_config


@pytest.fixture
def registered(request):
    """Registers a data set for this test: registered(name, records, family)."""
    names = []

    def register(name, load, family=""):
        register_dataset(name, load, classes=CLASSES, colors=COLORS, family=family)
        names.append(name)
        return name

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_the_metrics_alone_by_default(tmp_path):
    evaluator = build_evaluator(tiny_config(tmp_path), TEST_SET)
    assert type(evaluator) is SemSegEvaluator and evaluator.absent == "exclude" and evaluator.parts == []


def test_all_that_test_asks_for(tmp_path, registered):
    name = registered("scaleeq_test_ade_like", partial(first_scenes, 2), family="ade20k")
    changes = {"TEST__ABSENT_CLASSES": "zero", "TEST__BOUNDARY": True, "TEST__VALIDATION_LOSS": True}
    cfg = tiny_config(tmp_path, TEST__OUTPUT=["labels"], DATASETS__TEST=(name, OTHER_TEST_SET), **changes)
    composed = build_evaluator(cfg, name)
    assert isinstance(composed, DatasetEvaluators)
    metrics, loss, writer = composed._evaluators
    assert isinstance(metrics, SemSegEvaluator) and isinstance(loss, ValidationLossEvaluator)
    assert metrics.absent == "zero" and isinstance(metrics.parts[0], ADE20KScore)
    assert [type(part).__name__ for part in metrics.parts[1:]] == ["TrimapIoU", "BoundaryFScore", "BoundaryIoU"]
    assert {part.absent for part in metrics.parts if hasattr(part, "absent")} == {"zero"}
    assert not isinstance(writer, SemSegEvaluator | ValidationLossEvaluator)


def without_labels() -> list[dict]:
    return [{"file_name": "a.jpg", "image_id": "a"}]


class ReadsScores(SemSegEvaluator):
    def process(self, inputs, outputs):
        raise AssertionError


class RenamesResults(SemSegEvaluator):
    def results(self, counts):
        return {"other": super().results(counts)["sem_seg"]}


@pytest.mark.parametrize(("kind", "suffice"), [(SemSegEvaluator, True), (RenamesResults, True), (ReadsScores, False)])
def test_whether_labels_are_all_that_is_read(tmp_path, kind, suffice):
    labels, loss = kind(TEST_SET), ValidationLossEvaluator(TEST_SET)
    assert labels_suffice(labels) == suffice
    assert labels_suffice([labels, build_evaluator(tiny_config(tmp_path), TEST_SET)]) == suffice
    assert not labels_suffice(loss) and not labels_suffice(DatasetEvaluators([labels, loss]))


def test_a_model_that_is_asked_for_labels_scores_the_same(tmp_path, monkeypatch):
    cfg = tiny_config(tmp_path, MODEL__TIMM__NAME="test_resnet")
    torch.manual_seed(0)
    model = Recipe.build_model(cfg)
    seen = []
    predicted = sem_seg.predicted_labels
    monkeypatch.setattr(sem_seg, "predicted_labels", lambda o, s: (seen.append(type(o["sem_seg"])), predicted(o, s))[1])
    asked = Recipe.test(cfg, model)
    monkeypatch.setattr(testing, "labels_suffice", lambda evaluator: False)
    assert asked == Recipe.test(cfg, model)
    half = len(seen) // 2
    assert half and seen == [Argmax] * half + [torch.Tensor] * half


def test_without_labels_there_are_files_alone(tmp_path, registered, caplog):
    name = registered("scaleeq_test_without_labels", without_labels)
    cfg = tiny_config(tmp_path, TEST__OUTPUT=["labels"], TEST__VALIDATION_LOSS=True, DATASETS__TEST=(name,))
    with caplog.at_level("INFO", "scaleeq"):
        evaluator = build_evaluator(cfg, name)
    assert not isinstance(evaluator, DatasetEvaluators | SemSegEvaluator | ValidationLossEvaluator)
    assert f"{name} has no labels: no metrics, only files" in caplog.text
    with pytest.raises(ValueError, match=rf"{name} has no labels to score with, and TEST.OUTPUT is empty.*submission"):
        build_evaluator(tiny_config(tmp_path, DATASETS__TEST=(name,)), name)


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match=r"TEST.ABSENT_CLASSES is 'none'; choose one of exclude, zero, one, truth"):
        build_evaluator(tiny_config(tmp_path, TEST__ABSENT_CLASSES="none"), TEST_SET)
    with pytest.raises(ValueError, match=r"TEST.OUTPUT is 'pictures'; choose one of labels"):
        build_evaluator(tiny_config(tmp_path, TEST__OUTPUT=["pictures"]), TEST_SET)
    with pytest.raises(ValueError, match="there is no data set 'tiny'"):
        build_evaluator(tiny_config(tmp_path), "tiny")
