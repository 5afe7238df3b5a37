"""What calibrate refuses, and what it takes of a model that is not of this project."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scaleeq import calibrate
from scaleeq.equalization import EqualizerSpec
from scaleeq.equalization.calibration import fusions_of
from scaleeq.fusion import Branch, Concat, Fusion, Resize
from scaleeq.layers import ConvNormAct
from tests.equalized import equalized


def make_fusion(**spec) -> Fusion:
    branches = {"fine": Branch(4), "coarse": Branch(4, transfer=Resize())}
    return equalized(Fusion(branches, combine=Concat(), mix=ConvNormAct(8, 4)), EqualizerSpec(**spec))


class Repeated(nn.Module):
    """Runs its first fusion once and its second one `times` times."""

    def __init__(self, times, **spec):
        super().__init__()
        torch.manual_seed(0)
        self.times = times
        self.first, self.second = make_fusion(**spec), make_fusion(**spec)
        self.calls = 0

    def forward(self, x):
        """x: (N, 4, H, W) -> (N, 4, H, W)."""
        x = self.first({"fine": x, "coarse": x[..., ::2, ::2]})
        for _ in range(self.times):
            x = self.second({"fine": x, "coarse": x[..., ::2, ::2]})
        self.calls += 1
        return x


def batches(count=3):
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(4, 4, 8, 8, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("implementation", ["module", "reparametrize", "init_scaled"])
def test_a_fusion_that_runs_twice_in_a_forward(implementation):
    model = Repeated(2, implementation=implementation)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"runs second more than once, .*give each place a Fusion of its own"):
        calibrate(model, batches(), num_images=-1)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(fusion.observer is None for fusion in fusions_of(model).values())
    assert list(calibrate(Repeated(1), batches(), num_images=-1).fusions) == ["first", "second"]


def test_a_fusion_that_runs_twice_among_many():
    model = nn.Sequential(*(Repeated(1) for _ in range(5)), Repeated(2))  # measured jointly
    with pytest.raises(ValueError, match=r"runs 5\.second more than once"):
        calibrate(model, batches(), num_images=-1)


def test_what_cannot_run_behind_the_fusions_is_not_needed():
    class Unfinished(Repeated):
        def forward(self, x):
            """x: (N, 4, H, W)."""
            super().forward(x)
            raise RuntimeError("needs labels")

    model = Unfinished(1)
    measured = calibrate(model, batches(), num_images=-1).fusions
    assert measured == calibrate(Repeated(1), batches(), num_images=-1).fusions
    assert model.calls == 0


def test_a_layer_named_logits_is_not_the_forward():
    class Stranger(Repeated):
        def __init__(self):
            super().__init__(1)
            self.logits = nn.Linear(3, 2)

    assert calibrate(Stranger(), batches(), num_images=-1).fusions == (
        calibrate(Repeated(1), batches(), num_images=-1).fusions
    )


def test_the_logits_of_a_model_that_states_the_protocol_are():
    class Measurable(Repeated):
        def calibration_inputs(self, batch):
            """batch: {"image": (N, 4, H, W)} -> its image."""
            return batch["image"], None

        def logits(self, x):
            """x: (N, 4, H, W) -> (N, 4, H, W)."""
            return super().forward(x)

        def forward(self, batch):
            raise AssertionError("a calibration needs no losses")

    measured = calibrate(Measurable(1), [{"image": x} for x in batches()], num_images=-1).fusions
    assert measured == calibrate(Repeated(1), batches(), num_images=-1).fusions


def test_a_branch_of_another_width_is_named():
    model = make_fusion()
    with pytest.raises(ValueError, match=r"branch 'fine' is a map of 3 channels, and Branch\(4\) was stated"):
        calibrate(model, [{"fine": x[:, :3], "coarse": torch.cat([x, x[:, :1]], 1)} for x in batches()])
