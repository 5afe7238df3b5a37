"""Fusion and its parts. Oracles: the expression written out with torch functions; one form against the other."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scaleeq.fusion import (
    Branch,
    Concat,
    EqualizerSpec,
    Fusion,
    Resize,
    ScaleEqualizer,
    Sum,
    WeightedSum,
    make_combine,
    make_transfer,
    pyramid_pooling,
)
from scaleeq.layers import ConvNormAct

SIZES = {"fine": (9, 13), "middle": (5, 7), "coarse": (3, 4)}


def make_fusion(combine="concat", transfer="bilinear", **spec) -> Fusion:
    """Three branches of 4 channels, a convolution each; with `spec`, equalizers with made-up statistics."""
    torch.manual_seed(0)
    branches = {"fine": Branch(4, lateral=ConvNormAct(4, 4))}
    branches |= {name: Branch(4, lateral=ConvNormAct(4, 4), transfer=Resize(transfer)) for name in ("middle", "coarse")}
    mix = ConvNormAct(12 if combine == "concat" else 4, 6, kernel_size=3)
    fusion = Fusion(
        branches, combine=make_combine(combine), mix=mix, equalizer=EqualizerSpec(**spec) if spec else None
    ).double()
    for index, equalizer in enumerate(fusion.equalizer_of.values()):
        offsets = torch.linspace(0, 0.1, equalizer.mean.numel(), dtype=torch.float64)
        equalizer.set_statistics(0.3 + 0.2 * index + offsets, 0.4 + 0.3 * index + offsets, 10)
    return fusion


def make_inputs(batch=2) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {name: torch.randn(batch, 4, *size, dtype=torch.float64) for name, size in SIZES.items()}


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("combine", ["concat", "sum"])
def test_fusion_is_the_expression_written_out(combine, mode):
    fusion, inputs = make_fusion(combine, mode), make_inputs()
    corners = {"align_corners": False} if mode == "bilinear" else {}
    maps = [
        F.interpolate(fusion.branches[name].lateral(x), size=SIZES["fine"], mode=mode, **corners)
        for name, x in inputs.items()
    ]
    combined = torch.cat(maps, 1) if combine == "concat" else maps[0] + maps[1] + maps[2]
    torch.testing.assert_close(fusion(inputs), fusion.mix(combined), rtol=0, atol=1e-12)


@pytest.mark.parametrize("granularity", ["branch", "channel"])
@pytest.mark.parametrize("combine", ["concat", "sum"])
def test_module_equals_the_definition_and_reparametrize_equals_module(combine, granularity):
    module = make_fusion(combine, implementation="module", granularity=granularity)
    reparametrized = make_fusion(combine, implementation="reparametrize", granularity=granularity)
    inputs = make_inputs()
    maps = []
    for name, x in inputs.items():
        equalizer = module.equalizer_of[name]
        upsampled = F.interpolate(
            module.branches[name].lateral(x), size=SIZES["fine"], mode="bilinear", align_corners=False
        )
        maps.append((upsampled - equalizer.mean) / equalizer.std)
    combined = torch.cat(maps, 1) if combine == "concat" else maps[0] + maps[1] + maps[2]
    expected = module.mix(combined)
    torch.testing.assert_close(module(inputs), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(reparametrized(inputs), expected, rtol=0, atol=1e-12)
    assert not torch.allclose(make_fusion(combine)(inputs), expected)


@pytest.mark.parametrize("implementation", ["module", "reparametrize"])
@pytest.mark.parametrize("granularity", ["branch", "channel"])
@pytest.mark.parametrize("combine", ["concat", "sum"])
def test_fold_is_exact_and_leaves_no_equalizer(combine, granularity, implementation):
    fusion, inputs = make_fusion(combine, implementation=implementation, granularity=granularity), make_inputs()
    expected = fusion(inputs)
    folded = copy.deepcopy(fusion)
    folded.fold()
    torch.testing.assert_close(folded(inputs), expected, rtol=0, atol=1e-12)
    assert not [key for key in folded.state_dict() if "equalizer" in key]
    assert not [m for m in folded.modules() if isinstance(m, ScaleEqualizer)]
    assert isinstance(folded.combine, Concat if combine == "concat" else WeightedSum)


@pytest.mark.parametrize("combine", ["concat", "sum"])
@pytest.mark.parametrize("implementation", ["module", "reparametrize"])
def test_observer_can_restore_the_branch_before_its_equalizer(implementation, combine):
    fusion, inputs = make_fusion(combine, implementation=implementation), make_inputs()
    fusion.eval()
    seen = {}
    fusion.observer = lambda fusion, o: seen.update({o.branch: o.transferred * o.scale + o.offset})
    fusion(inputs)
    for name, x in inputs.items():
        raw = F.interpolate(fusion.branches[name].lateral(x), size=SIZES["fine"], mode="bilinear", align_corners=False)
        torch.testing.assert_close(seen[name], raw, rtol=0, atol=1e-12)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, weight_decay=1e-3),
    "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.05),
    "clipped": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_reparametrize_trains_exactly_as_module_for_50_steps(optimizer):
    trained = {}
    for implementation in ("module", "reparametrize"):
        fusion = make_fusion(implementation=implementation)
        stepper = OPTIMIZERS[optimizer](fusion.parameters())
        for step in range(50):
            torch.manual_seed(step)
            inputs = {name: torch.randn(2, 4, *size, dtype=torch.float64) for name, size in SIZES.items()}
            loss = (fusion(inputs) - torch.randn(2, 6, *SIZES["fine"], dtype=torch.float64)).square().mean()
            stepper.zero_grad()
            loss.backward()
            if optimizer == "clipped":
                norm = nn.utils.clip_grad_norm_(fusion.parameters(), 0.05)
                assert norm > 0.05
            stepper.step()
        trained[implementation] = fusion.state_dict()
    start = make_fusion(implementation="module").state_dict()
    for key, value in trained["module"].items():
        torch.testing.assert_close(trained["reparametrize"][key], value, rtol=1e-10, atol=1e-10, msg=key)
    assert (trained["module"]["mix.conv.weight"] - start["mix.conv.weight"]).abs().max() > 1e-3


def test_state_dict_keys_are_stable():
    keys = {key.split(".")[0] for key in make_fusion().state_dict()}
    assert keys == {"branches", "mix"}
    extra = set(make_fusion(implementation="module").state_dict()) - set(make_fusion().state_dict())
    assert extra == {f"equalizers.{name}.{key}" for name in SIZES for key in ("mean", "std", "num_images")}
    assert set(make_fusion(implementation="module").state_dict()) == set(
        make_fusion(implementation="reparametrize").state_dict()
    )


def test_gradients_reach_inputs_and_weights():
    fusion, inputs = make_fusion(implementation="reparametrize"), make_inputs()
    for x in inputs.values():
        x.requires_grad_()
    fusion(inputs).sum().backward()
    assert all(x.grad.abs().sum() > 0 for x in inputs.values())
    assert all(p.grad is not None for p in fusion.parameters())


def test_autocast_keeps_the_branches_in_bfloat16():
    fusion = make_fusion(implementation="module").float()
    dtypes = []
    fusion.combine.register_forward_hook(lambda module, args, out: dtypes.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        fusion({name: x.float() for name, x in make_inputs().items()})
    assert dtypes == [torch.bfloat16]


def test_pyramid_pooling_is_a_fusion_of_the_map_and_its_pools():
    torch.manual_seed(0)
    fusion = pyramid_pooling(8, 4, pool_scales=(1, 2)).double().eval()
    x = torch.randn(2, 8, 7, 5, dtype=torch.float64)
    maps = [x]
    for scale in (1, 2):
        pooled = fusion.branches[f"pool{scale}"].lateral[1](F.adaptive_avg_pool2d(x, scale))
        maps.append(F.interpolate(pooled, size=(7, 5), mode="bilinear", align_corners=False))
    torch.testing.assert_close(fusion(x), fusion.mix(torch.cat(maps, 1)), rtol=0, atol=1e-12)


def test_refusals_name_the_value_and_the_choices():
    with pytest.raises(ValueError, match="reference branch 'p9' is not one of a"):
        Fusion({"a": Branch(2)}, combine=Sum(), reference="p9")
    with pytest.raises(ValueError, match="before Identity has no weights to go to"):
        Fusion({"a": Branch(2)}, combine=Concat(), equalizer=EqualizerSpec())
    with pytest.raises(ValueError, match="GRANULARITY is 'pixel'; choose one of branch, channel"):
        EqualizerSpec(granularity="pixel")
    with pytest.raises(ValueError, match="combine 'max' is unknown; choose one of concat, sum, softmax"):
        make_combine("max")
    with pytest.raises(ValueError, match="transfer 'cubic' is unknown; choose one of none, bilinear, nearest"):
        make_transfer("cubic")
    with pytest.raises(ValueError, match="has no transfer"):
        Fusion({"a": Branch(2), "b": Branch(2)}, combine=Sum())(
            {"a": torch.zeros(1, 2, 4, 4), "b": torch.zeros(1, 2, 2, 2)}
        )


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.0), (float("nan"), 1.0), (0.0, float("inf")), (0.0, -1.0)])
def test_equalizer_refuses_statistics_it_cannot_divide_by(mean, std):
    equalizer = ScaleEqualizer(3)
    with pytest.raises(ValueError, match="must be finite, and std positive"):
        equalizer.set_statistics(torch.tensor(mean), torch.tensor(std), 1)
    assert not equalizer.calibrated
