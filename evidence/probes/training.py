"""Training fusions side by side, and their mIoU. Batches are of random pixels; SGD with momentum, or AdamW; poly rates.

The optimizers are torch's, written for K learning rates at once (`check` in evidence.probe compares them): SGD with
momentum 0.9, AdamW with betas 0.9 and 0.999; decay on weights alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .arms import Statistics
from .features import NUM_CLASSES, Features, Pixels
from .side_by_side import Design, Fusions, Probe
from .upernet_like import make_fusions

IMAGES, PIXELS = 8, 32  # of a batch; pixels of each image
MOMENTUM, BETAS, EPS = 0.9, (0.9, 0.999), 1e-8
DECAY = {"SGD": 1e-4, "ADAMW": 1e-2}  # as SOLVER.OPTIMIZER calls them
DECAYED = ("weight", "mix", "classifier")
POWER = 0.9  # of the schedule: rate * (1 - step / steps) ** POWER
CHUNK = 4096  # pixels that are scored at a time


@dataclass(frozen=True)
class Sample:
    """Fixed pixels to score on, read once. rows: (P, C) float16; targets: (P,), no void."""

    rows: Tensor
    targets: Tensor

    @classmethod
    def of(cls, features: Features, images: Sequence[int], each: int) -> Sample:
        """`each` random pixels of these images, the same for everybody."""
        generator = torch.Generator().manual_seed(7)
        pixels = Pixels.drawn(torch.as_tensor(images), each, features.size, generator)
        targets = features.targets(pixels)
        known = targets < NUM_CLASSES
        pixels = Pixels(pixels.image[known], pixels.row[known], pixels.column[known])
        rows = torch.cat([features.rows(part).half() for part in pixels.chunks(CHUNK)])
        return cls(rows, targets[known])


class Batches:
    """Batches of one seed: images in random order without repetition, random pixels of each."""

    def __init__(self, features: Features, images: Sequence[int], seed: int) -> None:
        self._features, self._images = features, torch.as_tensor(images)
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.long)

    def next(self) -> tuple[Tensor, Tensor]:
        """(P, taps * C) float32 and (P,) classes, no void."""
        if len(self._order) < IMAGES:
            drawn = self._images[torch.randperm(len(self._images), generator=self._generator)]
            self._order = torch.cat([self._order, drawn])
        images, self._order = self._order[:IMAGES], self._order[IMAGES:]
        pixels = Pixels.drawn(images, PIXELS, self._features.size, self._generator)
        targets = self._features.targets(pixels)
        known = targets < NUM_CLASSES
        return self._features.rows(pixels)[known], targets[known]


class Optimizer:
    """SGD or AdamW on parameters (K, ...), with a rate for each of the K. rates: (K,)."""

    def __init__(self, parameters: dict[str, Tensor], name: str, rates: Tensor) -> None:
        self.parameters, self.name, self.rates = parameters, name, rates
        self.steps = 0
        self._first, self._second = ({key: torch.zeros_like(p) for key, p in parameters.items()} for _ in range(2))

    @torch.no_grad()
    def step(self, gradients: dict[str, Tensor], share: float) -> None:
        """share: of the rates, by the schedule."""
        self.steps += 1
        for name, gradient in gradients.items():
            parameter = self.parameters[name]
            rate = (self.rates * share).view(-1, *[1] * (parameter.dim() - 1))
            decay = DECAY[self.name] if name in DECAYED else 0.0
            first, second = self._first[name], self._second[name]
            if self.name == "SGD":
                first.mul_(MOMENTUM).add_(gradient + decay * parameter if decay else gradient)
                parameter.sub_(rate * first)
                continue
            first.lerp_(gradient, 1 - BETAS[0])
            second.lerp_(gradient * gradient, 1 - BETAS[1])
            if decay:
                parameter.mul_(1 - rate * decay)
            size = (second / (1 - BETAS[1] ** self.steps)).sqrt() + EPS
            parameter.sub_(rate * (first / (1 - BETAS[0] ** self.steps)) / size)


@dataclass(frozen=True)
class Trained:
    """Of K fusions. miou: (K,) in [0, 1]; loss, first_loss: (K,), means of the last and first fifth of the steps."""

    miou: Tensor
    loss: Tensor
    first_loss: Tensor


def train(
    design: Design,
    probes: Sequence[Probe],
    *,
    optimizer: str,
    steps: int,
    seed: int,
    features: Features,
    images: Sequence[int],
    statistics: Statistics,
    sample: Sample,
) -> Trained:
    """Train K fusions on these images of the features, and score them on the sample."""
    fusions = make_fusions(design, probes, statistics, seed)
    solver = Optimizer(fusions.parameters, optimizer, torch.tensor([probe.rate for probe in probes]))
    batches = Batches(features, images, seed)
    losses = []
    for step in range(steps):
        rows, targets = batches.next()
        loss = losses_of(fusions.forward(rows, training=True), targets)
        found = torch.autograd.grad(loss.sum(), list(fusions.parameters.values()), allow_unused=True)
        gradients = {name: g for name, g in zip(fusions.parameters, found, strict=True) if g is not None}
        solver.step(gradients, (1 - step / steps) ** POWER)
        losses.append(loss.detach())
    fifth = max(1, steps // 5)
    first, last = (torch.stack(part).mean(0) for part in (losses[:fifth], losses[-fifth:]))
    return Trained(score(fusions, sample), last, first)


def losses_of(logits: Tensor, targets: Tensor) -> Tensor:
    """logits: (P, K, classes), targets: (P,) -> (K,) mean cross entropies."""
    count = logits.shape[1]
    each = F.cross_entropy(logits.flatten(0, 1), targets.repeat_interleave(count), reduction="none")
    return each.view(-1, count).mean(0)


@torch.no_grad()
def score(fusions: Fusions, sample: Sample) -> Tensor:
    """(K,) mIoU in [0, 1] over one confusion matrix each; what is not finite counts as the first class."""
    count, cells = len(fusions.probes), NUM_CLASSES**2
    confusion = torch.zeros(count * cells, dtype=torch.long)
    start = torch.arange(count) * cells
    for rows, targets in zip(sample.rows.split(CHUNK), sample.targets.split(CHUNK), strict=True):
        predicted = fusions.forward(rows.float(), training=False).nan_to_num(-1e9).argmax(-1)
        found = targets[:, None] * NUM_CLASSES + predicted + start
        confusion += torch.bincount(found.flatten(), minlength=count * cells)
    return mean_iou(confusion.view(count, NUM_CLASSES, NUM_CLASSES))


def mean_iou(confusion: Tensor) -> Tensor:
    """confusion: (K, classes, classes) -> (K,) in [0, 1], the mean over classes that occur."""
    hits = confusion.diagonal(dim1=1, dim2=2).double()
    union = confusion.sum(1) + confusion.sum(2) - hits
    return torch.where(union > 0, hits / union, torch.nan).nanmean(1)
