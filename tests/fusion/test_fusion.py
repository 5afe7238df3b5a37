"""Fusion and its parts. Oracles: the expression written out with torch functions; one form against the other."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scaleeq.decoders.context import pyramid_pooling
from scaleeq.equalization import EqualizerSpec, ScaleEqualizer, equalize_fusions, scale_optimizer_steps
from scaleeq.fusion import Branch, Concat, Fusion, Resize, Sum, WeightedSum, make_combine, make_transfer
from scaleeq.layers import ConvNormAct, SeparableBlock, batch_norm
from tests.equalized import equalized

SIZES = {"fine": (9, 13), "middle": (5, 7), "coarse": (3, 4)}


def make_fusion(combine="concat", transfer="bilinear", bias=False, **spec) -> Fusion:
    """Three branches of 4 channels, a convolution each; with `spec`, equalizers with made-up statistics."""
    torch.manual_seed(0)
    branches = {"fine": Branch(4, lateral=ConvNormAct(4, 4))}
    branches |= {name: Branch(4, lateral=ConvNormAct(4, 4), transfer=Resize(transfer)) for name in ("middle", "coarse")}
    mix = ConvNormAct(12 if combine == "concat" else 4, 6, kernel_size=3, norm=None if bias else batch_norm)
    fusion = equalized(
        Fusion(branches, combine=make_combine(combine, len(branches)), mix=mix), EqualizerSpec(**spec) if spec else None
    ).double()
    for index, equalizer in enumerate(fusion.equalizer_of.values()):
        offsets = torch.linspace(0, 0.1, equalizer.mean.numel(), dtype=torch.float64)
        equalizer.set_statistics(0.3 + 0.2 * index + offsets, 0.4 + 0.3 * index + offsets, 10)
    if spec:
        fusion.initialize()
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
@pytest.mark.parametrize("combine", ["concat", "sum", "softmax", "fast_normalized"])
def test_fold_is_exact_and_leaves_no_equalizer(combine, granularity, implementation):
    fusion, inputs = make_fusion(combine, implementation=implementation, granularity=granularity), make_inputs()
    expected = fusion(inputs)
    folded = copy.deepcopy(fusion)
    folded.fold()
    torch.testing.assert_close(folded(inputs), expected, rtol=0, atol=1e-12)
    assert not [key for key in folded.state_dict() if "equalizer" in key]
    assert not [m for m in folded.modules() if isinstance(m, ScaleEqualizer)]
    assert isinstance(folded.combine, Concat if combine == "concat" else WeightedSum)


@pytest.mark.parametrize("implementation", ["init", "init_scaled"])
@pytest.mark.parametrize("granularity", ["branch", "channel"])
def test_an_initialized_fusion_folds_exactly(implementation, granularity):
    fusion = make_fusion(implementation=implementation, granularity=granularity, bias=True)
    expected = fusion(make_inputs())
    fusion.fold()
    torch.testing.assert_close(fusion(make_inputs()), expected, rtol=0, atol=1e-12)
    assert not fusion.equalizers


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
    "large_eps": lambda p: torch.optim.AdamW(p, 1e-2, eps=1e-3),
    "floored": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=1e-3),
}


def train_for_50_steps(optimizer, **spec) -> Fusion:
    fusion = make_fusion(**spec)
    stepper = OPTIMIZERS[optimizer](fusion.parameters())
    scale_optimizer_steps(fusion, stepper)
    for step in range(50):
        torch.manual_seed(step)
        if optimizer == "floored":  # a schedule that ends at an absolute rate, the same for all branches
            stepper.param_groups[0]["lr"] = max(0.05 * (1 - step / 50), 0.02)
        inputs = {name: torch.randn(2, 4, *size, dtype=torch.float64) for name, size in SIZES.items()}
        loss = (fusion(inputs) - torch.randn(2, 6, *SIZES["fine"], dtype=torch.float64)).square().mean()
        stepper.zero_grad()
        loss.backward()
        if optimizer == "clipped":
            norm = nn.utils.clip_grad_norm_(fusion.parameters(), 0.05)
            assert norm > 0.05
        stepper.step()
    return fusion


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("implementation", ["reparametrize", "init_scaled"])
def test_training_is_that_of_module_for_50_steps(implementation, optimizer, bias):
    expected = train_for_50_steps(optimizer, implementation="module", bias=bias)
    trained = train_for_50_steps(optimizer, implementation=implementation, bias=bias)
    trained.reset_equalizers()  # takes the scale out of the weights, where it is there
    expected.reset_equalizers()
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[key], value, rtol=1e-10, atol=1e-10, msg=key)
    start = make_fusion(implementation="module", bias=bias).state_dict()
    assert (expected.state_dict()["mix.conv.weight"] - start["mix.conv.weight"]).abs().max() > 1e-3


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_papers_initializer_trains_differently(optimizer):
    module = train_for_50_steps(optimizer, implementation="module")
    initialized = train_for_50_steps(optimizer, implementation="init")
    initialized.reset_equalizers()
    difference = initialized.mix.conv.weight - module.mix.conv.weight
    assert difference.norm() > 0.01 * module.mix.conv.weight.norm()


@pytest.mark.parametrize("bias", [False, True])
def test_the_papers_initializer_starts_as_the_module_does(bias):
    module, initialized = make_fusion(implementation="module", bias=bias), make_fusion(implementation="init", bias=bias)
    expected, got = module(make_inputs()), initialized(make_inputs())
    inside = (..., slice(1, -1), slice(1, -1))  # a bias is not the mean's at a zero-padded border
    if bias:
        torch.testing.assert_close(got[inside], expected[inside], rtol=0, atol=1e-12)
    assert not torch.allclose(got, expected, atol=1e-6)
    assert [key for key in initialized.state_dict() if "weight" in key] == [
        key for key in module.state_dict() if "weight" in key
    ]


def test_an_initializer_without_a_mean_is_exact_everywhere():
    fusions = {name: make_fusion(implementation=name, statistic="rms", bias=True) for name in ("module", "init")}
    for fusion in fusions.values():
        fusion.reset_equalizers()
        for std, equalizer in zip((0.4, 0.7, 1.0), fusion.equalizer_of.values(), strict=True):
            equalizer.set_statistics(torch.zeros(()), torch.tensor(std, dtype=torch.float64), 10)
        fusion.initialize()
    expected = fusions["module"](make_inputs())
    torch.testing.assert_close(fusions["init"](make_inputs()), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("combine", ["softmax", "fast_normalized"])
def test_an_initialized_weighted_sum_has_the_equalized_proportions(combine):
    module = make_fusion(combine, implementation="module", statistic="rms")
    initialized = make_fusion(combine, implementation="init", statistic="rms")
    stds = torch.tensor([0.4, 0.7, 1.0], dtype=torch.float64)
    wanted = module.combine.weights() / stds
    torch.testing.assert_close(initialized.combine.weights(), wanted / wanted.sum(), rtol=0, atol=1e-4)


def test_a_calibration_that_is_taken_back_restores_the_weights():
    plain = make_fusion(bias=True).state_dict()
    for implementation in ("init", "init_scaled"):
        fusion = make_fusion(implementation=implementation, bias=True)
        assert not torch.allclose(fusion.mix.conv.weight, plain["mix.conv.weight"])
        fusion.reset_equalizers()
        for key, value in plain.items():
            torch.testing.assert_close(fusion.state_dict()[key], value, rtol=0, atol=1e-12, msg=key)


def test_initializers_are_refused_where_no_weight_can_take_them():
    with pytest.raises(ValueError, match="'init': Sum has no weights whose training"):
        make_fusion("sum", implementation="init")
    with pytest.raises(ValueError, match="'init_scaled': SoftmaxSum has no weights"):
        make_fusion("softmax", implementation="init_scaled")
    with pytest.raises(ValueError, match="a weighted sum has one weight per branch"):
        make_fusion("softmax", implementation="init", granularity="channel")
    with pytest.raises(ValueError, match="GroupNorm after it does not remove"):
        equalized(
            Fusion(
                {"a": Branch(2)},
                combine=Concat(),
                mix=ConvNormAct(2, 2, norm=lambda channels: nn.GroupNorm(1, channels)),
            ),
            EqualizerSpec(implementation="init"),
        )


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


def test_a_fusion_says_where_an_equalizer_changes_nothing():
    assert make_fusion().no_effect == ""
    assert "single branch" in Fusion({"a": Branch(2)}, combine=Sum()).no_effect
    separable = Fusion({"a": Branch(2), "b": Branch(2)}, combine=Concat(), mix=SeparableBlock(4, 2))
    assert "depthwise" in separable.no_effect


def test_refusals_name_the_value_and_the_choices():
    with pytest.raises(ValueError, match="reference branch 'p9' is not one of a"):
        Fusion({"a": Branch(2)}, combine=Sum(), reference="p9")
    with pytest.raises(ValueError, match="before Identity has no weights to go to"):
        equalized(Fusion({"a": Branch(2)}, combine=Concat()), EqualizerSpec())
    with pytest.raises(ValueError, match="GRANULARITY is 'pixel'; choose one of branch, channel"):
        EqualizerSpec(granularity="pixel")
    with pytest.raises(ValueError, match="combine is 'max'; choose one of concat, sum, softmax"):
        make_combine("max")
    with pytest.raises(ValueError, match="transfer is 'cubic'; choose one of none, bilinear, nearest"):
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


def test_a_transferred_map_is_let_go_once_it_is_equalized():
    """Of a forward with implementation "module", which changes maps: at the combine only equalized ones live."""
    made: list[weakref.ref] = []

    class Remembered(Resize):
        def forward(self, x, reference):
            out = super().forward(x, reference) * 1.0
            made.append(weakref.ref(out))
            return out

    class Looking(Concat):
        def forward(self, branches):
            alive.append([each() is not None for each in made])
            return super().forward(branches)

    for observed in (False, True):
        alive: list[list[bool]] = []
        made.clear()
        branches = {name: Branch(4, transfer=Remembered()) for name in ("p2", "p3", "p4")}
        fusion = Fusion(branches, combine=Looking(), mix=ConvNormAct(12, 8)).eval()
        equalize_fusions(fusion, EqualizerSpec(implementation="module"))
        fusion.observer = (lambda fusion, seen: None) if observed else None
        with torch.no_grad():
            fusion({name: torch.rand(1, 4, 8 // 2**i, 8 // 2**i) for i, name in enumerate(branches)})
        assert alive == [[False] * 3]
