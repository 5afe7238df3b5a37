"""The parts of a run that can be replaced one by one: each is a classmethod that a subclass overrides.

    class Mine(Trainer):
        @classmethod
        def build_evaluator(cls, cfg, dataset_name):
            return MyEvaluator(dataset_name)

Source: the override points of Detectron2's DefaultTrainer, by their names there. Deviations: `check`, `headline` and
`pictures`, which it has not; `test` takes an Evaluation too. `Trainer` is a recipe with a loop; an evaluation without
training needs the recipe alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

# Importing these registers what a config names.
import scaleeq.data
import scaleeq.segmentor
from scaleeq.engine import CfgNode, DatasetEvaluator, build_model
from scaleeq.equalization.calibration import require_calibrated
from scaleeq.names import check_names
from scaleeq.pictures import confusion_picture
from scaleeq.tasks.metric import Metric

from .console_log import first_lines
from .evaluators import build_evaluator, one_each
from .examples import draw_examples
from .expected import check_expected_results, check_rows
from .multi_task import best_metric, compared
from .setup import build_mapper, check_before_training
from .solver import build_lr_scheduler, build_optimizer
from .testing import Evaluation, Results, test_on_dataset

logger = logging.getLogger(__name__)


class Recipe:
    """What a run is made of, as its config says."""

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        """Raise what is wrong with a config before anything is built, reading the first records of its data sets."""
        check_before_training(cfg)
        cls.check_evaluators(cfg)

    @classmethod
    def check_evaluators(cls, cfg: CfgNode) -> None:
        """ValueError: no evaluator for a data set of DATASETS.TEST, or none that has TEST.EXPECTED_RESULTS."""
        for name in cfg.DATASETS.TEST:
            cls.build_evaluator(cfg, name)
        (check_rows if cls.overrides("build_evaluator") else check_expected_results)(cfg)

    @classmethod
    def overrides(cls, name: str) -> bool:
        """Whether a subclass has replaced this part: what is known of ours is not known of it."""
        own = getattr(cls, name)
        return getattr(own, "__func__", own) is not getattr(Recipe, name).__func__

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The model on MODEL.DEVICE, in the memory format of MODEL.CHANNELS_LAST."""
        check_names(cfg)
        model = build_model(cfg)
        if cfg.MODEL.CHANNELS_LAST:
            model = model.to(memory_format=torch.channels_last)
        with first_lines():
            logger.info("Model:\n%s", model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, start_iteration: int = 0) -> Iterable[list[dict]]:
        """Endless batches of this process's share of SOLVER.IMS_PER_BATCH samples, from `start_iteration` on."""
        mapper = build_mapper(cfg, is_train=True)
        return scaleeq.data.build_train_loader(cfg, start_iteration=start_iteration, mapper=mapper)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[list[dict]]:
        """Every image of the data set once, shared among the processes; has a length."""
        return scaleeq.data.build_test_loader(cfg, dataset_name, mapper=build_mapper(cfg, is_train=False))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """The evaluator that the data set's evaluator_type asks for.

        ValueError: no evaluator for that type.
        """
        return build_evaluator(cfg, dataset_name)

    @classmethod
    def headline(cls, cfg: CfgNode) -> Metric:
        """The metric by which a training keeps its best weights and stops early, of DATASETS.TEST's first data set:
        that of TEST.BEST_METRIC, or the first task's headline.
        """
        return best_metric(cfg)

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: DatasetEvaluator | Sequence[DatasetEvaluator] | None = None,
        *,
        evaluation: Evaluation | None = None,
    ) -> Results:
        """Evaluate on every data set of DATASETS.TEST.

        evaluators: one for each data set, instead of the recipe's. evaluation: to be filled.
        Returns {"sem_seg": {...}} of one data set, {name: {"sem_seg": {...}}} of several; on the main process only.
        With TEST.SINGLE_TASK_RESULTS there is {"multi_task": {"delta_m": ...}} beside the tasks.
        ValueError: as many evaluators as data sets are needed; or a scale equalizer was never calibrated.
        Stopped: a signal has come (scaleeq.stopping); at the next image.
        """
        require_calibrated(model)
        names = cfg.DATASETS.TEST
        # The recipe's evaluators, or the caller's.
        given = {} if evaluators is None else one_each(evaluators, names)
        results = {}
        for name in names:
            evaluator = given[name] if name in given else cls.build_evaluator(cfg, name)
            loader = cls.build_test_loader(cfg, name)
            results[name] = test_on_dataset(
                cfg, model, name, evaluator=evaluator, loader=loader, evaluation=evaluation or Evaluation(cfg)
            )
        return results[names[0]] | compared(cfg, results[names[0]]) if len(names) == 1 else results

    @classmethod
    def pictures(cls, evaluation: Evaluation) -> Mapping[str, np.ndarray]:
        """Name -> (H, W, 3) uint8: what TensorBoard and Weights & Biases show of an evaluation while training; by
        default its examples and confusion matrices.
        """
        drawn = {name: draw_examples(name, examples) for name, examples in evaluation.examples.items() if examples}
        confusions = {f"confusion/{name}": confusion_picture(each) for name, each in evaluation.confusions.items()}
        return {f"predictions/{name}": picture for name, picture in drawn.items()} | confusions
