"""What is followed between a concatenation and a convolution. Oracles: widths that the model's code shows; the std of
each of these channel ranges in what the convolution really reads."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms.functional import center_crop

from scaleeq import equalize, fold_equalizers
from scaleeq.equalization.calibration import fusions_of
from scaleeq.equalization.tracing import trace_concatenations

STDS = (1.0, 1.0, 50.0)  # about, of the three maps


class ThreeMaps(nn.Module):
    """Maps of 4, 6 and 5 channels, the second upsampled, and a convolution that reads what `build` makes of them."""

    def __init__(self, build, in_channels=15, **modules):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1, stride=2)
        self.loud = nn.Conv2d(3, 5, 1)
        self.fuse = nn.Conv2d(in_channels, 7, 3, padding=1)
        self.build = build
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        """x: (N, 3, H, W) -> (N, 7, H', W')."""
        up = F.interpolate(self.coarse(x), size=x.shape[2:], mode="bilinear", align_corners=False)
        return self.fuse(self.build(self, self.fine(x), up, STDS[2] * self.loud(x)))


class ChannelGate(nn.Module):
    """Squeeze and excitation, by 1x1 convolutions."""

    def __init__(self, channels=15):
        super().__init__()
        self.fc = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 2, 1), nn.ReLU(), nn.Conv2d(2, channels, 1)
        )

    def forward(self, x):
        """x: (N, C, H, W) -> (N, C, H, W)."""
        return x * self.fc(x).sigmoid().expand_as(x)


class PixelGate(nn.Module):
    """One factor a pixel, beside one a channel (scSE, arXiv 1803.02579)."""

    def __init__(self, channels=15):
        super().__init__()
        self.channel, self.pixel = ChannelGate(channels), nn.Conv2d(channels, 1, 1)

    def forward(self, x):
        """x: (N, C, H, W) -> (N, C, H, W)."""
        return self.channel(x) + x * torch.sigmoid(self.pixel(x))


class SpatialGate(nn.Module):
    """The second half of CBAM (arXiv 1807.06521)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x):
        """x: (N, C, H, W) -> (N, C, H, W)."""
        return x * self.conv(torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)).sigmoid()


def cat(*maps, dim=1):
    return torch.cat(maps, dim)


def filled(a, b, c):
    """A concatenation that is made in place."""
    whole = a.new_empty(len(a), 15, *a.shape[2:])
    whole[:, :4] = a
    whole[:, 4:10].copy_(b)
    whole[:, 10:] = c
    return whole


def residual_gate(net, a, b, c):
    x = cat(a, b, c)
    return x + x * net.gate(x).sigmoid()


def channels_last(net, a, b, c):
    return cat(*(x.permute(0, 2, 3, 1) for x in (a, b, c)), dim=-1).movedim(-1, 1)


def padded(net, a, b, c):
    """Sizes are brought together as in a U-Net of which each convolution loses a border."""
    return cat(
        F.pad(a, (-2, 2, 0, 0)),
        F.pad(b[:, :, 1:-1], (0, 0, 1, 1), mode="reflect"),
        F.pad(c, (1, 1, 1, 1))[..., 1:-1, 1:-1],
    )


def padded_where_needed(net, a, b, c):
    rows = b.shape[2] % 4
    return cat(a, F.pad(b[:, :, rows:], (0, 0, rows, 0)) if rows else b, c)


def cropped(net, a, b, c):
    return center_crop(cat(a.narrow(2, 0, 8), b[:, :, 1:9], c[..., :8, :]), [5, 7])


def swished(net, a, b, c):
    x = cat(a, b, c)
    return x * torch.sigmoid(x)


FOLLOWED = {
    "nested": (lambda net, a, b, c: cat(cat(a, b), c), (4, 6, 5)),
    "kept": (lambda net, a, b, c: cat(cat(a, cat(b, a)), c), (4, 6, 4, 5)),
    "stacked": (lambda net, a, b, c: torch.stack([b, 50 * b], 1).flatten(1, 2), (6, 6)),
    "the same map twice": (lambda net, a, b, c: cat(a, b, a), (4, 6, 4)),
    "channels last": (channels_last, (4, 6, 5)),
    "filled": (lambda net, a, b, c: filled(a, b, c), (4, 6, 5)),
    "padded": (padded, (4, 6, 5)),
    "padded where needed": (padded_where_needed, (4, 6, 5)),
    "cropped": (cropped, (4, 6, 5)),
    "rolled": (lambda net, a, b, c: torch.roll(cat(a, b, c), (2, 1), (2, 3)), (4, 6, 5)),
    "half of it": (lambda net, a, b, c: cat(a, b, c).chunk(2, 1)[0], (4, 4)),
    "swapped halves": (lambda net, a, b, c: cat(*cat(a, b, c).split([7, 8], 1)[::-1]), (3, 5, 4, 3)),
    "pixel shuffle": (lambda net, a, b, c: cat(F.pixel_shuffle(F.avg_pool2d(a, 2), 2), b), (1, 6)),
    "swished": (swished, (4, 6, 5)),
    "scaled": (lambda net, a, b, c: 2 * cat(a, b, c) * torch.ones(15, 1, 1) + torch.zeros(1, 15, 1, 1), (4, 6, 5)),
    "pooled": (lambda net, a, b, c: F.max_pool2d(cat(a, b, c), 2), (4, 6, 5)),
    "channel gate": (lambda net, a, b, c: net.gate(cat(a, b, c)), (4, 6, 5), ChannelGate()),
    "pixel gate": (lambda net, a, b, c: net.gate(cat(a, b, c)), (4, 6, 5), PixelGate()),
    "spatial gate": (lambda net, a, b, c: net.gate(cat(a, b, c)), (4, 6, 5), SpatialGate()),
    "residual gate": (residual_gate, (4, 6, 5), nn.Conv2d(15, 15, 1)),
    "compiled": (lambda net, a, b, c: net.gate(cat(a, b, c)), (4, 6, 5), torch.compile(nn.ReLU(), backend="eager")),
}


def make(case: str) -> tuple[ThreeMaps, tuple[int, ...]]:
    build, widths, *gate = FOLLOWED[case]
    torch.manual_seed(0)
    return ThreeMaps(build, sum(widths), **({"gate": gate[0]} if gate else {})), widths


def images(height=12, width=16):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("case", FOLLOWED)
def test_each_map_of_the_innermost_concatenations_is_a_branch(case):
    net, widths = make(case)
    assert trace_concatenations(net, images()).found == {"fuse": widths}
    report = equalize(net, [images()], num_images=-1)
    assert list(report.fusions) == ["fuse"]
    assert tuple(branch.channels for branch in report.fusions["fuse"].values()) == widths
    assert not (fusions_of(net).keys() & report.passed_over.keys())

    read = []
    net.fuse.register_forward_pre_hook(lambda module, args: read.append(args[0].detach().double()))
    net.eval()(images())
    for part, equalizer in zip(read[0].split(widths, 1), net.fuse.equalizer_of.values(), strict=True):
        assert float(part.std(correction=0) * equalizer.scale()[0]) == pytest.approx(1, rel=1e-5)
    torch.testing.assert_close(fold_equalizers(net)(images()), net(images()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["padded", "padded where needed", "cropped", "nested", "pooled"])
def test_the_size_of_the_images_does_not_matter(case):
    net, widths = make(case)
    for size in ((12, 16), (13, 15), (9, 24), (10, 9)):
        assert trace_concatenations(net, images(*size)).found == {"fuse": widths}, size


def test_a_map_that_is_resized_to_its_own_size_counts_as_resized():
    net = ThreeMaps(lambda net, a, b, c: cat(a, F.interpolate(c, size=a.shape[2:])), 9)
    assert trace_concatenations(net, images()).found == {"fuse": (4, 5)}


def doubled(x):
    return x * 2.0


class Scripted(nn.Module):
    def forward(self, x):
        """x: (N, C, H, W) -> the same."""
        return x.relu()


def product(net, a, b, c):
    x = cat(a, b, c)
    return x * net.part(x)


def weighted_sigmoid(net, a, b, c):
    x = cat(a, b, c)
    return x * (net.part(a[:, :1]).sigmoid() * torch.linspace(-3, 3, 15)[:, None, None])


def functional(net, a, b, c):
    return F.conv2d(cat(a, b, c), net.part.weight)


def both(net, a, b, c):
    x = cat(a, b, c)
    return net.part(x) + F.conv2d(x, net.part.weight)


def linear(net, a, b, c):
    return net.part(cat(a, b, c).flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, a.shape[2:])


PASSED_OVER = {
    "batch norm": (lambda n, a, b, c: n.part(cat(a, b, c)).relu(), nn.BatchNorm2d(15), "fuse", "through batch_norm"),
    "another map": (product, nn.Conv2d(15, 15, 1), "fuse", "reads a product of maps"),
    "what was a gate": (weighted_sigmoid, nn.Conv2d(1, 15, 1), "fuse", "reads a product of maps"),
    "its gate": (product, nn.Conv2d(15, 15, 1), "part", "a gate"),
    "pooling": (lambda n, a, b, c: n.part(cat(a, b, c)), ChannelGate(), "part.fc.1", "through adaptive_avg_pool2d"),
    "the pixel gate": (lambda n, a, b, c: n.part(cat(a, b, c)), PixelGate(), "part.pixel", "a gate"),
    "interleaved": (lambda n, a, b, c: F.channel_shuffle(cat(a, b, c), 3), None, "fuse", "do not lie side by side"),
    "over the batch": (lambda n, a, b, c: cat(cat(a, b, c), cat(c, b, a), dim=0), None, "fuse", "side by side"),
    "not resized": (lambda n, a, b, c: cat(a, c, a, a[:, :2]), None, "fuse", "none of them resized"),
    "transposed": (lambda n, a, b, c: n.part(cat(a, b, c)), nn.ConvTranspose2d(15, 15, 2), "part", "ConvTranspose2d"),
    "three dimensions": (
        lambda n, a, b, c: n.part(cat(a, b, c).unsqueeze(2))[:, :, 0],
        nn.Conv3d(15, 15, 1),
        "part",
        "Conv3d",
    ),
    "linear": (linear, nn.Linear(15, 15), "part", "Linear"),
    "functional": (functional, nn.Conv2d(15, 15, 1), "part", "conv2d, called by ThreeMaps with its weight"),
    "both": (both, nn.Conv2d(15, 15, 1), "part", "used outside of its own forward, by conv2d"),
    "a scripted module": (lambda n, a, b, c: n.part(cat(a, b, c)), torch.jit.script(Scripted()), "fuse", "watched"),
    "a scripted function": (
        lambda n, a, b, c: torch.jit.script(doubled)(cat(a, b, c)),
        None,
        "fuse",
        "cannot be watched",
    ),
    "numpy": (lambda n, a, b, c: torch.from_numpy(cat(a, b, c).numpy()), None, "fuse", "cannot be watched"),
}


@pytest.mark.parametrize("case", PASSED_OVER)
def test_what_reads_a_concatenation_and_is_passed_over_is_named_with_the_reason(case):
    build, part, name, reason = PASSED_OVER[case]
    net = ThreeMaps(build, **({} if part is None else {"part": part})).eval()
    trace = trace_concatenations(net, images())
    assert name not in trace.found
    assert reason in trace.passed_over(trace.found)[name]
    net.second = nn.Conv2d(10, 3, 1)  # also something that can be equalized, so that there is a report
    net.build = lambda net, a, b, c: (net.second(cat(a, b)), build(net, a, b, c))[1]
    report = equalize(net, [images()], num_images=-1)
    assert "second" in report.fusions and name not in report.fusions
    assert f"passed over {name}: it {report.passed_over[name]}" in str(report).split("\n")


def test_a_weight_of_which_only_the_shape_is_read_is_no_obstacle():
    net = ThreeMaps(lambda net, a, b, c: cat(a, b, c).to(net.fuse.weight.dtype).type_as(net.fuse.weight))
    net.fuse.weight.data *= net.fuse.weight.new_ones(())
    assert trace_concatenations(net, images()).found == {"fuse": (4, 6, 5)}


def test_a_weight_that_is_used_elsewhere_is_refused_by_name():
    net = ThreeMaps(both, part=nn.Conv2d(15, 15, 1))
    with pytest.raises(ValueError, match="part: its weight is used outside of its own forward, by conv2d"):
        equalize(net, [images()], conv="part", widths=[4, 6, 5])


def test_a_convolution_that_also_leads_on_is_no_gate():
    def build(net, a, b, c):
        x = cat(a, b, c)
        made = net.part(x)
        return x * made.sigmoid() + made

    trace = trace_concatenations(ThreeMaps(build, part=nn.Conv2d(15, 15, 1)), images())
    assert trace.found["part"] == (4, 6, 5)


def test_what_a_norm_has_scaled_is_one_map_of_a_later_concatenation():
    net = ThreeMaps(lambda net, a, b, c: cat(net.norm(cat(a, c)).relu(), b[..., :]), norm=nn.BatchNorm2d(9))
    report = equalize(net, [images()], num_images=-1)
    assert [branch.channels for branch in report.fusions["fuse"].values()] == [9, 6] and not report.passed_over


def test_a_resized_map_of_which_the_trail_had_ended_counts_as_resized():
    def build(net, a, b, c):
        dense = net.norm(cat(a, c)).relu()[..., ::2, ::2]
        return cat(F.interpolate(dense, scale_factor=2.0), c, a[:, :1])

    assert trace_concatenations(ThreeMaps(build, norm=nn.BatchNorm2d(9)), images()).found == {"fuse": (9, 5, 1)}


def test_maps_that_were_added_to_are_branches_of_a_later_concatenation():
    net = ThreeMaps(lambda net, a, b, c: cat(cat(a, c) + net.part(torch.cat([a, c], 1)), b), part=nn.Conv2d(9, 9, 1))
    assert trace_concatenations(net, images()).found == {"fuse": (4, 5, 6)}


def test_a_branch_that_is_a_concatenation_not_followed_is_named():
    net = ThreeMaps(lambda net, a, b, c: cat(cat(a, c).sort(-1)[0], b))
    report = equalize(net, [images()], num_images=-1)
    assert [branch.channels for branch in report.fusions["fuse"].values()] == [9, 6]
    assert report.passed_over == {"fuse, branch 1": "reads 4 + 5 channels through sort, as one map"}


def test_a_sum_over_a_stack_is_no_concatenation():
    net = ThreeMaps(lambda net, a, b, c: torch.stack([b, b, b]).sum(0), 6)
    trace = trace_concatenations(net, images())
    assert not trace.found and not trace.passed_over(())


def test_a_compiled_part_is_traced_without_a_warning():
    """torch warns of hooks on all modules where it compiles: those of a trace are gone when it is over."""
    net, _ = make("compiled")
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trace_concatenations(net, images())
