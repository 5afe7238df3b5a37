"""How long an optimizer's step is for the weights of each branch. Oracle: powers of the branch's standard deviation."""

from __future__ import annotations

import pytest
import torch

from scaleeq.equalization import EqualizerSpec, scale_optimizer_steps
from scaleeq.fusion import Branch, Concat, Fusion
from scaleeq.layers import ConvNormAct
from tests.equalized import equalized

STDS = torch.tensor([1.0, 0.5, 0.25, 0.1], dtype=torch.float64)
WIDTH = 16


def make_fusion(implementation: str) -> Fusion:
    """Four branches, one 3x3 convolution, equalizers with the true statistics; "off": none."""
    torch.manual_seed(0)
    fusion = equalized(
        Fusion(
            {f"b{index}": Branch(WIDTH) for index in range(len(STDS))},
            combine=Concat(),
            mix=ConvNormAct(WIDTH * len(STDS), 16, kernel_size=3, norm=None, activation=False),
        ),
        None if implementation == "off" else EqualizerSpec(implementation=implementation),
    ).double()
    for std, equalizer in zip(STDS, fusion.equalizer_of.values(), strict=implementation != "off"):
        equalizer.set_statistics(torch.zeros(()), std, 10)
    fusion.initialize()
    return fusion


def slices(fusion: Fusion) -> list[torch.Tensor]:
    return [part.detach().clone() for part in fusion.mix.conv.weight.split(WIDTH, dim=1)]


def relative_steps(implementation: str, optimizer: str) -> torch.Tensor:
    """(branches,): |change| / |weights| of each branch in one step, over that of the first branch.

    The gradient of the loss is white noise, so a weight's gradient is as large as its branch.
    """
    fusion = make_fusion(implementation)
    makers = {"sgd": lambda p: torch.optim.SGD(p, 1e-3), "adamw": lambda p: torch.optim.AdamW(p, 1e-3, weight_decay=0)}
    stepper = makers[optimizer](fusion.parameters())
    scale_optimizer_steps(fusion, stepper)
    maps = {f"b{i}": std * torch.randn(2, WIDTH, 24, 24, dtype=torch.float64) for i, std in enumerate(STDS)}
    before = slices(fusion)
    output = fusion(maps)
    output.backward(torch.randn_like(output))
    stepper.step()
    steps = [(new - old).norm() / old.norm() for old, new in zip(before, slices(fusion), strict=True)]
    return torch.stack(steps) / steps[0]


@pytest.mark.parametrize(
    ("implementation", "optimizer", "power"),
    [
        ("off", "sgd", 1),
        ("init", "sgd", 2),
        ("module", "sgd", 0),
        ("reparametrize", "sgd", 0),
        ("init_scaled", "sgd", 0),
        ("off", "adamw", 0),
        ("init", "adamw", 1),
        ("module", "adamw", 0),
        ("reparametrize", "adamw", 0),
        ("init_scaled", "adamw", 0),
    ],
)
def test_the_relative_step_of_a_branch_is_a_power_of_its_std(implementation, optimizer, power):
    """The paper's initializer makes SGD's steps more unequal than they were; training with the equalizer evens them."""
    steps = relative_steps(implementation, optimizer)
    torch.testing.assert_close(steps, STDS**power, rtol=0.05, atol=0)


def test_the_gradient_of_the_output_is_the_branch_whatever_the_weights():
    """Proposition 3.1 is about dy/dw = x: initial weights do not change it, an equalizer in the forward does."""
    stds = {}
    for implementation in ("off", "init", "module"):
        fusion = make_fusion(implementation)
        torch.manual_seed(1)
        maps = {f"b{i}": std * torch.randn(1, WIDTH, 24, 24, dtype=torch.float64) for i, std in enumerate(STDS)}
        output = fusion(maps)
        derivatives = []
        for y, x in torch.randint(1, 23, (40, 2)).tolist():  # one output pixel each, of one output channel
            (gradient,) = torch.autograd.grad(output[0, 0, y, x], [fusion.mix.conv.weight], retain_graph=True)
            derivatives.append(gradient[0])
        stds[implementation] = torch.stack([part.std() for part in torch.stack(derivatives).split(WIDTH, dim=1)])
    torch.testing.assert_close(stds["off"] / stds["off"][0], STDS, rtol=0.05, atol=0)
    torch.testing.assert_close(stds["init"], stds["off"], rtol=0, atol=0)
    torch.testing.assert_close(stds["module"], torch.ones_like(STDS), rtol=0.05, atol=0)
