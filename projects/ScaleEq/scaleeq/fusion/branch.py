"""A branch of a Fusion, and what it is in one forward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from scaleeq.layers.refusals import refuse_channels, refuse_width
from scaleeq.ops import resize
from scaleeq.ops.resized_conv import ResizedMap
from scaleeq.ops.weighted_sum import Summand

from .ports import EndsWithResize, Lateral, Transfer
from .transfers import Keep

Before = Callable[[str, Transfer, torch.Tensor], tuple[torch.Tensor, torch.Tensor | float]]
After = Callable[[str, Transfer, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Observation:
    """One branch of one forward, as an observer sees it.

    `source` and `transferred` are (N, C, h, w) before and (N, C, H, W) after the transfer. Where an equalizer acts
    before the transfer, they are what it left: the branch itself is map * scale + offset.
    """

    branch: str
    source: torch.Tensor
    transferred: torch.Tensor
    scale: torch.Tensor | float = 1.0
    offset: torch.Tensor | float = 0.0


class Branch(nn.Module):
    """What one input passes through before it is combined: lateral (channels first), then transfer (size)."""

    lateral: Lateral
    transfer: Transfer

    def __init__(self, channels: int, *, lateral: Lateral | None = None, transfer: Transfer | None = None):
        """channels: width of the branch once it is transferred. No lateral: as it is; no transfer: its own size."""
        super().__init__()
        refuse_channels(channels)
        self.channels = channels
        self.lateral = nn.Identity() if lateral is None else lateral
        self.transfer = Keep() if transfer is None else transfer


class BranchMap:
    """A branch in one forward, after its lateral; each of its maps is computed on demand, and once.

    The transferred map is let go once the equalized one is there: a large forward would hold both of every branch.
    A branch that is small is combined before its resize; its transferred map is made for an observer alone.
    """

    def __init__(
        self,
        name: str,
        branch: Branch,
        source: torch.Tensor,
        reference: torch.Tensor,
        *,
        before: Before,
        after: After,
        small: bool = False,
    ):
        """source: (N, C, h, w); reference: (N, C', H, W); before, after: see fusion.Equalizers."""
        self.name, self.branch, self.reference, self.small = name, branch, reference, small
        self.before, self.after, self._lateral = before, after, source
        self._resizing = branch.transfer if small and isinstance(branch.transfer, EndsWithResize) else None
        self._prepared: tuple[torch.Tensor, torch.Tensor | float] | None = None
        self._moved: torch.Tensor | None = None
        self._combined: ResizedMap | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W), of the reference."""
        return self.reference.shape[-2], self.reference.shape[-1]

    @property
    def source(self) -> torch.Tensor:
        """(N, C, h, w), what is transferred."""
        return self._prepare()[0]

    def transferred(self) -> torch.Tensor:
        """(N, C, H, W). ValueError for other channels than stated."""
        x = self._move()
        return resize(x.detach(), self.size, self._resizing.mode) if self._resizing is not None else x

    def resized(self) -> ResizedMap:
        """The branch as it is combined, before its resize where it is small."""
        if self._combined is None:
            x = self.after(self.name, self.branch.transfer, self._move())
            self._combined = ResizedMap(x, self._resizing.mode if self._resizing is not None else "")
            self._moved = None  # whoever asks from now on has it computed again
        return self._combined

    def equalized(self) -> torch.Tensor:
        """(N, C, H, W), the same at the reference's size."""
        x, mode = self.resized()
        return resize(x, self.size, mode) if mode else x

    def summand(self) -> Summand:
        """The same as a sum takes it: (N, C, H, W), or a ResizedMap where the branch is small."""
        return self.resized() if self.small else self.equalized()

    def observation(self) -> Observation:
        """What an observer sees; `resized` comes later, because the observer may set the statistics for it."""
        return Observation(self.name, self.source.detach(), self.transferred().detach(), offset=self._prepare()[1])

    def _prepare(self) -> tuple[torch.Tensor, torch.Tensor | float]:
        if self._prepared is None:
            self._prepared = self.before(self.name, self.branch.transfer, self._lateral)
        return self._prepared

    def _move(self) -> torch.Tensor:
        """(N, C, H, W), or (N, C, h, w) where the branch is small; once, because a gate may have a batch norm."""
        if self._moved is None:
            x, small = self.source, self._resizing
            self._moved = self.branch.transfer(x, self.reference) if small is None else small.before_resize(x)
            refuse_width(self.name, self.branch.channels, self._moved)
        return self._moved
