"""BranchMoments. Oracles: numpy in float64 over all data at once; simulation for the standard error."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from scaleeq.equalization.moments import BranchMoments
from scaleeq.ops.moments import channel_moments


def batches(count=5, mean=0.4, std=0.58, dtype=torch.float64, seed=0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(3, 4, 8, 6, generator=generator, dtype=torch.float64) * std + mean).to(dtype) for _ in range(count)
    ]


def measured(data) -> BranchMoments:
    moments = BranchMoments()
    for x in data:
        moments.update(x)
    return moments


def test_moments_equal_numpy_over_all_data():
    data = batches()
    moments = measured(data)
    stacked = torch.cat(data).numpy()
    np.testing.assert_allclose(moments.mean.numpy(), stacked.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(moments.variance.numpy(), stacked.var((0, 2, 3)), rtol=1e-12)
    mean, variance = moments.scalar()
    assert mean == pytest.approx(stacked.mean(), rel=1e-12)
    assert variance == pytest.approx(stacked.var(), rel=1e-12)


@pytest.mark.parametrize(("mean", "std", "error"), [(0.4, 0.58, 1e-7), (1000, 0.1, 3e-5), (3e4, 1, 1e-3)])
def test_float32_maps_with_a_large_mean_keep_their_std(mean, std, error):
    """The limit is float32's own resolution of the data; a naive sum of squares is lost here."""
    data = batches(mean=mean, std=std, dtype=torch.float32)
    truth = torch.cat(data).double().numpy().std()
    assert math.sqrt(measured(data).scalar()[1]) == pytest.approx(truth, rel=error)
    if mean == 3e4:
        everything = torch.cat(data)
        naive = (everything.square().mean() - everything.mean().square()).item()
        assert abs(naive - truth**2) > 0.1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 3, 128, 96), (1, 4, 5, 5000), (3, 2, 1, 1)])
@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_sums_in_float32_have_the_digits_of_float32(shape, layout, mean):
    """Also where a row is longer than a sum may be, and where there are several sums an image."""
    x = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + mean).contiguous(memory_format=layout)
    variance, expected = torch.var_mean(x.double(), dim=(0, 2, 3), correction=0)
    found, squares = channel_moments(x)
    std = (squares / (x.numel() / x.shape[1])).sqrt()
    assert found.dtype == squares.dtype == torch.float64
    assert ((found - expected).abs() / torch.maximum(variance.sqrt(), expected.abs())).max() < 2e-7
    assert ((std - variance.sqrt()).abs() / variance.sqrt()).max() < 3e-7 * (1 + mean / 30)


def test_a_constant_channel_has_no_variance_whatever_its_value():
    x = torch.tensor([0.1, 1 / 3, -7e5]).view(1, 3, 1, 1).expand(2, 3, 100, 90)
    assert not channel_moments(x)[1].any()


def test_merge_does_not_depend_on_order_or_shards():
    data = batches(4)
    direct = measured(data)
    for order in itertools.permutations(range(4)):
        shards = [measured([data[i] for i in order[:1]]), measured([data[i] for i in order[1:]])]
        merged = BranchMoments()
        for shard in shards:
            merged.merge(shard)
        torch.testing.assert_close(merged.mean, direct.mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(merged.squares, direct.squares, rtol=1e-12, atol=0)
        assert merged.count == direct.count
        assert merged.relative_standard_error() == pytest.approx(direct.relative_standard_error(), rel=1e-9)


def test_padding_is_left_out():
    x = torch.randn(2, 3, 8, 10, dtype=torch.float64)
    moments = BranchMoments()
    moments.update(x, torch.tensor([[0.5, 1.0], [1.0, 0.35]]))
    parts = np.concatenate([x[0, :, :4].reshape(3, -1).numpy(), x[1, :, :, :4].reshape(3, -1).numpy()], 1)
    np.testing.assert_allclose(moments.mean.numpy(), parts.mean(1), rtol=1e-12)
    np.testing.assert_allclose(moments.variance.numpy(), parts.var(1), rtol=1e-12)


def test_standard_error_predicts_the_scatter_of_repeated_measurements():
    """200 measurements of 8 batches, whose stds vary: the predicted error of the std is the observed one."""
    generator = torch.Generator().manual_seed(0)
    stds, predicted = [], []
    for _ in range(200):
        scales = 1 + 0.2 * torch.randn(8, generator=generator, dtype=torch.float64)
        moments = measured(s * torch.randn(1, 2, 32, 32, generator=generator, dtype=torch.float64) for s in scales)
        stds.append(math.sqrt(moments.scalar()[1]))
        predicted.append(moments.relative_standard_error())
    observed = np.std(stds) / np.mean(stds)
    assert np.mean(predicted) == pytest.approx(observed, rel=0.15)


def test_standard_error_knows_that_the_means_of_batches_differ():
    """As above, for batches of one std and different means: what is uncertain is how far the means lie apart."""
    generator = torch.Generator().manual_seed(0)
    stds, predicted = [], []
    for _ in range(200):
        means = 2 * torch.randn(16, generator=generator, dtype=torch.float64)
        moments = measured(m + torch.randn(1, 2, 16, 16, generator=generator, dtype=torch.float64) for m in means)
        stds.append(math.sqrt(moments.scalar()[1]))
        predicted.append(moments.relative_standard_error())
    observed = np.std(stds) / np.mean(stds)
    assert np.mean(predicted) == pytest.approx(observed, rel=0.15)


def test_standard_error_is_that_of_the_mean_squared_deviation():
    """Oracle: numpy's standard error of the batches' mean squared deviations from the mean over everything."""
    data = [x + 0.5 * i for i, x in enumerate(batches(5))]
    deviations = [((x - torch.cat(data).mean()) ** 2).mean().item() for x in data]
    expected = np.std(deviations, ddof=1) / np.mean(deviations) / (2 * math.sqrt(5))
    assert measured(data).relative_standard_error() == pytest.approx(expected, rel=1e-9)


def test_standard_error_of_one_batch_is_unknown_and_of_a_constant_zero():
    assert measured(batches(1)).relative_standard_error() == math.inf
    assert measured([torch.ones(1, 2, 3, 3)] * 2).relative_standard_error() == 0
