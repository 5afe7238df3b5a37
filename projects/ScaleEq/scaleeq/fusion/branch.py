"""A branch of a Fusion, and what it is in one forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from scaleeq.ops import resize
from scaleeq.ops.resized_conv import ResizedMap

from .checks import refuse_channels, refuse_width
from .ports import EndsWithResize, Lateral, Transfer
from .transfers import Keep


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


class EqualizesBranches(Protocol):
    """What a branch asks of the equalizers of its Fusion, see fusion.Equalizers."""

    def before(
        self, name: str, transfer: Transfer, source: torch.Tensor, /
    ) -> tuple[torch.Tensor, torch.Tensor | float]: ...

    def after(self, name: str, transfer: Transfer, transferred: torch.Tensor, /) -> torch.Tensor: ...


class BranchMap:
    """A branch in one forward, after its lateral; each of its maps is computed on demand, and once.

    The transferred map is let go once the equalized one is there: a large forward would hold both of every branch.
    A branch that is small is combined before its resize; its transferred map is made for an observer alone.
    """

    def __init__(
        self,
        name: str,
        branch: Branch,
        equalizers: EqualizesBranches,
        source: torch.Tensor,
        reference: torch.Tensor,
        *,
        small: bool = False,
    ):
        """source: (N, C, h, w); reference: (N, C', H, W)."""
        self.name, self.branch, self.equalizers, self.small = name, branch, equalizers, small
        self._lateral, self.reference = source, reference
        self._shrunk: torch.Tensor | None = None
        self._resized: ResizedMap | None = None
        self._before: tuple[torch.Tensor, torch.Tensor | float] | None = None
        self._transferred: torch.Tensor | None = None
        self._equalized: torch.Tensor | None = None

    @property
    def source(self) -> torch.Tensor:
        """(N, C, h, w), what is transferred."""
        return self._prepared()[0]

    def transferred(self) -> torch.Tensor:
        """(N, C, H, W). ValueError for other channels than stated."""
        if self._transferred is None and self.small:
            self._transferred = resize(self._before_resize().detach(), self.size, self._resizing.mode)
        elif self._transferred is None:
            self._transferred = self.branch.transfer(self.source, self.reference)
            refuse_width(self.name, self.branch.channels, self._transferred)
        return self._transferred

    def equalized(self) -> torch.Tensor:
        """(N, C, H, W), the branch as it is combined."""
        if self._equalized is None:
            self._equalized = self.equalizers.after(self.name, self.branch.transfer, self.transferred())
            self._transferred = None  # whoever asks from now on has it computed again
        return self._equalized

    def summand(self) -> Any:
        """(N, C, H, W), the branch as a sum takes it; a ResizedMap where it is small."""
        return self.resized() if self.small else self.equalized()

    def resized(self) -> ResizedMap:
        """The branch as it is combined, before its resize where it is small."""
        if not self.small:
            return ResizedMap(self.equalized())
        if self._resized is None:
            x = self.equalizers.after(self.name, self.branch.transfer, self._before_resize())
            self._resized = ResizedMap(x, self._resizing.mode)
            self._shrunk = self._transferred = None
        return self._resized

    @property
    def size(self) -> tuple[int, int]:
        """(H, W), of the reference."""
        return self.reference.shape[-2], self.reference.shape[-1]

    @property
    def _resizing(self) -> EndsWithResize:
        assert isinstance(self.branch.transfer, EndsWithResize)
        return self.branch.transfer

    def _before_resize(self) -> torch.Tensor:
        """(N, C, h, w); once, because a gate may have a batch norm."""
        if self._shrunk is None:
            self._shrunk = self._resizing.before_resize(self.source)
            refuse_width(self.name, self.branch.channels, self._shrunk)
        return self._shrunk

    def observation(self) -> Observation:
        """What an observer sees; `equalized` comes later, because the observer may set the statistics for it."""
        return Observation(self.name, self.source.detach(), self.transferred().detach(), offset=self._prepared()[1])

    def _prepared(self) -> tuple[torch.Tensor, torch.Tensor | float]:
        if self._before is None:
            self._before = self.equalizers.before(self.name, self.branch.transfer, self._lateral)
        return self._before
