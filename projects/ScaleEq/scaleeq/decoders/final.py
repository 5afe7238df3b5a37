"""The last Fusion of a decoder, as MODEL.FUSION and MODEL.GATE describe it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from torch import nn

from scaleeq.choices import one_of
from scaleeq.fusion import COMBINES, Branch, Fusion, make_combine, make_transfer
from scaleeq.layers.gate import GATES
from scaleeq.ops.resize import RESIZE_MODES

FINAL_TRANSFERS = (*RESIZE_MODES, "gated", "supervised_gated", "aligned")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusionOptions:
    """The keys of MODEL.FUSION and MODEL.GATE, in lower case; config/keys.py says what each means.

    gate_channels: of what a supervised gate predicts to gate by, the classes. ValueError for an unknown value.
    """

    transfer: str = "bilinear"
    combine: str = "concat"
    gate: str = "paper"
    gate_channels: int = 0

    def __post_init__(self) -> None:
        one_of(self.gate, GATES, key="MODEL.GATE")
        one_of(self.transfer, FINAL_TRANSFERS, key="MODEL.FUSION.TRANSFER")
        one_of(self.combine, COMBINES, key="MODEL.FUSION.COMBINE")

    def fusion(
        self,
        widths: Mapping[str, int],
        *,
        mix: Callable[[int], nn.Module],
        reference: str = "",
        laterals: Mapping[str, nn.Module] | None = None,
    ) -> Fusion:
        """The Fusion of branches that are transferred to the size of one of them.

        Args:
            widths: branch -> channels after its lateral, in the order of combination.
            mix: channels of the combined map -> what consumes it.
            reference: the branch that keeps its size; default the first.
            laterals: branch -> lateral, for those that have one.

        Raises:
            ValueError: widths that the combine or the transfer cannot bring together.
        """
        reference = reference or next(iter(widths))
        if len(set(widths.values())) > 1:
            self._refuse_different(widths)
        laterals = laterals or {}
        # Every branch but the reference is brought to the reference's size.
        branches = {
            name: Branch(
                width,
                lateral=laterals.get(name),
                transfer=None
                if name == reference
                else make_transfer(self.transfer, width, gate=self.gate, num_classes=self.gate_channels),
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
