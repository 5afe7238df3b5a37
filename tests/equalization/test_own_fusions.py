"""equalize() of a model that is built of Fusions: it attaches to them. Oracle: equalize_fusions, calibrate by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from scaleeq import EqualizerSpec, calibrate, create_model, equalize, equalize_fusions, fold_equalizers

LOADER = [torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model("uper", "test_resnet", num_classes=4, channels=8).eval()


def test_it_attaches_and_calibrates(model):
    twin = copy.deepcopy(model)
    report = equalize(model, LOADER)
    equalize_fusions(twin, EqualizerSpec())
    calibrate(twin, LOADER)
    assert set(report.fusions) == {"sem_seg_head.context", "sem_seg_head.fusion"}
    expected, found = twin.state_dict(), model.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    images = torch.randn(1, 3, 48, 80)
    torch.testing.assert_close(fold_equalizers(model)(images), model(images), rtol=0, atol=1e-5)


def test_without_a_loader_equalizers_wait_for_a_state_dict(model):
    twin = copy.deepcopy(model)
    equalize(twin, LOADER)
    equalize(model, None)
    model.load_state_dict(twin.state_dict())
    images = torch.randn(1, 3, 48, 80)
    assert torch.equal(model(images), twin(images))


def test_an_error_takes_the_equalizers_off_again(model):
    keys = list(model.state_dict())
    with pytest.raises(ValueError):
        equalize(model, [LOADER[0], torch.full((2, 3, 64, 64), float("nan"))])
    assert list(model.state_dict()) == keys


def test_twice_is_refused(model):
    equalize(model, LOADER)
    with pytest.raises(ValueError, match="has scale equalizers already; begin with fold_equalizers"):
        equalize(model, LOADER)


class Both(nn.Module):
    """A model of Fusions, whose logits are concatenated once more with a resized map."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.down, self.last = inner, nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        logits = self.inner(x)
        up = nn.functional.interpolate(self.down(x), size=logits.shape[-2:], mode="bilinear")
        return self.last(torch.cat([logits, up], 1))


def test_a_model_with_both_is_refused_unless_told(model):
    both = Both(model)
    with pytest.raises(ValueError, match=r"has Fusions \(inner.*\) and convolutions that read concatenations \(last\)"):
        equalize(both, LOADER)
    assert set(equalize(both, LOADER, conv="last").fusions) == {"last"}
