"""MappedTask: a task whose truth is one of a record's maps (scaleeq.data.maps), scored by a Score."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from scaleeq.records import Record

from .base import Task

if TYPE_CHECKING:
    from scaleeq.engine import DatasetEvaluator
    from scaleeq.evaluation.values import Score


class MappedTask(Task):
    """Base of the dense tasks beside semantic segmentation. A subclass sets `score` too."""

    def score(self) -> Score:
        """What counts its metrics, fresh."""
        raise NotImplementedError

    def read(self, record: Record, image: np.ndarray) -> np.ndarray | None:
        """The record's map; None: it has none. ValueError, naming the file: values that cannot be meant."""
        from scaleeq.data.maps import read_map

        return read_map(record, self.target_key)

    def image_score(self, prediction: torch.Tensor, truth: torch.Tensor) -> str:
        """Its first metric that is quick to count, of one image: "depth/rmse 0.43 m"; "": nothing is known of it."""
        score = self.quick_score()
        score.update(prediction.detach().float().cpu().numpy(), torch.as_tensor(truth).cpu().numpy(), "an image")
        found = score.results(score.counts())
        name = self.headline if self.headline in found else next(iter(found))
        return "" if math.isnan(found[name]) else f"{self.name}/{name} {found[name]:.3g} {self.metrics[name].unit}"

    def quick_score(self) -> Score:
        """What counts a metric of one picture, in less time than drawing it takes."""
        return self.score()

    def evaluators(self, dataset_name: str, *, distributed: bool = True) -> list[DatasetEvaluator]:
        """Its score over a data set; [] where no record has a truth."""
        from scaleeq.data.maps import has_map
        from scaleeq.engine import DatasetCatalog
        from scaleeq.evaluation.values import ValuesEvaluator

        if not any(has_map(record, self.target_key) for record in DatasetCatalog.get(dataset_name)):
            return []
        return [ValuesEvaluator(dataset_name, task=self.name, score=self.score(), distributed=distributed)]
