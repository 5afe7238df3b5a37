"""What training does to weights that have a scale in them: hooks on gradients and optimizer steps.

The paper's auxiliary initializer ("init") starts as the equalized function, and then trains another one, because a
weight w = v / std takes other steps than v would. "init_scaled" repairs that: the weight that is stored is still w, but
gradients and optimizer see v = w * std, so that any optimizer trains it exactly as "module" does.
"""

from __future__ import annotations

import torch
from torch import nn

from scaleeq.fusion import Fusion
from scaleeq.layers import per_weight

from .implementations import Attached, EqualizeTrainedWeights, consumer_of, weight_scale


def scale_optimizer_steps(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Let `optimizer` train the weights of "init_scaled" fusions as if they were those of "module".

    Gradients are divided by the std where they arise (so clipping sees the right norm), and each step is taken on
    w * std. The control "learning_rate" has its steps scaled too. Call it once, on the model that the optimizer trains;
    models without such fusions are left alone.
    """
    found = {m: m.equalizers for m in model.modules() if isinstance(m, Fusion)}
    specs = {fusion: each.spec for fusion, each in found.items() if isinstance(each, Attached)}
    _scale_learning_rates([fusion for fusion, spec in specs.items() if spec.scales_learning_rates], optimizer)
    fusions = [fusion for fusion, each in found.items() if isinstance(each, EqualizeTrainedWeights)]
    for fusion in fusions:
        consumer_of(fusion).weight.register_hook(
            lambda gradient, fusion=fusion: (gradient * weight_scale(fusion)).to(gradient.dtype)
        )
    if not fusions:
        return

    @torch.no_grad()
    def enter(*_: object) -> None:
        for fusion in fusions:
            consumer_of(fusion).weight.div_(weight_scale(fusion))

    @torch.no_grad()
    def leave(*_: object) -> None:
        for fusion in fusions:
            consumer_of(fusion).weight.mul_(weight_scale(fusion))

    optimizer.register_step_pre_hook(enter)
    optimizer.register_step_post_hook(leave)


def _scale_learning_rates(fusions: list[Fusion], optimizer: torch.optim.Optimizer) -> None:
    """Every step of the weights that consume a branch becomes 1 / std ** 2 as long, whatever the optimizer."""
    before: list[torch.Tensor] = []

    @torch.no_grad()
    def enter(*_: object) -> None:
        before[:] = [consumer_of(fusion).weight.clone() for fusion in fusions]

    @torch.no_grad()
    def leave(*_: object) -> None:
        for fusion, old in zip(fusions, before, strict=True):
            conv = consumer_of(fusion)
            stds = torch.cat([e.std.reshape(-1).expand(e.channels) for e in fusion.equalizer_of.values()])
            conv.weight.copy_(old + (conv.weight - old) / per_weight(conv, stds.square()).to(old.dtype))

    if fusions:
        optimizer.register_step_pre_hook(enter)
        optimizer.register_step_post_hook(leave)
