"""What equalize refuses, and what it says; nothing of it changes the model."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from scaleeq import equalize
from scaleeq.decoders.context import atrous_pooling
from scaleeq.equalization.calibration import fusions_of
from scaleeq.fusion import Fusion
from tests.equalization.any_net import make_batches, make_net


def refused(match, net=None, loader=None, **options):
    net = make_net() if net is None else net
    with pytest.raises(ValueError, match=match):
        equalize(net, make_batches() if loader is None else loader, **options)
    assert not fusions_of(net)


def test_names_and_widths():
    refused(r"no module 'fuse\.convs'; convolutions are .*fuse\.conv", conv="fuse.convs", widths=[4, 6, 5])
    refused(r"context is Block, not an nn\.Conv2d of its own; it has context\.0", conv="context", widths=[5, 3])
    refused(r"norm is BatchNorm2d, not an nn\.Conv2d of its own$", conv="norm", widths=[7])
    refused(r"fuse\.conv: the widths are 4 \+ 6 = 10, but .* 15 input channels", conv="fuse.conv", widths=[4, 6])
    refused(r"widths are 15 \+ 0 = 15", conv="fuse.conv", widths={"a": 15, "b": 0})
    refused("cannot be named 'p.2'", conv="fuse.conv", widths={"p.2": 15})
    refused("cannot be named 'keys'", conv="fuse.conv", widths={"keys": 15})
    refused("name it: conv=", widths=[4, 6, 5])
    refused("leave out widths", conv={"fuse.conv": [15]}, widths=[15])
    refused(r"classifier reads no concatenation that could be followed; give its widths", conv="classifier")
    refused("choose one of reparametrize", implementation="fold")
    refused("give your own Fusions to calibrate", statistic="grad")
    with pytest.raises(ValueError, match="without a loader nothing can be found: give conv and widths"):
        equalize(make_net(), None)
    net = make_net()
    equalize(net, make_batches(), conv="fuse.conv", num_images=1)
    with pytest.raises(ValueError, match=r"has scale equalizers already; begin with fold_equalizers"):
        equalize(net, make_batches(), conv="fuse.conv.mix.conv")


class Plain(nn.Module):
    """Two concatenations, neither of resized maps."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(6, 2, 1)
        self.unused = nn.Conv2d(6, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, 3, H, W) -> (N, 2, H, W)."""
        torch.cat([x, x], 0)
        return self.conv(torch.cat([x, torch.cat([x, x], 1)[:, :3]], 1))


def test_nothing_found_says_what_was_looked_at():
    refused(
        r"(?s)name one: .*1 convolutions ran, 2 concatenations of maps were made:\n"
        r"  conv reads 3 \+ 3 channels, none of them resized directly before",
        Plain().double(),
    )
    refused(r"0 concatenations of maps were made; no convolution read one", nn.Sequential(nn.Conv2d(3, 2, 1)).double())
    net = Plain().double()
    assert list(equalize(net, make_batches(), conv="conv", num_images=-1).fusions) == ["conv"]


def test_a_convolution_that_does_not_run_once():
    refused("unused does not run in a forward", Plain().double(), conv="unused", widths=[6])
    twice = make_net()
    twice.stem = nn.Sequential(twice.stem, *[nn.Conv2d(4, 4, 1).double()] * 2)
    refused(r"stem\.1 runs 2 times in a forward; an equalizer has one place", twice, conv="stem.1", widths=[4])


class OwnForward(nn.Conv2d):
    """Normalizes its weights when it runs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, C_in, H, W) -> (N, C_out, H', W')."""
        return self._conv_forward(x, self.weight / self.weight.norm(), self.bias)


def test_a_convolution_that_scaled_weights_would_change():
    def net_with(conv: nn.Module):
        net = make_net()
        net.fuse["conv"] = conv.double()
        return net

    refused(r"fuse\.conv: OwnForward has a forward of its own", net_with(OwnForward(15, 7, 1)))
    refused(r"fuse\.conv: .*parametrized", net_with(weight_norm(nn.Conv2d(15, 7, 1))))
    tied = net_with(nn.Conv2d(15, 7, 1))
    tied.other = nn.Conv2d(15, 7, 1)
    tied.other.weight = tied.fuse["conv"].weight
    refused(r"fuse\.conv: its weight is also that of other", tied)
    hooked = net_with(nn.Conv2d(15, 7, 1))
    hooked.fuse["conv"].register_forward_hook(lambda *_: None)
    refused("forward hooks", hooked)


def test_models():
    refused("put it into an nn.Sequential", nn.Conv2d(3, 2, 1))
    refused("DataParallel wraps the model", nn.DataParallel(make_net()))
    refused("OptimizedModule wraps the model", torch.compile(make_net()))
    refused("no parameters", nn.Identity())
    own = nn.Sequential(atrous_pooling(3, 4, dilations=(1, 2))).double()
    assert isinstance(own[0], Fusion)
    refused("is a part of the Fusion 0; equalize that by equalize_fusions", own, conv="0.mix.conv", widths=[12])


def test_loaders():
    refused("gave no batch", loader=[])
    refused("not an iterator", loader=iter(make_batches()))
    refused(
        r"a dict with pixels, mask, without an image .*: give inputs", loader=[{"pixels": torch.zeros(1), "mask": 0}]
    )
    refused("a batch is a list, without an image", loader=[[{"image": make_batches()[0]}]])


@pytest.mark.parametrize("form", ["tuple", "list", "image", "pixel_values", "inputs"])
def test_the_image_of_a_batch_is_found(form):
    expected = equalize(make_net(), make_batches(), num_images=-1)
    wrap = {
        "tuple": lambda x: (x, 0),
        "list": lambda x: [x.float(), 0],  # converted to the model's precision
        "inputs": lambda x: {"a": {"b": x}},
    }.get(form, lambda x: {"labels": 0, form: x})
    inputs = (lambda batch: batch["a"]["b"]) if form == "inputs" else None
    report = equalize(make_net(), [wrap(x) for x in make_batches()], inputs=inputs, num_images=-1)
    for name, branches in report.fusions.items():
        for branch, statistics in branches.items():
            assert statistics.std == pytest.approx(expected.fusions[name][branch].std, rel=1e-6)


def test_loaders_of_other_kinds():
    refused("the loader is a Tensor; give a DataLoader, or a list of batches", loader=make_batches()[0])
    refused("the loader is a dict; give a DataLoader", loader={"image": make_batches()[0]})
    refused("the loader is a int; give a DataLoader", loader=3)
    refused("not an iterator", loader=(x for x in make_batches()))
    refused("a batch is a list, without an image", loader=[[]])


def test_batches_that_the_model_cannot_read():
    images = [(x * 255).to(torch.uint8) for x in make_batches()]
    refused(r"failed on the first batch .* uint8 images \(4, 3, 12, 16\) on cpu: give .* floating point", loader=images)
    refused(r"float32 images .*, but its weights are float64 on cpu", inputs=lambda x: x.float())
    refused(r"meta, but its weights are float64 on cpu: let `inputs`", inputs=lambda x: x.to("meta"))
    refused(r"it was called with a list, which is what `inputs` makes of a batch", inputs=lambda x: [x])
    refused(r"the first batch has no images: it is of shape \(0, 3, 12, 16\)", loader=[x[:0] for x in make_batches()])
    plain = Plain().double()
    refused("conv reads a map without a batch dimension", Unbatched().double(), loader=[x[0] for x in make_batches()])
    assert list(equalize(plain, make_batches(), conv="conv", num_images=-1).fusions) == ["conv"]


class Unbatched(Plain):
    """Takes one image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (3, H, W) -> (2, H, W)."""
        return self.conv(torch.cat([x, x], 0))


@pytest.mark.parametrize(("kind", "dims"), [("Conv1d", 1), ("Conv3d", 3), ("ConvTranspose2d", 2)])
def test_other_convolutions_are_named(kind, dims):
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = getattr(nn, kind)(6, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """x: (N, 3, ...) -> (N, 2, ...)."""
            x = x.flatten(2) if dims == 1 else x.unsqueeze(2) if dims == 3 else x
            return self.conv(torch.cat([x, torch.nn.functional.interpolate(x, scale_factor=1.0)], 1))

    refused(rf"conv reads 3 \+ 3 channels; {kind}: scale equalizers are made for nn.Conv2d", Other().double())
    refused(rf"conv is {kind}, not an nn\.Conv2d of its own", Other().double(), conv="conv", widths=[3, 3])


def test_a_second_time():
    net = make_net()
    equalize(net, make_batches(), num_images=1)
    with pytest.raises(ValueError, match=r"scale equalizers already \(context\.0, fuse\.conv\), and nothing else"):
        equalize(net, make_batches())
    assert list(fusions_of(net)) == ["context.0", "fuse.conv"]


def test_kinds_of_arguments():
    refused("conv is a list; give the name of one convolution", conv=["fuse.conv", "context.0"])
    refused("widths is '465'; give a list of channels", conv="fuse.conv", widths="465")
    refused("widths is 15; give a list of channels", conv="fuse.conv", widths=15)
    refused("the width of branch 'branch1' is 4.0", conv="fuse.conv", widths=[4.0, 11.0])
    refused("cannot be named 4", conv="fuse.conv", widths={4: 15})
    refused("num_images is 1.5", num_images=1.5)
    refused("the model is scripted; equalize the nn.Module", torch.jit.script(nn.Sequential(nn.Conv2d(3, 2, 1))))
    refused(r"DataParallel wraps the model: equalize the model itself \(\.module\)", nn.DataParallel(make_net()))
    with pytest.raises(ValueError, match=r"the model is a str, not an nn\.Module"):
        equalize("resnet18", make_batches())


def test_widths_that_are_not_those_of_the_maps(caplog):
    refused(r"the widths are 6 \+ 4 \+ 5, but it reads maps of 4 \+ 6 \+ 5", conv="fuse.conv", widths=[6, 4, 5])
    refused(r"the widths are 5 \+ 10, but it reads maps of 4 \+ 6 \+ 5", conv="fuse.conv", widths=[5, 10])
    equalize(make_net(), make_batches(), conv="fuse.conv", widths=[2, 2, 6, 5], num_images=1)
    assert "joins some" not in caplog.text
    equalize(make_net(), make_batches(), conv="fuse.conv", widths=[10, 5], num_images=1)
    assert "fuse.conv reads maps of 4 + 6 + 5 channels, and widths joins some" in caplog.text


def test_one_that_cannot_be_equalized_does_not_hide_the_others():
    net = make_net()
    net.fuse["conv"] = OwnForward(15, 7, 1).double()
    refused(r"OwnForward has a forward of its own.*; for the others alone: conv=\{'context\.0': \[5, 3\]\}", net)
    report = equalize(net, make_batches(), conv={"context.0": [5, 3]}, num_images=1)
    assert report.passed_over == {"fuse.conv": "reads 4 + 6 + 5 channels, not named"}


def test_a_convolution_that_is_kept_in_a_list_too():
    net = make_net()
    net.kept = [net.fuse["conv"]]
    net.forward = lambda x: net.kept[0](net.maps(x)["fuse.conv"])
    refused("does not run the fusions fuse.conv: .*kept outside of the model's modules, in a plain list", net)
