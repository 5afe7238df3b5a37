"""What is recorded of the branches. Oracles: forward hooks and numpy's corrcoef, autograd.grad, an optimizer's step."""

from __future__ import annotations

import contextlib
import copy

import numpy as np
import pytest
import torch
from torch import nn

from scaleeq.equalization import EqualizerSpec, equalize_fusions
from scaleeq.equalization.calibration import calibrate
from scaleeq.fusion import Branch, Concat, Fusion, Resize, SoftmaxSum
from scaleeq.layers import ConvNormAct
from scaleeq.probes.scales import Recorder, _of_combined, map_statistics
from tests.equalization.test_calibration import TinyNet, make_loader
from tests.equalized import equalized


class NoNorm(nn.Module):
    """Two branches, one of them upsampled, without batch statistics: parts of a batch are independent."""

    def __init__(self, combine: nn.Module, **spec):
        super().__init__()
        torch.manual_seed(1)
        width = 8 if combine.concatenates else 4
        branches = {"fine": Branch(4), "coarse": Branch(4, transfer=Resize())}
        mix = ConvNormAct(width, 3, kernel_size=3, norm=None)
        equalizer = EqualizerSpec(**spec) if spec else None
        self.fusion = equalized(Fusion(branches, combine=combine, mix=mix), equalizer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fusion({"fine": x, "coarse": nn.functional.avg_pool2d(2 * x, 2)}).square().mean()


def maps(batch: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return nn.functional.avg_pool2d(torch.randn(batch, 4, 16, 20, generator=generator), 3, 1, 1) + 0.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_statistics_of_a_map_are_numpys(dtype):
    x = maps().to(dtype)
    scale, offset = torch.rand(4, 1, 1, dtype=dtype) + 0.5, torch.randn(4, 1, 1, dtype=dtype)
    found = map_statistics(x, scale, offset)
    values = (x * scale + offset).double().numpy()
    np.testing.assert_allclose(found["mean"], values.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found["variance"], values.var((0, 2, 3)), rtol=1e-5)
    centered = values - values.mean()
    below = (centered[:, :, 1:] * centered[:, :, :-1]).mean() / values.var()
    beside = (centered[..., 1:] * centered[..., :-1]).mean() / values.var()
    np.testing.assert_allclose(found["correlation"], [below, beside], rtol=1e-5)
    # The usual coefficient takes the means and deviations of the two shifted maps: the same up to the border.
    usual = np.corrcoef(values[..., 1:].ravel(), values[..., :-1].ravel())[0, 1]
    assert float(found["correlation"][1]) == pytest.approx(usual, abs=0.05)
    assert not torch.isfinite(map_statistics(x[..., :1, :1])["correlation"]).any()


@pytest.mark.parametrize(
    ("combine", "spec"),
    [
        (Concat, {}),
        (Concat, {"implementation": "reparametrize"}),
        (Concat, {"implementation": "module"}),
        (Concat, {"implementation": "init"}),
        (lambda: SoftmaxSum(2), {}),
        (lambda: SoftmaxSum(2), {"implementation": "reparametrize"}),
        (lambda: SoftmaxSum(2), {"implementation": "module"}),
    ],
)
def test_gradients_and_steps_are_autograds(combine, spec):
    """What is added to a branch after its transfer has the gradient of the branch before its equalizer."""
    model = NoNorm(combine(), **spec).double()
    x = maps().double().requires_grad_()
    if spec:
        calibrate(model, [x], num_images=-1, progress=lambda line: None)
    added = {name: torch.zeros(4, 4, 16, 20, dtype=torch.float64, requires_grad=True) for name in model.fusion.branches}
    handles = [
        branch.transfer.register_forward_hook(lambda m, args, out, name=name: out + added[name])
        for name, branch in model.fusion.branches.items()
    ]
    weight = model.fusion.mix.conv.weight
    gradients = dict(zip(added, torch.autograd.grad(model(x), list(added.values())), strict=True))
    (weight_gradient,) = torch.autograd.grad(model(x), weight)
    for handle in handles:
        handle.remove()

    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Recorder(model) as recorder:
        (model(x) * 8).backward()
        for parameter in model.parameters():
            parameter.grad = None if parameter.grad is None else parameter.grad / 8
        recorder.read_gradients(gradient_scale=8)
        before = weight.detach().clone()
        optimizer.step()
    branches = recorder.finish()["fusion"]["branches"]
    for index, (name, gradient) in enumerate(gradients.items()):
        assert branches[name]["map_gradient"] == pytest.approx(float(gradient.square().mean().sqrt()), rel=1e-6)
        if not model.fusion.combine.concatenates:
            assert "weight_gradient" not in branches[name]
            continue
        part = (slice(None), slice(4 * index, 4 * index + 4))
        assert branches[name]["weight_gradient"] == pytest.approx(float(weight_gradient[part].square().mean().sqrt()))
        step = float((weight.detach() - before)[part].norm() / before[part].norm())
        assert branches[name]["relative_step"] == pytest.approx(step, rel=1e-6)


def test_micro_batches_and_processes_count_as_one_batch():
    """Oracle: the whole batch at once, without anything that looks at other images."""
    x, whole, parts = maps(6).requires_grad_(), NoNorm(Concat()), [NoNorm(Concat()) for _ in range(2)]

    def watched(model: nn.Module, batches: list[torch.Tensor]) -> Recorder:
        with Recorder(model) as recorder:
            for batch in batches:
                (model(batch) / len(batches)).backward()
        return recorder

    expected = watched(whole, [x]).finish()["fusion"]
    shares = []
    watched(parts[0], [x[:1], x[1:2], x[2:3]]).finish(lambda share: shares.append(share) or [share])
    found = watched(parts[1], [x[3:]]).finish(lambda share: [*shares, share])["fusion"]
    for name, numbers in expected["branches"].items():
        for key, value in numbers.items():
            # Correlations are around the mean of each part, and their mean counts the parts equally.
            tolerance = 0.15 if "correlation" in key or key == "std_predicted" else 1e-5
            assert found["branches"][name][key] == pytest.approx(value, rel=tolerance), (name, key)
        assert numbers["map_gradient"] > 0
    assert found["spread"] == pytest.approx(expected["spread"], rel=1e-5)


def test_prediction_and_shares():
    model = NoNorm(Concat(), implementation="reparametrize", granularity="channel")
    x = maps(8)
    calibrate(model, [x], num_images=-1, progress=lambda line: None)
    with Recorder(model) as recorder:
        model(x)
    fusion = recorder.finish()["fusion"]
    fine, coarse = fusion["branches"].values()
    assert fine["std_predicted"] == fine["std"] == fine["source_std"]
    assert coarse["std"] < 0.95 * coarse["source_std"]
    assert coarse["std_predicted"] == pytest.approx(coarse["std"], rel=0.03)
    assert [b["std_equalized"] for b in (fine, coarse)] == pytest.approx([1, 1], rel=1e-5)
    assert [b["energy_share_equalized"] for b in (fine, coarse)] == pytest.approx([0.5, 0.5], rel=1e-5)
    share = fine["std"] ** 2 / (fine["std"] ** 2 + coarse["std"] ** 2)
    assert fine["energy_share"] == pytest.approx(share)
    assert fusion["spread"] == pytest.approx(max(fine["std"], coarse["std"]) / min(fine["std"], coarse["std"]))
    assert "map_gradient" not in fine and "weight_gradient" not in fine


def test_recording_leaves_results_and_hooks_as_they_were():
    models = [TinyNet(dropout=0.0) for _ in range(2)]
    (x,) = make_loader(1)
    calibrate(models[0], [x], num_images=-1, progress=lambda line: None)
    models[1].load_state_dict(copy.deepcopy(models[0].state_dict()))
    outputs = []
    for model, watched in zip(models, (False, True), strict=True):
        with Recorder(model) if watched else contextlib.nullcontext() as recorder:
            outputs.append(model(x))
            outputs[-1].square().mean().backward()
            if recorder is not None:
                recorder.read_gradients()
    assert torch.equal(*outputs)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert (one.grad is None and other.grad is None) or torch.equal(one.grad, other.grad)
    for fusion in (models[1].context, models[1].last):
        assert fusion.observer is None and not fusion.combine._forward_hooks


def test_what_is_not_finite_is_left_out():
    model = NoNorm(Concat())
    with Recorder(model) as recorder:
        (model(maps()) * float("inf")).backward()
        recorder.read_gradients()
    branch = recorder.finish()["fusion"]["branches"]["coarse"]
    assert {"std", "mean"} <= set(branch) and not {"weight_gradient", "map_gradient"} & set(branch)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_gradient_of_a_concatenation_follows_from_that_of_the_convolution_that_reads_it(scaled, dilation):
    """Oracle: autograd, of the concatenation that a plain evaluation makes."""
    torch.manual_seed(0)
    branches = {"fine": Branch(3), "coarse": Branch(2, transfer=Resize())}
    mix = ConvNormAct(5, 4, kernel_size=3, dilation=dilation)
    fusion = Fusion(branches, combine=Concat(), mix=mix).double()
    if scaled:
        equalize_fusions(fusion, EqualizerSpec())
        for std, equalizer in zip((0.5, 4.0), fusion.equalizer_of.values(), strict=True):
            equalizer.set_statistics(torch.tensor(0.1), torch.tensor(std), 4)
    seen = {}
    fusion.combine.register_forward_hook(lambda module, args, out: seen.update(combined=out))
    mix.norm.register_forward_pre_hook(lambda module, args: seen.update(convolved=args[0]))
    inputs = {"fine": torch.randn(2, 3, 9, 8).double(), "coarse": torch.randn(2, 2, 4, 4).double().requires_grad_()}
    loss = fusion(inputs).square().sum()
    expected, gradient = torch.autograd.grad(loss, [seen["combined"], seen["convolved"]])
    torch.testing.assert_close(_of_combined(fusion, gradient), expected)
