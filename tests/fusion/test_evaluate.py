"""A Fusion evaluated per branch. Oracle: the same Fusion, evaluated plainly."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from scaleeq.decoders import ASPP, PSP, SepASPP, UPer
from scaleeq.equalization import EqualizerSpec, fold_equalizers
from scaleeq.fusion import Branch, Concat, Fusion, Sum, evaluate_fusions, make_transfer
from scaleeq.layers import ConvNormAct, Level, SeparableBlock
from tests.equalized import equalized

LEVELS = {"res2": Level(4, 4), "res3": Level(6, 8), "res4": Level(8, 16), "res5": Level(10, 32)}
DECODERS = {
    "uper": lambda: UPer(LEVELS, 8),
    "psp": lambda: PSP({"res5": LEVELS["res5"]}, 8),
    "aspp": lambda: ASPP({"res5": LEVELS["res5"]}, 8),
    "sep_aspp": lambda: SepASPP({"res2": LEVELS["res2"], "res5": LEVELS["res5"]}, 8),
}
SPECS = {
    "none": None,
    "module": {"implementation": "module"},
    "module by channel": {"implementation": "module", "granularity": "channel"},
    "reparametrize": {"implementation": "reparametrize"},
    "reparametrize by channel": {"implementation": "reparametrize", "granularity": "channel"},
    "init": {"implementation": "init", "statistic": "rms"},
    "init_scaled": {"implementation": "init_scaled"},
    "batch_norm": {"implementation": "module", "control": "batch_norm"},
    "learnable": {"implementation": "module", "control": "learnable"},
}


def fusions(model: nn.Module) -> list[Fusion]:
    return [module for module in model.modules() if isinstance(module, Fusion)]


def make_decoder(name: str, spec: str = "none") -> nn.Module:
    """A decoder in float64 with made-up statistics."""
    torch.manual_seed(0)
    values = SPECS[spec]
    model = equalized(DECODERS[name](), None if values is None else EqualizerSpec(**values), "head").double()
    for fusion in fusions(model):
        for index, equalizer in enumerate(fusion.equalizer_of.values()):
            offsets = torch.linspace(0, 0.1, equalizer.mean.numel(), dtype=torch.float64)
            mean = 0.0 if values.get("statistic") == "rms" else 0.2 * index
            equalizer.set_statistics(mean + 0 * offsets, 0.4 + 0.3 * index + offsets, 10)
        if fusion.equalizer_of:
            fusion.initialize()
    return model


def make_features(size=(27, 34), dtype=torch.float64) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    sizes = {name: tuple(-(-n * 4 // level.stride) for n in size) for name, level in LEVELS.items()}
    return {name: torch.randn(2, LEVELS[name].channels, *sizes[name], dtype=dtype) for name in LEVELS}


def plainly(model: nn.Module) -> nn.Module:
    twin = copy.deepcopy(model)
    evaluate_fusions(twin, "plain")
    return twin


def with_gradients(model: nn.Module, features: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    leaves = {name: x.detach().clone().requires_grad_() for name, x in features.items()}
    y = model(leaves)
    parameters = [p for p in model.parameters() if p.requires_grad]
    torch.manual_seed(2)
    grads = torch.autograd.grad((y * torch.randn_like(y)).sum(), [*parameters, *leaves.values()], allow_unused=True)
    return [y.detach(), *(g for g in grads if g is not None)]


def assert_close(ours, theirs, first, rest):
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert (a - b).abs().max() <= (rest if i else first) * b.abs().max().clamp(min=1)


def small(fusion: Fusion, inputs) -> list[str]:
    return [branch.name for branch in fusion.branch_maps(inputs) if branch.small]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_outputs_and_gradients_are_those_of_the_plain_way(decoder, spec, training):
    model = make_decoder(decoder, spec).train(training)
    plain, features = plainly(model), make_features()
    assert_close(with_gradients(model, features), with_gradients(plain, features), 1e-12, 1e-9)
    for ours, theirs in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("spec", [name for name in SPECS if name not in ("none", "batch_norm", "learnable")])
@pytest.mark.parametrize("decoder", DECODERS)
def test_folded(decoder, spec):
    model, features = make_decoder(decoder, spec).eval(), make_features()
    expected = plainly(model)(features)
    torch.testing.assert_close(fold_equalizers(model)(features), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("decoder", DECODERS)
def test_in_float32_and_under_autocast(decoder, channels_last):
    model, features = make_decoder(decoder, "reparametrize").float().eval(), make_features(dtype=torch.float32)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        features = {name: x.contiguous(memory_format=torch.channels_last) for name, x in features.items()}
    expected = plainly(model)(features)
    assert_close([model(features)], [expected], 1e-5, 0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(features)
    torch.testing.assert_close(mixed.float(), expected, rtol=0.05, atol=0.05 * float(expected.detach().abs().max()))


def test_what_is_small():
    features = make_features()
    uper = make_decoder("uper", "reparametrize")
    assert small(uper.fusion, uper.pyramid({**features, "res5": uper.context(features["res5"])})) == [
        "res3",
        "res4",
        "res5",
    ]
    # Maps of 4 x 5 pixels: a pool of 3 x 3 has about half of them, one of 6 x 6 more than all.
    assert small(uper.context, features["res5"]) == ["pool1", "pool2", "pool3"]
    assert small(make_decoder("aspp").fusion, features["res5"]) == ["pool"]
    assert small(make_decoder("psp", "batch_norm").fusion, features["res5"]) == []


def make_fusion(mix: nn.Module | None = None, transfer: str = "bilinear", combine: nn.Module | None = None) -> Fusion:
    torch.manual_seed(0)
    branches = {"fine": Branch(4), "coarse": Branch(4, transfer=make_transfer(transfer, 4, num_classes=2))}
    mix = mix or ConvNormAct(8, 6, kernel_size=3)
    return Fusion(branches, combine=combine or Concat(), mix=mix).double()


INPUTS = {
    "fine": torch.randn(2, 4, 8, 8, dtype=torch.float64),
    "coarse": torch.randn(2, 4, 4, 4, dtype=torch.float64),
}


@pytest.mark.parametrize(
    ("mix", "pays"),
    [
        (lambda: ConvNormAct(8, 3), True),
        (lambda: ConvNormAct(8, 4), False),  # by 1x1: a result as wide as the branch
        (lambda: ConvNormAct(8, 6, kernel_size=3, dilation=2), True),
        (lambda: ConvNormAct(8, 8, kernel_size=3, groups=2), False),
        (lambda: SeparableBlock(8, 6), False),
    ],
)
def test_which_convolutions_take_small_branches(mix, pays):
    assert small(make_fusion(mix()), INPUTS) == (["coarse"] if pays else [])


@pytest.mark.parametrize(
    ("transfer", "expected"),
    [("nearest", True), ("bicubic", True), ("gated", True), ("supervised_gated", True), ("deconv", False)],
)
def test_which_transfers_end_with_a_resize(transfer, expected):
    fusion = make_fusion(transfer=transfer).train()
    assert small(fusion, INPUTS) == (["coarse"] if expected else [])
    assert_close(with_gradients(fusion, INPUTS), with_gradients(plainly(fusion), INPUTS), 1e-12, 1e-9)


def test_a_branch_of_more_than_half_of_the_pixels_is_not_small():
    fusion = make_fusion()
    assert small(fusion, {**INPUTS, "coarse": torch.randn(2, 4, 8, 4, dtype=torch.float64)}) == ["coarse"]
    assert small(fusion, {**INPUTS, "coarse": torch.randn(2, 4, 8, 5, dtype=torch.float64)}) == []
    assert small(make_fusion(nn.Conv2d(4, 4, 1), combine=Sum()), INPUTS) == []


@pytest.mark.parametrize("part", ["combine", "mix", "mix.conv", "branches.coarse.transfer"])
def test_who_looks_at_a_map_gets_it(part):
    fusion, seen = make_fusion(), []
    handle = fusion.get_submodule(part).register_forward_hook(lambda module, args, output: seen.append(output.shape))
    fusion(INPUTS)
    assert [shape[-2:] for shape in seen] == [(8, 8)]
    handle.remove()
    assert small(fusion, INPUTS) == ["coarse"]


def test_a_config_and_a_caller_may_ask_for_the_plain_way():
    fusion = make_fusion()
    evaluate_fusions(nn.ModuleList([fusion]), "plain")
    assert small(fusion, INPUTS) == []
    evaluate_fusions(fusion, "")
    assert small(fusion, INPUTS) == ["coarse"]
    with pytest.raises(ValueError, match=r"MODEL\.FUSION\.EVALUATE is 'fast'; choose one of"):
        evaluate_fusions(fusion, "fast")


@pytest.mark.parametrize("transfer", ["bilinear", "gated"])
@pytest.mark.parametrize("spec", SPECS)
def test_an_observer_changes_no_bit_and_sees_the_map_of_the_plain_way(spec, transfer):
    values = SPECS[spec]
    model = equalized(make_fusion(transfer=transfer), None if values is None else EqualizerSpec(**values)).double()
    for equalizer in model.equalizer_of.values():
        equalizer.set_statistics(torch.zeros_like(equalizer.mean), torch.full_like(equalizer.std, 2.0), 1)
    plain, watched = plainly(model), copy.deepcopy(model)
    seen: dict[Fusion, list] = {plain: [], watched: []}
    for fusion in seen:
        fusion.observer = lambda which, observation: seen[which].append(observation)
    expected = with_gradients(model, INPUTS)
    assert all(torch.equal(a, b) for a, b in zip(with_gradients(watched, INPUTS), expected, strict=True))
    plain(INPUTS)
    for ours, theirs in zip(seen[watched], seen[plain], strict=True):
        torch.testing.assert_close(ours.transferred, theirs.transferred, rtol=0, atol=1e-12)
        torch.testing.assert_close(ours.source, theirs.source, rtol=0, atol=0)


def test_statistics_set_by_an_observer_are_those_that_the_branch_is_equalized_by():
    fusion = equalized(make_fusion(), EqualizerSpec(implementation="module"))
    plain = plainly(fusion)

    def calibrate(which, observation):
        which.equalizer_of[observation.branch].set_statistics(torch.tensor(0.5), torch.tensor(3.0), 1)

    fusion.observer = plain.observer = calibrate
    torch.testing.assert_close(fusion(INPUTS), plain(INPUTS), rtol=0, atol=1e-12)


def test_an_export_takes_the_plain_way():
    fusion = make_fusion().eval()
    exported = torch.export.export(fusion, (INPUTS,)).module()
    assert torch.equal(exported(INPUTS), plainly(fusion)(INPUTS))


def test_branches_of_another_width_are_refused():
    with pytest.raises(ValueError, match="'coarse' is a map of 3 channels"):
        make_fusion()({**INPUTS, "coarse": torch.randn(2, 3, 4, 4, dtype=torch.float64)})


@pytest.mark.parametrize("spec", ["none", "reparametrize"])
def test_a_compiler_takes_the_plain_way(spec):
    """Which it fuses as it sees fit, in one graph, for sizes of any kind; the backend "eager" runs it as it stands."""
    values = SPECS[spec]
    fusion = equalized(make_fusion(), None if values is None else EqualizerSpec(**values))
    compiled = torch.compile(fusion, fullgraph=True, backend="eager")
    larger = {name: torch.randn(2, 4, 2 * x.shape[2], 2 * x.shape[3]).double() for name, x in INPUTS.items()}
    for inputs in (INPUTS, larger):
        assert torch.equal(compiled(inputs), plainly(fusion)(inputs))
        assert not torch.equal(fusion(inputs), plainly(fusion)(inputs)), "the other way rounds otherwise"
