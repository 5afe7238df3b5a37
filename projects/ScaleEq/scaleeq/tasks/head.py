"""A decoder with a task: the one adapter between them and Detectron2's protocol of semantic heads.

A head has a pure `logits(features)` and `forward(features, targets)` -> (logits or None, losses), so it also works
inside Detectron2's SemanticSegmentor and PanopticFPN; detectron2.py builds it of (cfg, input_shape), as they do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from scaleeq.decoders.base import Decoder, Features
from scaleeq.layers import collected_logits

from .base import Losses, Task
from .joint import gate_name
from .losses.segmentation import SegmentationLoss


class SegmentationHead(nn.Module):
    """features -> decoder -> dropout -> the task's predictor -> losses, or its map at the decoder's stride.

    In a checkpoint the decoder's parts have their own names, beside "classifier", the predictor.
    """

    decoder: Decoder

    def __init__(self, decoder: Decoder, task: Task, *, dropout: float = 0.1, predictor: nn.Module | None = None):
        """
        Args:
            decoder: its parts become the head's; ValueError where one is named as the head's own.
            dropout: share of channels dropped before the predictor.
            predictor: of this task and the decoder's width, where it had to be made before the decoder, so that both
                draw their initial weights in that order; default the task's.
        """
        super().__init__()
        self._compiled_logits: Callable[[Features], torch.Tensor] | None = None
        self.in_features = decoder.in_features
        self.common_stride = decoder.out.stride
        self.dropout = nn.Dropout2d(dropout) if dropout else nn.Identity()
        self.task = task
        self.classifier = task.predictor(decoder.out.channels) if predictor is None else predictor
        self._adopt(decoder)

    def _adopt(self, decoder: Decoder) -> None:
        """Make the decoder's parts the head's, under their names; the two then have one table of parts.

        So what is exchanged in the one is exchanged in the other, and both have the same names in every checkpoint.
        """
        if clash := sorted(self._modules.keys() & decoder._modules.keys()):
            raise ValueError(f"{type(decoder).__name__} has parts of the names {clash}, which a head's own parts have")
        if next(decoder.parameters(recurse=False), next(decoder.buffers(recurse=False), None)) is not None:
            raise ValueError(f"{type(decoder).__name__} has a tensor of its own; put it into one of its parts")
        self._modules.update(decoder._modules)
        decoder._modules = self._modules
        self.__dict__["decoder"] = decoder  # not as a part, which would be counted and named twice

    def train(self, mode: bool = True) -> SegmentationHead:
        """Sets the mode of the decoder, too."""
        super().train(mode)
        self.decoder.training = mode
        return self

    @property
    def title(self) -> str:
        """For people: the name that a config knows it by."""
        return f"{type(self.decoder).__name__}Head"

    @property
    def loss(self) -> SegmentationLoss:
        """The loss of the classes."""
        return self.task.loss  # type: ignore[return-value]

    @property
    def ignore_value(self) -> int:
        """The label without a loss; Detectron2's segmentors pad labels with it."""
        return self.loss.ignore_value

    def logits(self, features: Features) -> torch.Tensor:
        """features: level -> (N, C_level, H_level, W_level) -> (N, K, H, W) at common_stride."""
        return self.classifier(self.dropout(self.decoder(features)))

    def layers(self, features: Features) -> torch.Tensor:
        """`logits`, under the name that Detectron2's head has for it."""
        return self.logits(features)

    def losses(self, predictions: torch.Tensor, targets: torch.Tensor) -> Losses:
        """predictions: (N, K, h, w), any stride; targets: (N, H, W) labels, or as the task makes them -> name -> ()."""
        return self.task.losses(predictions, targets, self.task.mean_count)

    def forward(
        self, features: Features, targets: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        """targets: (N, H, W) labels, or what the task makes of its own -> (None, losses) in training; else
        (logits (N, K, H, W) at stride 1, {}).
        """
        if self.training and targets is None:
            raise ValueError("a head in training needs targets: (N, H, W) labels")
        with collected_logits() as predicted:
            logits = self.logits(features)
        if targets is not None and self.training:
            return None, self.losses(logits, targets) | self.task.gate_losses(self._by_name(predicted), targets)
        stride = self.common_stride
        return F.interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False), {}

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """torch.compile what training calls, the head itself, and what inference calls, its logits."""
        super().compile(*args, **kwargs)
        self._compiled_logits = torch.compile(self.logits, *args, **kwargs)

    def inference_logits(self, features: Features) -> torch.Tensor:
        """`logits`, compiled where the head is."""
        return self._compiled_logits(features) if self._compiled_logits else self.logits(features)

    def __getstate__(self) -> dict[str, object]:
        """Without what is compiled, as torch has it: a copy would call the original."""
        return {**super().__getstate__(), "_compiled_logits": None}

    def _by_name(self, predicted: Mapping[nn.Module, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What gates of this head predict, under "<fusion>_<branch>"."""
        if not predicted:
            return {}
        paths = {path: gate for path, gate in self.named_modules() if gate in predicted}
        return {gate_name(path): predicted[gate] for path, gate in paths.items()}
