"""What accelerate found in a model, in words."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class FoundFusion:
    """A convolution that reads resized maps, as a forward showed it.

    widths, sizes: channels and (height, width) of each branch before its resize. size: (height, width) of the result.
    estimate: the time per branch, divided by the plain time, as estimated from the sizes.
    pays: whether it is evaluated per branch at these sizes.
    """

    widths: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    size: tuple[int, int]
    kernel: int
    out_channels: int
    estimate: float
    pays: bool

    def __str__(self) -> str:
        branches = " + ".join(f"{w} at {h}x{v}" for w, (h, v) in zip(self.widths, self.sizes, strict=True))
        done = "evaluated per branch" if self.pays else "left plain at these sizes, where it would not pay"
        return (
            f"{branches} -> {self.out_channels} at {self.size[0]}x{self.size[1]}, kernel {self.kernel}: {done} "
            f"(estimated {self.estimate:.2f} of its time)"
        )


@dataclass
class AccelerationReport:
    """fusions: convolution -> what it reads. passed_over: convolution of resized maps -> why it is left as it is.

    seen: whether the model has run since.
    """

    fusions: dict[str, FoundFusion] = field(default_factory=dict)
    passed_over: dict[str, str] = field(default_factory=dict)
    seen: bool = True

    @property
    def pays(self) -> bool:
        """Whether anything is evaluated per branch, at the sizes that were seen."""
        return any(fusion.pays for fusion in self.fusions.values())

    def __str__(self) -> str:
        if not self.seen:
            return "not known before the model's first forward"
        lines = [f"{name}: {fusion}" for name, fusion in self.fusions.items()]
        lines += [f"passed over {name}: {why}" for name, why in self.passed_over.items()]
        return "\n".join(lines) or "no convolution reads maps that were resized directly before"
