"""equalize: any model, in place. Oracles: the maps that the model says its fusions read; "module" beside the others."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import scaleeq
from scaleeq import equalize, fold_equalizers
from scaleeq.equalization import ConvFusion, scale_optimizer_steps
from scaleeq.equalization.calibration import fusions_of
from tests.equalization.any_net import WIDTHS, AnyNet, make_batches, make_net, train

STATES = ["module", "reparametrize", "init_scaled", "init"]


def equalized(**options) -> AnyNet:
    net = make_net()
    equalize(net, make_batches(), num_images=-1, **options)
    return net


def test_fusions_are_found_in_running_order_and_measured():
    assert scaleeq.equalize is equalize
    net, batches = make_net(), make_batches()
    state = copy.deepcopy(net.state_dict())
    report = equalize(net, batches, num_images=-1)
    assert {name: tuple(b.channels for b in branches.values()) for name, branches in report.fusions.items()} == WIDTHS
    assert list(report.fusions) == list(WIDTHS)
    assert not report.no_effect and str(report).count("calibrated") == 2

    plain = make_net().train()
    first = torch.cat([plain.maps(x)["context.0"].detach() for x in batches])
    for part, branch in zip(first.split(WIDTHS["context.0"], 1), report.fusions["context.0"].values(), strict=True):
        assert branch.mean == pytest.approx(float(part.mean()), abs=1e-12)
        assert branch.std == pytest.approx(float(part.std(correction=0)), rel=1e-12)
    for key, value in fold_equalizers(net).state_dict().items():  # batch norms and all other weights are untouched
        if key not in ("context.0.weight", "fuse.conv.weight", "fuse.conv.bias"):
            assert torch.equal(value, state[key]), key


def test_the_second_fusion_is_measured_behind_the_first_equalized():
    net, batches = make_net(), make_batches()
    measured = equalize(net, batches, num_images=-1).fusions["fuse.conv"]["branch2"]
    behind = torch.cat([net.train().maps(x)["fuse.conv"].detach() for x in batches])[:, 4:10]
    assert measured.std == pytest.approx(float(behind.std(correction=0)), rel=1e-9)


@pytest.mark.parametrize("granularity", ["branch", "channel"])
@pytest.mark.parametrize("implementation", STATES)
def test_folding_gives_classes_keys_and_outputs_back(implementation, granularity):
    before, net = make_net().eval(), make_net()
    parameters = [id(p) for p in net.parameters()]
    equalize(net, make_batches(), num_images=-1, implementation=implementation, granularity=granularity)
    assert [id(p) for p in net.parameters()] == parameters, "an optimizer from before goes on"
    x = make_batches()[1]
    folded = fold_equalizers(net.eval())
    torch.testing.assert_close(folded(x), net(x), rtol=0, atol=1e-10)
    assert (net(x) - before(x)).abs().max() > 1e-3, "the equalizers do nothing"
    assert list(folded.state_dict()) == list(before.state_dict())
    assert repr(folded) == repr(before)
    assert [type(m) for m in folded.modules()] == [type(m) for m in before.modules()]
    make_net().load_state_dict(folded.state_dict())


def test_every_implementation_is_the_same_function_at_the_first_step():
    x = make_batches()[0]
    outputs = [equalized(implementation=implementation).train()(x) for implementation in STATES]
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_reparametrize_and_init_scaled_train_as_module(optimizer):
    nets = {}
    for implementation in STATES:
        net = make_net()
        make = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimizer]
        stepper = make(net.parameters(), lr=0.05 if optimizer == "sgd" else 3e-3, weight_decay=0.01)  # before equalize
        equalize(net, make_batches(), num_images=-1, implementation=implementation)
        scale_optimizer_steps(net, stepper)
        train(net, stepper, 10)
        nets[implementation] = fold_equalizers(net).eval()
    x = make_batches()[1]
    expected = nets["module"](x)
    for implementation in ("reparametrize", "init_scaled"):
        torch.testing.assert_close(nets[implementation](x), expected, rtol=0, atol=1e-9)
    assert (nets["init"](x) - expected).abs().max() > 1e-4, "init trains differently"


@pytest.mark.parametrize("implementation", ["module", "reparametrize", "init_scaled"])
def test_centred_exactly_where_the_class_can_hold_it(implementation):
    net = equalized(implementation=implementation)
    centred = {name: fusion.equalizers.spec.center for name, fusion in fusions_of(net).items()}
    assert centred == {"context.0": False, "fuse.conv": True}  # 3x3 with zero padding and no bias; 1x1 with a bias
    mirrored = make_net().eval()
    mirrored.context[0] = nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect").double()
    x = make_batches()[1]
    equalize(mirrored, make_batches(), num_images=-1, implementation=implementation, center=True)
    torch.testing.assert_close(fold_equalizers(mirrored)(x), mirrored(x), rtol=0, atol=1e-10)


def test_a_mean_that_the_class_cannot_hold_is_refused_with_the_reason():
    net = make_net()
    with pytest.raises(ValueError, match=r"context\.0: center=True: the convolution has no bias"):
        equalize(net, make_batches(), center=True)
    net.context[0] = nn.Conv2d(8, 6, 3, padding="same").double()
    with pytest.raises(ValueError, match="pads with zeros"):
        equalize(net, make_batches(), center=True)
    assert not fusions_of(net)
    equalize(net, make_batches(), center=True, conv="fuse.conv")


def test_without_centring_the_concatenation_is_not_copied():
    net = equalized(conv="context.0")
    fusion = fusions_of(net)["context.0"]
    assert not fusion.equalizers.spec.center
    read = []
    fusion.mix.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    x = torch.rand(2, 8, 5, 6, dtype=torch.float64)
    fusion(x)
    assert read[0] is x


def test_a_depthwise_convolution_before_a_norm_has_no_effect():
    net = make_net()
    net.context = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 1)
    ).double()
    report = equalize(net, make_batches(), num_images=-1)
    assert list(report.no_effect) == ["context.0"]
    assert "no effect here: a depthwise convolution" in report.line("context.0")
    assert "depthwise" in report.to_dict()["context.0"]["no_effect"]
    plain = make_net()
    plain.context = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6)
    ).double()
    assert not equalize(plain, make_batches(), num_images=-1).no_effect


def test_one_convolution_by_name_with_named_branches():
    net = make_net()
    widths = {"p2": 4, "context": 6, "p3": 5}
    report = equalize(net, make_batches(), conv="fuse.conv", widths=widths, num_images=-1)
    assert {name: b.channels for name, b in report.fusions["fuse.conv"].items()} == widths
    assert list(fusions_of(net)) == ["fuse.conv"]
    equalize(net, make_batches(), conv={"context.0": [5, 3]}, num_images=-1)  # the others are measured again
    assert list(fusions_of(net)) == ["context.0", "fuse.conv"]


def test_without_a_loader_a_state_dict_fills_the_equalizers():
    net = equalized()
    other = make_net(seed=1)
    equalize(other, None, conv=WIDTHS)
    with pytest.raises(RuntimeError, match=r"context\.0.*not calibrated"):
        fold_equalizers(other)
    other.load_state_dict(net.state_dict())
    x = make_batches()[0]
    assert torch.equal(other.eval()(x), net.eval()(x))
    with pytest.raises(RuntimeError, match=r"context\.0\.equalizers"):
        make_net().load_state_dict(net.state_dict())


def test_a_failed_calibration_leaves_the_model_as_it_was():
    for implementation in STATES:
        net = make_net()
        modules, state = list(net.modules()), copy.deepcopy(net.state_dict())
        with pytest.raises(ValueError, match="not finite"):
            equalize(net, [*make_batches(1), make_batches(1)[0] * torch.nan], implementation=implementation)
        assert all(a is b for a, b in zip(net.modules(), modules, strict=True))
        assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_a_subclass_and_a_module_with_two_names_keep_both():
    class Special(nn.Conv2d):
        """A convolution with another name."""

    net = make_net()
    net.fuse["conv"] = Special(15, 7, 1).double()
    net.alias = net.fuse["conv"]
    net.logits = net.classifier  # a name that means a method in this project's models
    equalize(net, make_batches(), num_images=-1)
    assert net.alias is net.fuse["conv"] and isinstance(net.alias, ConvFusion)
    folded = fold_equalizers(net)
    assert folded.alias is folded.fuse["conv"] and type(folded.alias) is Special


def test_half_precision():
    x = make_batches()[0].float()
    net = make_net(dtype=torch.float32)
    equalize(net, make_batches(dtype=torch.float32), num_images=-1)
    exact = net.eval()(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(x).dtype == torch.bfloat16
        torch.testing.assert_close(net(x).float(), exact, rtol=0, atol=0.05)
    for implementation in ("module", "reparametrize"):
        net = make_net(dtype=torch.bfloat16)
        equalize(net, make_batches(dtype=torch.float32), num_images=-1, implementation=implementation)
        assert fusions_of(net)["fuse.conv"].equalizers["branch1"].std.dtype == torch.float32
        torch.testing.assert_close(net.eval()(x.bfloat16()).float(), exact, rtol=0, atol=0.1)
        folded = fold_equalizers(net)
        assert {p.dtype for p in folded.parameters()} == {torch.bfloat16}
        torch.testing.assert_close(folded(x.bfloat16()).float(), exact, rtol=0, atol=0.1)


def test_channels_last_stays():
    net = make_net().to(memory_format=torch.channels_last)
    equalize(net, [x.to(memory_format=torch.channels_last) for x in make_batches()], num_images=-1)
    formats = []
    for fusion in fusions_of(net).values():
        fusion.register_forward_hook(
            lambda module, args, out: formats.append(out.is_contiguous(memory_format=torch.channels_last))
        )
    x = make_batches()[0]
    torch.testing.assert_close(
        net.eval()(x.to(memory_format=torch.channels_last)), equalized().eval()(x), rtol=0, atol=1e-12
    )
    assert formats == [True, True]


def test_deepcopy_and_ema():
    net = equalized()
    copied, average = copy.deepcopy(net), AveragedModel(net, avg_fn=lambda a, b, n: 0.5 * a + 0.5 * b)
    average.update_parameters(net)
    train(net, torch.optim.SGD(net.parameters(), 0.05), 2)
    average.update_parameters(net)
    weights = [m.get_parameter("fuse.conv.mix.conv.weight") for m in (copied, net)]
    assert not torch.equal(*weights)
    torch.testing.assert_close(
        average.module.get_parameter("fuse.conv.mix.conv.weight"), (weights[0] + weights[1]) / 2, rtol=0, atol=1e-15
    )
    x = make_batches()[0]
    folded = fold_equalizers(average.module).eval()
    torch.testing.assert_close(folded(x), average.eval()(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_training_equals_eager(backend):
    torch._dynamo.reset()
    nets = [equalized(), equalized()]
    compiled = torch.compile(nets[0], backend=backend, fullgraph=True)
    for net, forward in zip(nets, (compiled, None), strict=True):
        train(net, torch.optim.SGD(net.parameters(), 0.05), 2, forward)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_a_folded_model_exports_as_the_plain_one():
    x = make_batches()[0]
    nets = [fold_equalizers(equalized()).eval(), make_net().eval()]
    programs = [torch.export.export(net, (x,)) for net in nets]
    calls = [[str(node.target) for node in program.graph.nodes] for program in programs]
    assert calls[0] == calls[1]
    torch.testing.assert_close(programs[0].module()(x), nets[0](x), rtol=0, atol=1e-12)
