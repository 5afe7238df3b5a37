"""A task: what one map of a decoder is trained for, from the truth in a record to the metric.

A new dense task is one file: a subclass of Task, registered under its name, which MODEL.TASKS.NAMES then knows. What
lies between, mapper, augmentation, training step, inference and evaluation, asks the task and knows no other one. A
task is built without a decoder, and `predictor` makes what stands between the two: so the loader of the training data
needs no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from scaleeq.geometry import Geometry
from scaleeq.ops import Argmax, resize, send
from scaleeq.pictures import Color
from scaleeq.records import Record, RecordView

from .losses.averaging import Averaging
from .metric import Metric
from .views import Scale, draw

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from scaleeq.engine import DatasetEvaluator

    from .interaction import Interaction

Losses = dict[str, torch.Tensor]
INITIAL_LOG_VARIANCE = -0.5  # LibMTL's


class Task(Averaging):
    """Base of the tasks. A subclass sets the attributes, and defines from_config, read, losses, count and evaluators.

    name: its group in the results, its part in the names of losses, and its key in a prediction.
    target_key: of its map in a sample; with "_truth" after it, of the map at the image's own size, in testing.
    channels: of its predictor's map.
    dtype: of the target in a training sample.
    geometry: what becomes of the target where the image is resized, padded or flipped, and of the prediction where an
        inference did so.
    averages: what several predictions of one pixel are: "logits" of classes, whose probabilities are averaged, or
        "values", which are averaged themselves.
    metrics: metric -> its unit and direction; headline: the one that chooses model_best.pth.
    requires_all: whether a sample without its target is a mistake, instead of one of which nothing is known.
    initial_bias: of the predictor, one number or one a channel: a good first guess saves many iterations.
    after: tasks whose first predictions its decoder takes, in a model whose tasks interact (MODEL.TASKS.INTERACTION);
        None: all others.
    scale, unknown: of its pictures: the ends of their colours (None: those of each picture), and the value of a truth
        that says that nothing is known.
    """

    name: ClassVar[str]
    target_key: ClassVar[str]
    channels: int
    dtype: ClassVar[torch.dtype] = torch.float32
    geometry: Geometry
    averages: ClassVar[str] = "values"
    metrics: ClassVar[Mapping[str, Metric]]
    headline: ClassVar[str]
    requires_all: ClassVar[bool] = False
    initial_bias: float | Sequence[float] = 0.0
    after: ClassVar[Sequence[str] | None] = None
    scale: Scale | None = None
    unknown: ClassVar[float | None] = None

    log_variance: nn.Parameter | None
    interaction: Interaction | None

    def __init__(self) -> None:
        super().__init__()
        self.task = self.name
        self.register_parameter("log_variance", None)
        self.register_module("interaction", None)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Task:
        """The task as a config describes it."""
        raise NotImplementedError

    @property
    def scored(self) -> dict[str, Metric]:
        """Its metrics by their names in metrics.json, with the group of results that each is in."""
        return {f"{self.name}/{name}": metric for name, metric in self.metrics.items()}

    @property
    def headline_name(self) -> str:
        """The name of its headline in metrics.json."""
        return f"{self.name}/{self.headline}"

    # ------------------------------------------------------------------------------------------------------------ data

    def read(self, record: Record, image: np.ndarray) -> np.ndarray | None:
        """The record's truth: (H, W) or (H, W, C); None: it has none. image: (H, W, 3) uint8 in RGB, as it was read."""
        raise NotImplementedError

    def targets(
        self,
        batched_inputs: Sequence[RecordView],
        size: Sequence[int],
        device: torch.device,
        *,
        partial: bool = False,
    ) -> torch.Tensor | None:
        """The targets of a batch: (N, H, W) or (N, C, H, W) of the size, padded; all padding where a sample has none.

        partial: of one of several tasks, so that any sample may be without: None where no sample has any.
        ValueError, naming the file: no sample of the batch has any, or one has none although the task requires all.
        """
        maps = [record.get(self.target_key) for record in batched_inputs]
        known = next((each for each in maps if each is not None), None)
        if known is None and partial:
            return None
        if known is None or (self.requires_all and not partial and any(each is None for each in maps)):
            record = next(record for record in batched_inputs if self.target_key not in record)
            what = "labels" if self.geometry.labels else "target"
            raise ValueError(f"{record.get('file_name', 'a sample')} has no {self.target_key!r} {what} to train on")
        shape, padding = (len(maps), *known.shape[:-2], *size), self.geometry.padding
        padded = torch.full(shape, padding if isinstance(padding, (int, float)) else 0, dtype=self.dtype, device=device)
        if not isinstance(padding, (int, float)):
            padded += torch.tensor(padding, dtype=self.dtype, device=device).view(-1, 1, 1)
        for target, values in zip(padded, maps, strict=True):
            if values is not None:  # bytes travel as bytes, and become the task's type on the device
                target[..., : values.shape[-2], : values.shape[-1]] = send(values, device)
        return padded

    # ---------------------------------------------------------------------------------------------- prediction and loss

    def predictor(self, width: int) -> nn.Module:
        """What ends a decoder of so many channels in this task's: (N, width, h, w) -> (N, channels, h, w).

        Whoever attaches the task owns it: in a checkpoint it is the decoder's `classifier`.
        """
        conv = nn.Conv2d(width, self.channels, 1)
        nn.init.normal_(conv.weight, std=0.01)
        assert conv.bias is not None
        with torch.no_grad():
            conv.bias.copy_(torch.as_tensor(self.initial_bias, dtype=conv.bias.dtype).expand_as(conv.bias))
        return conv

    def attach(self, width: int, *, dropout: float = 0.0) -> None:
        """Give it a predictor of its own, for maps of so many channels, as one of several tasks of a model.

        dropout: share of channels dropped before the predictor.
        """
        self.dropout = nn.Dropout2d(dropout) if dropout else nn.Identity()
        self.classifier = self.predictor(width)

    def predict(self, fused: torch.Tensor) -> torch.Tensor:
        """fused: (N, width, h, w) -> (N, channels, h, w); after `attach`."""
        return self.classifier(self.dropout(fused))

    def interact(self, interaction: Interaction, *, width: int) -> None:
        """Have it predict twice: first as it is, then from what the interaction makes of other tasks' predictions.

        width: of the map of its decoder. After `attach`.
        """
        self.first = self.predictor(width)
        self.interaction = interaction

    def predict_first(self, fused: torch.Tensor) -> torch.Tensor:
        """fused: (N, width, h, w) -> (N, channels, h, w): what other tasks see of it; its only one without an
        interaction."""
        return self.predict(fused) if self.interaction is None else self.first(self.dropout(fused))

    def learn_weight(self) -> None:
        """Give it the uncertainty by which its losses are weighted among others' (tasks/weighting.py)."""
        self.log_variance = nn.Parameter(torch.tensor(INITIAL_LOG_VARIANCE))

    def losses(self, prediction: torch.Tensor, targets: torch.Tensor, mean_count: torch.Tensor | None = None) -> Losses:
        """prediction: (N, channels, h, w), any stride; targets: as `targets` makes them -> "loss_<name>" -> ().

        mean_count: what a mean over the valid elements divides by, as the sum of its elements; None or 0: their count.
        """
        raise NotImplementedError

    def gate_losses(self, gate_logits: Mapping[str, torch.Tensor], targets: torch.Tensor) -> Losses:
        """Losses of what the gates in the decoder predict: name -> (N, K, h, w) -> name -> (). Only classes have any.

        ValueError: this task has no classes.
        """
        if gate_logits:
            raise ValueError(
                f"supervised gates predict classes, which {self.name} has not; take others (FUSION.TRANSFER)"
            )
        return {}

    def count(self, target: torch.Tensor) -> torch.Tensor:
        """target: of a sample, or of a batch -> (), float64: the elements that its losses average over."""
        raise NotImplementedError

    @property
    def counts_padding(self) -> bool:
        """Whether the losses average over every pixel, those of the padding too."""
        return False

    def divisor(self, targets: torch.Tensor, mean_count: torch.Tensor | None) -> torch.Tensor:
        """(), float32, at least 1: what a sum over valid elements is divided by: what the step told, or their count."""
        own = self.count(targets).float()
        told = torch.zeros_like(own) if mean_count is None else mean_count.float().sum()
        return torch.where(told > 0, told, own).clamp(min=1.0)

    # ------------------------------------------------------------------------------------------------------- evaluation

    def finish(
        self,
        prediction: torch.Tensor,
        padded_size: Sequence[int],
        image_sizes: Sequence[Sequence[int]],
        sizes: Sequence[Sequence[int]],
    ) -> list[torch.Tensor]:
        """The predictions of a batch at the sizes of the images: (channels, height, width) each, float32.

        Args:
            prediction: (N, channels, h, w), any stride.
            padded_size: (height, width) of the batch of images.
            image_sizes: of each image in it, without its padding.
            sizes: of the results.
        """
        upsampled = resize(prediction.float(), (padded_size[0], padded_size[1]))
        results = []
        for each, own, size in zip(upsampled, image_sizes, sizes, strict=True):
            unpadded = each[None, :, : own[0], : own[1]]
            resized = F.interpolate(unpadded, size=tuple(size), mode="bilinear", align_corners=False)
            results.append(self.settled(resized[0]))
        return results

    def finish_labels(
        self,
        prediction: torch.Tensor,
        padded_size: Sequence[int],
        image_sizes: Sequence[Sequence[int]],
        sizes: Sequence[Sequence[int]],
    ) -> list[Argmax] | None:
        """The labels of what `finish` gives, which is asked for where nobody reads more; None: this task has none."""
        return None

    def settled(self, values: torch.Tensor) -> torch.Tensor:
        """What a mean of predictions, (channels, H, W), is as one prediction: normals get their length again."""
        return values

    def picture(self, values: torch.Tensor) -> np.ndarray:
        """What people see of it: (H, W, 3) uint8 in RGB; views.draw says how.

        values: a finished prediction (channels, H, W), or a truth as a sample has it, (H, W) or (C, H, W).
        """
        return draw(
            values,
            geometry=self.geometry,
            scores=self.averages == "logits",
            num_labels=self.channels,
            scale=self.scale,
            unknown=self.unknown,
        )

    def legend(self) -> Mapping[str, Color]:
        """What colours of its pictures mean, beside the scale."""
        return {}

    def image_score(self, prediction: torch.Tensor, truth: torch.Tensor) -> str:
        """The score of one image in words, for pictures; "": this task says none."""
        return ""

    def picture_on(self, image: np.ndarray, values: Any) -> np.ndarray:
        """What people see of it beside the image, (H, W, 3) uint8 in RGB, or over it."""
        return self.picture(torch.as_tensor(values))

    def evaluators(self, dataset_name: str, *, distributed: bool = True) -> list[DatasetEvaluator]:
        """What scores its predictions on a data set, with results {name: {metric: value}, ...}; [] without a truth.

        distributed: merge what all processes have counted.
        """
        raise NotImplementedError
