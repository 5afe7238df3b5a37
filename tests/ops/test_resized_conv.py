"""Convolutions of resized maps, against the definition: conv2d of the concatenation of the resized maps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from scaleeq.ops import resize
from scaleeq.ops.resize import RESIZE_MODES
from scaleeq.ops.resized_conv import ResizedMap, resized_conv2d

SIZES = {
    "odd": ((17, 23), [(17, 23), (9, 12), (5, 6), (1, 1)]),
    "even": ((16, 16), [(16, 16), (8, 8), (4, 4)]),
    "pools": ((12, 10), [(12, 10), (1, 1), (2, 2), (3, 3), (6, 6)]),
    "downwards": ((7, 9), [(20, 31), (3, 2)]),
    "one row": ((1, 1), [(1, 1), (2, 2)]),
    "tiles": ((150, 290), [(150, 290), (75, 145), (19, 37)]),
}


def definition(maps, weight, bias, *, size, mode, dilation):
    kernel = weight.shape[-1]
    joined = torch.cat([resize(x, size, mode) for x in maps], 1)
    return F.conv2d(joined, weight, bias, padding=dilation * (kernel // 2), dilation=dilation)


def per_map(maps, weight, bias, *, size, mode, dilation):
    return resized_conv2d([ResizedMap(x, mode) for x in maps], weight, bias, size=size, dilation=dilation)


def inputs(sizes, *, kernel=3, images=2, channels_last=False, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(images, 2 + i, *s, dtype=dtype, generator=generator) for i, s in enumerate(sizes)]
    if channels_last:
        maps = [x.contiguous(memory_format=torch.channels_last) for x in maps]
    width = sum(x.shape[1] for x in maps)
    weight = torch.randn(4, width, kernel, kernel, dtype=dtype, generator=generator)
    return maps, weight, torch.randn(4, dtype=dtype, generator=generator)


def with_gradients(function, maps, weight, bias, **options):
    """The result, and the gradients of maps, weight and bias for a random gradient of it."""
    leaves = [x.detach().clone().requires_grad_() for x in (*maps, weight, bias)]
    y = function(leaves[:-2], leaves[-2], leaves[-1], **options)
    factor = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    return [y.detach(), *torch.autograd.grad((y * factor).sum(), leaves)]


def assert_close(ours, theirs, *, tolerance=1e-12):
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (5, 1), (3, 2), (3, 12)])
@pytest.mark.parametrize("sizes", [name for name in SIZES if name != "tiles"])
def test_equals_the_definition(sizes, kernel, dilation, mode, channels_last):
    size, small = SIZES[sizes]
    values, options = inputs(small, kernel=kernel, channels_last=channels_last), {"size": size, "mode": mode}
    ours = with_gradients(per_map, *values, dilation=dilation, **options)
    assert_close(ours, with_gradients(definition, *values, dilation=dilation, **options))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("mode", RESIZE_MODES)
def test_equals_the_definition_in_several_tiles(mode, channels_last):
    size, small = SIZES["tiles"]
    values, options = inputs(small, images=1, channels_last=channels_last), {"size": size, "mode": mode, "dilation": 2}
    assert_close(with_gradients(per_map, *values, **options), with_gradients(definition, *values, **options))


@pytest.mark.parametrize("bias", [False, True])
def test_no_map_of_full_size(bias):
    maps, weight, offset = inputs([(5, 6), (3, 3)])
    options = {"size": (9, 11), "mode": "bilinear", "dilation": 1}
    offset = offset if bias else None
    assert_close([per_map(maps, weight, offset, **options)], [definition(maps, weight, offset, **options)])


def test_gradients_by_finite_differences():
    maps, weight, bias = inputs([(6, 5), (3, 3), (1, 1)], images=1)
    leaves = [x.requires_grad_() for x in (*maps, weight, bias)]
    options = {"size": (6, 5), "mode": "bilinear", "dilation": 1}
    assert torch.autograd.gradcheck(lambda *x: per_map(x[:-2], x[-2], x[-1], **options), leaves)


@pytest.mark.parametrize("needed", range(4))
def test_gradients_of_some_alone(needed):
    maps, weight, bias = inputs([(8, 8), (4, 4), (2, 2)])
    tensors = [*maps, weight]
    tensors[needed].requires_grad_()
    options = {"size": (8, 8), "mode": "bilinear", "dilation": 1}
    y, same = per_map(maps, weight, bias, **options), definition(maps, weight, bias, **options)
    (ours,), (theirs,) = (torch.autograd.grad(z.square().sum(), tensors[needed]) for z in (y, same))
    assert_close([ours], [theirs])


def test_second_derivatives_are_refused():
    maps, weight, bias = inputs([(8, 8), (4, 4)])
    weight.requires_grad_()
    y = per_map(maps, weight, bias, size=(8, 8), mode="bilinear", dilation=1)
    (first,) = torch.autograd.grad(y.square().sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.sum().backward()


def test_inference_first_and_training_later():
    maps, weight, bias = inputs([(10, 14), (5, 7)])
    options = {"size": (10, 14), "mode": "bilinear", "dilation": 1}
    with torch.inference_mode():
        first = per_map(maps, weight, bias, **options)
    ours = with_gradients(per_map, maps, weight, bias, **options)
    assert torch.equal(ours[0], first)
    assert_close(ours, with_gradients(definition, maps, weight, bias, **options))


def test_nothing_but_maps_and_weights_is_kept_for_backward():
    maps, weight, bias = inputs([(16, 16), (8, 8), (4, 4)])
    weight.requires_grad_()
    maps = [x.requires_grad_() for x in maps]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        per_map(maps, weight, bias, size=(16, 16), mode="bilinear", dilation=1)
    ours = {x.untyped_storage().data_ptr() for x in (*maps, weight, bias)}
    assert kept
    assert {x.untyped_storage().data_ptr() for x in kept} <= ours


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_layout_is_that_of_the_maps(channels_last):
    maps, weight, bias = inputs([(8, 8), (4, 4)], channels_last=channels_last, dtype=torch.float32)
    y = per_map(maps, weight, bias, size=(8, 8), mode="bilinear", dilation=1)
    assert y.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@pytest.mark.parametrize("channels_last", [False, True])
def test_bfloat16_and_autocast(channels_last):
    maps, weight, bias = inputs([(16, 16), (8, 8), (4, 4)], channels_last=channels_last, dtype=torch.float32)
    options = {"size": (16, 16), "mode": "bilinear", "dilation": 1}
    exact = with_gradients(definition, maps, weight, bias, **options)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = with_gradients(per_map, maps, weight, bias, **options)
    assert mixed[0].dtype == torch.bfloat16
    assert [x.dtype for x in mixed[1:]] == [torch.float32] * 5
    low = with_gradients(per_map, [x.bfloat16() for x in maps], weight.bfloat16(), bias.bfloat16(), **options)
    assert low[1].dtype == torch.bfloat16
    for ours in (mixed, low):
        assert_close([x.float() for x in ours], exact, tolerance=0.03)


def test_refusals():
    maps, weight, bias = inputs([(8, 8), (4, 4)])
    with pytest.raises(ValueError, match="no mode to be resized to"):
        per_map(maps, weight, bias, size=(8, 8), mode="", dilation=1)
    with pytest.raises(ValueError, match="channels, and the weight reads"):
        per_map(maps, weight[:, 1:], bias, size=(8, 8), mode="nearest", dilation=1)
    with pytest.raises(ValueError, match="odd size"):
        per_map(maps, weight[..., :2, :2], bias, size=(8, 8), mode="nearest", dilation=1)
