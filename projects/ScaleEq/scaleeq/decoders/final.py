"""The Fusions that a head owns itself, as MODEL.FUSION, MODEL.GATE and CONTEXT_GATE describe them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from scaleeq.choices import one_of
from scaleeq.fusion import COMBINES, Branch, Fusion, make_combine, make_transfer
from scaleeq.layers.gate import GATES
from scaleeq.ops.resize import RESIZE_MODES

FINAL_TRANSFERS = (*RESIZE_MODES, "gated", "supervised_gated", "aligned")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusionOptions:
    """The keys of MODEL.FUSION, in lower case, and the gates; config/keys.py says what each means.

    gate: kind of unsupervised gates. context_gate: there are gates in the context module too.
    ValueError for an unknown value.
    """

    transfer: str = "bilinear"
    combine: str = "concat"
    gate: str = "paper"
    context_gate: bool = False

    @classmethod
    def from_config(cls, cfg: Any, *, combine: str = "concat") -> FusionOptions:
        """`combine`: the head's own, for where the key is empty."""
        return cls(
            transfer=cfg.MODEL.FUSION.TRANSFER or "bilinear",
            combine=cfg.MODEL.FUSION.COMBINE or combine,
            gate=cfg.MODEL.GATE,
            context_gate=cfg.MODEL.SEM_SEG_HEAD.CONTEXT_GATE,
        )

    def __post_init__(self) -> None:
        one_of(self.gate, GATES, key="MODEL.GATE")
        one_of(self.transfer, FINAL_TRANSFERS, key="MODEL.FUSION.TRANSFER")
        one_of(self.combine, COMBINES, key="MODEL.FUSION.COMBINE")

    @property
    def context_gate_kind(self) -> str:
        """Of the gates in the context module; "": there are none."""
        return self.gate if self.context_gate else ""

    def fusion(
        self,
        widths: Mapping[str, int],
        *,
        mix: Callable[[int], nn.Module],
        num_classes: int,
        reference: str = "",
        laterals: Mapping[str, nn.Module] | None = None,
    ) -> Fusion:
        """The Fusion of branches that are transferred to the size of one of them.

        Args:
            widths: branch -> channels behind its lateral, in the order of combination.
            mix: channels of the combined map -> what consumes it.
            num_classes: of supervised gates.
            reference: the branch that keeps its size; default the first.
            laterals: branch -> lateral, for those that have one.

        Raises:
            ValueError: widths that the combine or the transfer cannot bring together.
        """
        reference = reference or next(iter(widths))
        if len(set(widths.values())) > 1:
            self._refuse_different(widths)
        laterals = laterals or {}
        branches = {
            name: Branch(
                width,
                lateral=laterals.get(name),
                transfer=None
                if name == reference
                else make_transfer(self.transfer, width, gate=self.gate, num_classes=num_classes),
            )
            for name, width in widths.items()
        }
        combine = make_combine(self.combine, len(branches))
        width = sum(widths.values()) if combine.concatenates else widths[reference]
        return Fusion(branches, combine=combine, mix=mix(width), reference=reference)

    def _refuse_different(self, widths: Mapping[str, int]) -> None:
        described = ", ".join(f"{name} {width}" for name, width in widths.items())
        if self.combine != "concat":
            raise ValueError(
                f"MODEL.FUSION.COMBINE {self.combine!r} adds branches of one width; their channels are {described}; "
                "use 'concat' or equal widths"
            )
        if self.transfer == "aligned":
            raise ValueError(
                "MODEL.FUSION.TRANSFER 'aligned' compares a branch with the reference, channel by channel; "
                f"their channels are {described}; use another transfer or equal widths"
            )
