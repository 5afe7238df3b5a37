"""What looks at a data set's predictions, as its evaluator_type and TEST ask for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from scaleeq.choices import one_of
from scaleeq.data import find_dataset
from scaleeq.engine import CfgNode, DatasetEvaluator, DatasetEvaluators
from scaleeq.evaluation.writing import output_writers
from scaleeq.tasks import build_tasks

logger = logging.getLogger(__name__)


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """What looks at a data set's predictions: its metrics, with what TEST asks for, and the files of TEST.OUTPUT.

    Without labels (the split of a test server) there are no metrics, only files.

    ValueError: no evaluator for the data set's evaluator_type, an unknown value of TEST, or nothing to do.
    """
    metadata, test = find_dataset(dataset_name), cfg.TEST
    if "sem_seg" in cfg.MODEL.TASKS.NAMES:
        one_of(metadata.get("evaluator_type"), ("sem_seg",), key=f"the evaluator_type of {dataset_name}")
    tasks = build_tasks(cfg)
    # What is for classes alone.
    for key in ("OUTPUT", "BOUNDARY", "VALIDATION_LOSS"):
        if test[key] and "sem_seg" not in tasks:
            raise ValueError(
                f"TEST.{key} is {test[key]!r}, which is for classes, but MODEL.TASKS.NAMES is {list(tasks)}; "
                "leave it out"
            )
    folder = Path(cfg.OUTPUT_DIR) / "inference"
    if len(cfg.DATASETS.TEST) > 1:
        folder /= dataset_name
    # Files, then metrics where there is a truth.
    evaluators = output_writers(test.OUTPUT, dataset_name, folder, image_format=cfg.INPUT.FORMAT)
    scoring = []
    for name, task in tasks.items():
        own = task.evaluators(dataset_name)
        if not own and len(tasks) > 1:
            logger.info("%s has no truth for %s: it is not scored", dataset_name, name)
        scoring += own
    if scoring:
        evaluators = [*scoring, *evaluators]
    elif evaluators:
        logger.info("%s has no labels: no metrics, only files (TEST.OUTPUT %s)", dataset_name, list(test.OUTPUT))
    else:
        raise ValueError(
            f"{dataset_name} has no labels to score with, and TEST.OUTPUT is empty: there is nothing to do. Set "
            "TEST.OUTPUT, for example \"['submission']\", or name another data set in DATASETS.TEST"
        )
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)


def one_each(
    evaluators: DatasetEvaluator | Sequence[DatasetEvaluator], names: Sequence[str]
) -> dict[str, DatasetEvaluator]:
    """Data set -> its evaluator, of those that a caller has given in the order of the names.

    ValueError: there are more or fewer.
    """
    if isinstance(evaluators, DatasetEvaluator):
        evaluators = [evaluators]
    if len(evaluators) != len(names):
        raise ValueError(f"{len(evaluators)} evaluators for {len(names)} data sets in DATASETS.TEST")
    return dict(zip(names, evaluators, strict=True))
