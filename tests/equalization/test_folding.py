"""What is left in a folded model's graph. Oracle: the graph of the same model without equalizers, by torch.export."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch

from scaleeq import calibrate, create_model, equalize_fusions, fold_equalizers
from scaleeq.equalization import EqualizerSpec
from scaleeq.equalization.calibration import fusions_of
from scaleeq.fusion import Branch, Concat, Fusion, Resize
from scaleeq.layers import ConvNormAct
from tests.equalized import equalized


def make_fusion(kernel_size: int, **spec) -> Fusion:
    torch.manual_seed(0)
    return equalized(
        Fusion(
            {"fine": Branch(3), "coarse": Branch(3, transfer=Resize())},
            combine=Concat(),
            mix=ConvNormAct(6, 4, kernel_size=kernel_size),
        ),
        EqualizerSpec(**spec) if spec else None,
    )


def make_maps(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"fine": torch.rand(2, 3, 8, 8, generator=generator), "coarse": torch.rand(2, 3, 4, 4, generator=generator)}


def operations(fusion: Fusion) -> Counter:
    """How often each operator is in the exported graph."""
    graph = torch.export.export(fusion.eval(), (make_maps(),)).graph
    return Counter(str(node.target) for node in graph.nodes if node.op == "call_function")


@pytest.mark.parametrize("implementation", ["module", "reparametrize", "init", "init_scaled"])
@pytest.mark.parametrize(("kernel_size", "statistic"), [(1, "std"), (3, "rms"), (3, "std")])
def test_a_folded_fusion_has_the_operations_of_the_plain_one(kernel_size, statistic, implementation):
    """But for a mean before zero padding: that needs the convolution of a map of ones, and nothing else."""
    fusion = make_fusion(kernel_size, implementation=implementation, statistic=statistic)
    calibrate(fusion, [make_maps(seed) for seed in range(4)], num_images=-1)
    folded = fold_equalizers(fusion)
    torch.testing.assert_close(folded(make_maps(9)), fusion(make_maps(9)), rtol=0, atol=1e-5)
    plain, found = operations(make_fusion(kernel_size)), operations(folded)
    extra = found - plain
    assert not plain - found
    if kernel_size == 3 and statistic == "std" and implementation != "init":
        assert sorted(name.split(".")[1] for name in extra.elements()) == ["add", "conv2d", "new_ones"]
    else:
        assert not extra


@pytest.mark.parametrize("implementation", ["module", "reparametrize"])
@pytest.mark.parametrize("decoder", ["uper", "semantic_fpn"])
def test_what_was_folded_can_be_equalized_and_folded_again(decoder, implementation):
    """Its sums have an offset by then, and its padded convolutions one that depends on the place.

    Oracle: the maps themselves, equalized.
    """
    torch.manual_seed(0)
    model = create_model(decoder, "test_resnet", num_classes=3, channels=32).double().eval()
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    for mean, std in ((0.3, 2.0), (-0.7, 0.4)):
        plain = copy.deepcopy(model)
        for one, spec in ((plain, EqualizerSpec(implementation="module")), (model, EqualizerSpec(implementation))):
            equalize_fusions(one, spec, scope="all")
            for equalizer in (each for fusion in fusions_of(one).values() for each in fusion.equalizer_of.values()):
                equalizer.set_statistics(torch.tensor(mean).double(), torch.tensor(std).double(), 4)
        torch.testing.assert_close(model(images), plain(images), rtol=0, atol=1e-9)
        model = fold_equalizers(model)
        torch.testing.assert_close(model(images), plain(images), rtol=0, atol=1e-9)
