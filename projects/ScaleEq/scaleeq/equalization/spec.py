"""What a scale equalizer is: the values of MODEL.SCALE_EQUALIZER, checked against each other.

Controls are what an experiment compares an equalizer with (see .controls); they are no methods of the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

from scaleeq.choices import one_of

IMPLEMENTATIONS = ("reparametrize", "module", "init", "init_scaled")
GRANULARITIES = ("branch", "channel")
STATISTICS = ("std", "rms", "grad")
STATISTICS_OF = ("upsampled", "source")
CONSTANT_CONTROLS = ("common", "permuted", "balanced")
MODULE_CONTROLS = ("batch_norm", "learnable", "learnable_from_std", "noise", "learning_rate")
CONTROLS = ("", *CONSTANT_CONTROLS, *MODULE_CONTROLS)


@dataclass(frozen=True)
class EqualizerSpec:
    """How the branches of a Fusion are equalized; the values and their meaning are those of MODEL.SCALE_EQUALIZER.

    center: subtract the mean; False: only divide by the std, which weights can hold whatever the border.
    """

    implementation: str = "reparametrize"
    granularity: str = "branch"
    statistic: str = "std"
    statistics_of: str = "upsampled"
    control: str = ""
    center: bool = True

    def __post_init__(self) -> None:
        for key, choices in (
            ("implementation", IMPLEMENTATIONS),
            ("granularity", GRANULARITIES),
            ("statistic", STATISTICS),
            ("statistics_of", STATISTICS_OF),
            ("control", CONTROLS),
        ):
            one_of(getattr(self, key), choices, key=f"MODEL.SCALE_EQUALIZER.{key.upper()}")
        if self.control and not self.center:
            raise ValueError(f"MODEL.SCALE_EQUALIZER.CONTROL {self.control!r} needs center=True")
        if self.control and self.granularity != "branch":
            self._refuse("CONTROL", self.control, "GRANULARITY", self.granularity, "'branch'")
        if self.control in MODULE_CONTROLS and self.implementation != "module":
            self._refuse("CONTROL", self.control, "IMPLEMENTATION", self.implementation, "'module'")
        if self.statistic == "grad":
            if self.implementation not in ("module", "reparametrize"):
                needed = "'module' or 'reparametrize'"
                self._refuse("STATISTIC", "grad", "IMPLEMENTATION", self.implementation, needed)
            if self.granularity != "branch":
                self._refuse("STATISTIC", "grad", "GRANULARITY", self.granularity, "'branch'")
            if self.control:
                self._refuse("STATISTIC", "grad", "CONTROL", self.control, "''")

    @property
    def centers(self) -> bool:
        """Whether a mean is subtracted; a root mean square has none."""
        return self.center and not self.around_zero

    @property
    def around_zero(self) -> bool:
        """Whether the std is a root mean square."""
        return self.statistic == "rms"

    @property
    def balances_gradients(self) -> bool:
        """Whether stds are changed until the gradients of the branches' weights have one size."""
        return self.statistic == "grad"

    @property
    def scales_learning_rates(self) -> bool:
        """Whether the steps of the branches' weights are scaled, and nothing else."""
        return self.control == "learning_rate"

    @property
    def of_source(self) -> bool:
        """Whether branches are measured before their transfer."""
        return self.statistics_of == "source"

    @property
    def per_channel(self) -> bool:
        """Whether each channel has its own statistics."""
        return self.granularity == "channel"

    @property
    def needs_weights_per_branch(self) -> str:
        """The key, with its value, that asks for weights that consume one branch; empty where none does."""
        if self.scales_learning_rates:
            return f"CONTROL {self.control!r}"
        return f"STATISTIC {self.statistic!r}" if self.balances_gradients else ""

    def _refuse(self, key: str, value: str, other: str, other_value: str, needed: str) -> None:
        raise ValueError(
            f"MODEL.SCALE_EQUALIZER.{key} {value!r} needs MODEL.SCALE_EQUALIZER.{other} {needed}, not {other_value!r}"
        )
