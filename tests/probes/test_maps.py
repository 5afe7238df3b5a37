"""capture_maps. Oracles: the gates' and offsets' own functions, called by hand."""

from __future__ import annotations

import torch
from torch import nn

from scaleeq.backbones import HRNetBackbone
from scaleeq.equalization import EqualizerSpec
from scaleeq.fusion import Aligned, Branch, Concat, Fusion, Gated, Resize, Sum
from scaleeq.layers import ConvNormAct, Gate, SupervisedGate
from scaleeq.ops import resize
from scaleeq.probes.maps import capture_fusions, capture_maps
from tests.equalized import equalized


def make_model() -> Fusion:
    torch.manual_seed(0)
    branches = {
        "fine": Branch(8),
        "gated": Branch(8, transfer=Gated(Gate(8))),
        "supervised": Branch(8, transfer=Gated(SupervisedGate(8, 3))),
        "aligned": Branch(8, transfer=Aligned(8, groups=2)),
    }
    model = Fusion(branches, combine=Sum())
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


def test_gates_and_offsets_by_the_name_of_their_module():
    model = make_model()
    inputs = {name: torch.randn(1, 8, *((8, 10) if name == "fine" else (4, 5))) for name in model.branches}
    with capture_maps(model) as maps:
        first = model(inputs)
        latest = {name: 2 * x for name, x in inputs.items()}
        model(latest)
    gated, supervised = (model.branches[name].transfer.gate for name in ("gated", "supervised"))
    aligned = model.branches["aligned"].transfer
    offset, mask = aligned.offsets(resize(latest["aligned"], (8, 10)), latest["fine"])
    upsampled = resize(latest["aligned"], (8, 10))

    def norm(x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.vector_norm(x, dim=1, keepdim=True) / 8**0.5

    norms = {
        "branches.aligned.transfer.before": norm(upsampled),
        "branches.aligned.transfer.after": norm(aligned(latest["aligned"], latest["fine"])),
    }
    for name, value in norms.items():
        torch.testing.assert_close(maps.pop(name), value.detach())
    expected = {
        "branches.gated.transfer.gate": gated.map(latest["gated"]),
        "branches.supervised.transfer.gate.gate": supervised.gate.map(supervised.predictor(latest["supervised"])),
        "branches.aligned.transfer.offset": offset,
        "branches.aligned.transfer.mask": mask,
    }
    assert set(maps) == set(expected)
    for name, value in expected.items():
        assert torch.equal(maps[name], value) and not maps[name].requires_grad
    assert maps["branches.gated.transfer.gate"].shape == (1, 1, 4, 5)
    assert offset.shape == (1, 2 * 2 * 9, 8, 10) and mask.shape == (1, 2 * 9, 8, 10)
    maps.clear()
    assert torch.equal(model(inputs), first)
    assert maps == {}, "after the context nothing is captured"


def test_hooks_are_removed_after_an_error():
    model = make_model()
    try:
        with capture_maps(model):
            model({})
    except KeyError:
        pass
    assert not any(module._forward_hooks for module in model.modules())


def test_gates_of_a_backbone():
    backbone = HRNetBackbone(name="hrnet_w18_small", num_classes=3, gate="reference").eval()
    with torch.no_grad(), capture_maps(backbone) as maps:
        backbone(torch.randn(1, 3, 64, 96))
    assert len(maps) == 4 + 9 + 16 + 2
    sizes = {"res2": (16, 24), "res3": (8, 12), "res4": (4, 6), "res5": (2, 3)}
    for name, gate in maps.items():
        source = {"body.transition2.gate": "res3", "body.transition3.gate": "res4"}.get(name) or name.split(".")[6]
        assert gate.shape == (1, 1, *sizes[source]) and gate.min() >= 0.5


def test_branches_of_fusions_before_their_equalizers():
    torch.manual_seed(0)
    equalizer = EqualizerSpec(implementation="reparametrize")
    branches = {"fine": Branch(4), "coarse": Branch(4, transfer=Resize())}
    model = equalized(Fusion(branches, combine=Concat(), mix=ConvNormAct(8, 4)), equalizer).eval()
    for mean, each in zip((0.3, 7.0), model.equalizer_of.values(), strict=True):
        each.set_statistics(torch.tensor(mean), torch.tensor(2.0), 1)
    inputs = {"fine": torch.randn(1, 4, 8, 10), "coarse": torch.randn(1, 4, 4, 5)}
    with torch.no_grad(), capture_fusions(model) as maps:
        fused = model(inputs)
    assert set(maps) == {""} and model.observer is None
    found = maps[""]
    upsampled = {"fine": inputs["fine"], "coarse": resize(inputs["coarse"], (8, 10))}
    for kept, expected in ((found.before, inputs), (found.after, upsampled), ({"x": found.fused}, {"x": fused})):
        assert set(kept) == set(expected)
        for name, x in expected.items():
            torch.testing.assert_close(kept[name], (x**2).mean(1, keepdim=True) ** 0.5)
