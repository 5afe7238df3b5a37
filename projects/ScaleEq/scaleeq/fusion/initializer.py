"""The paper's auxiliary initializer (arXiv 2402.01149): statistics go into the initial weights, once.

"init" is the paper: the function of the first step is the equalized one, the training that follows is not, because a
weight w = v / std takes other steps than v would. "init_scaled" repairs that: the weight that is stored is still w, but
gradients and optimizer see v = w * std, so that any optimizer trains it exactly as "module" does; the mean is
subtracted before the weights, where it stays until the fold.

What a weight cannot take is refused when the model is built: a plain sum has no weight per branch. "init" leaves the
mean to a bias where the convolution has one (inexact at a zero-padded border, as the paper's formula is); without one
the norm behind it removes a constant per channel, if it is a batch norm. In a softmax or fast-normalized sum it scales
the branches' weights; the common factor and the means are left to the norm behind the sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from ..layers import per_weight
from .combine import FastNormalizedSum, SoftmaxSum

if TYPE_CHECKING:
    from .fusion import Fusion

INITIALIZERS = ("init", "init_scaled")


def refusal(fusion: Fusion) -> str:
    """Why what a fusion's spec asks for has no weight to go to; empty where it has one."""
    spec = fusion.equalizer_spec
    assert spec is not None
    if spec.implementation in INITIALIZERS and (reason := _initializer_refusal(fusion)):
        return f"MODEL.SCALE_EQUALIZER.IMPLEMENTATION {spec.implementation!r}: {reason}"
    for key, value, needs in (
        ("CONTROL", spec.control, spec.control == "learning_rate"),
        ("STATISTIC", spec.statistic, spec.statistic == "grad"),
    ):
        if needs and not (fusion.combine.concatenates and hasattr(fusion.mix, "consumer")):
            return (
                f"MODEL.SCALE_EQUALIZER.{key} {value!r}: a {type(fusion.combine).__name__} before "
                f"{type(fusion.mix).__name__} has no weights per branch; it needs a concatenation and a convolution"
            )
    return ""


def _initializer_refusal(fusion: Fusion) -> str:
    """Why the initializer of a fusion's spec has no weight to go to; empty where it has one."""
    assert fusion.equalizer_spec is not None
    kind, centers = fusion.equalizer_spec.implementation, fusion.equalizer_spec.centers
    if fusion.combine.concatenates:
        if not hasattr(fusion.mix, "consumer"):
            return f"{type(fusion.mix).__name__} does not name the convolution that reads the concatenation"
        if kind == "init" and centers and fusion.mix.consumer.bias is None:
            norm = getattr(fusion.mix, "norm", None)
            if not isinstance(norm, (nn.modules.batchnorm._BatchNorm, nn.InstanceNorm2d)):
                return (
                    f"the convolution has no bias to take the mean, and {type(norm).__name__} behind it does not "
                    "remove a constant per channel; use STATISTIC 'rms', which has no mean"
                )
        return ""
    if kind == "init" and isinstance(fusion.combine, (SoftmaxSum, FastNormalizedSum)):
        return (
            ""
            if fusion.equalizer_spec.granularity == "branch"
            else "a weighted sum has one weight per branch; use GRANULARITY 'branch'"
        )
    return f"{type(fusion.combine).__name__} has no weights whose training could follow the initial scale"


@torch.no_grad()
def scale_initial_weights(fusion: Fusion, *, undo: bool = False) -> None:
    """Put the statistics of a calibrated fusion's equalizers into the weights that consume its branches.

    undo: take them out again, as far as training has not changed what that means.
    """
    assert fusion.equalizer_spec is not None
    equalizers = list(fusion.equalizer_of.values())
    if isinstance(fusion.combine, SoftmaxSum):
        shift = torch.stack([equalizer.std.log() for equalizer in equalizers])
        fusion.combine.logits.sub_(-shift if undo else shift)
        return
    if isinstance(fusion.combine, FastNormalizedSum):
        stds = torch.stack([equalizer.std for equalizer in equalizers])
        fusion.combine.raw_weights.mul_(stds if undo else stds.reciprocal())
        return
    conv: nn.Conv2d = fusion.mix.consumer
    if undo:
        _shift_bias(fusion, conv, sign=1.0)
        conv.weight.div_(_scale_of(fusion))
    else:
        conv.weight.mul_(_scale_of(fusion))
        _shift_bias(fusion, conv, sign=-1.0)


def _shift_bias(fusion: Fusion, conv: nn.Conv2d, *, sign: float) -> None:
    """Add sign * (sum over inputs and taps of weight * mean) to the bias, for "init"."""
    assert fusion.equalizer_spec is not None
    if fusion.equalizer_spec.implementation == "init" and conv.bias is not None:
        means = [equalizer.mean.reshape(-1).expand(equalizer.channels) for equalizer in fusion.equalizer_of.values()]
        conv.bias.add_(sign * (conv.weight * per_weight(conv, torch.cat(means))).sum((1, 2, 3)))


def scale_optimizer_steps(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Let `optimizer` train the weights of "init_scaled" fusions as if they were those of "module".

    Gradients are divided by the std where they arise (so clipping sees the right norm), and each step is taken on
    w * std. The control "learning_rate" has its steps scaled too. Call it once, on the model that the optimizer trains;
    models without such fusions are left alone.
    """
    from .fusion import Fusion

    specs = {m: m.equalizer_spec for m in model.modules() if isinstance(m, Fusion) and m.equalizer_spec is not None}
    _scale_learning_rates([fusion for fusion, spec in specs.items() if spec.control == "learning_rate"], optimizer)
    fusions = [fusion for fusion, spec in specs.items() if spec.implementation == "init_scaled"]
    for fusion in fusions:
        fusion.mix.consumer.weight.register_hook(
            lambda gradient, fusion=fusion: (gradient * _scale_of(fusion)).to(gradient.dtype)
        )
    if not fusions:
        return

    @torch.no_grad()
    def enter(*_: object) -> None:
        for fusion in fusions:
            fusion.mix.consumer.weight.div_(_scale_of(fusion))

    @torch.no_grad()
    def leave(*_: object) -> None:
        for fusion in fusions:
            fusion.mix.consumer.weight.mul_(_scale_of(fusion))

    optimizer.register_step_pre_hook(enter)
    optimizer.register_step_post_hook(leave)


def _scale_learning_rates(fusions: list[Fusion], optimizer: torch.optim.Optimizer) -> None:
    """Every step of the weights that consume a branch becomes 1 / std ** 2 as long, whatever the optimizer."""
    before: list[torch.Tensor] = []

    @torch.no_grad()
    def enter(*_: object) -> None:
        before[:] = [fusion.mix.consumer.weight.clone() for fusion in fusions]

    @torch.no_grad()
    def leave(*_: object) -> None:
        for fusion, old in zip(fusions, before, strict=True):
            conv = fusion.mix.consumer
            stds = torch.cat([e.std.reshape(-1).expand(e.channels) for e in fusion.equalizer_of.values()])
            conv.weight.copy_(old + (conv.weight - old) / per_weight(conv, stds.square()).to(old.dtype))

    if fusions:
        optimizer.register_step_pre_hook(enter)
        optimizer.register_step_post_hook(leave)


def _scale_of(fusion: Fusion) -> torch.Tensor:
    """1 / std, shaped to multiply the weights with; in float32 at least, as the products are."""
    return per_weight(fusion.mix.consumer, torch.cat([e.scale() for e in fusion.equalizer_of.values()]))
