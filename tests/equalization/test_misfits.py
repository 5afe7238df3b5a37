"""Checkpoints of models with other scale equalizers: refused in words, in part as well as whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import scaleeq.segmentor  # noqa: F401  (registers the model)
from scaleeq import ScaleEqualizer, fold_equalizers
from scaleeq.engine import SafeCheckpointer
from scaleeq.equalization import other_equalizers
from tests.engine.small_models import equal, saved, segmentor, weights

ENABLED = ("MODEL.SCALE_EQUALIZER.ENABLED", "True")


def checkpointer(model: nn.Module) -> SafeCheckpointer:
    return SafeCheckpointer(model, other_model=other_equalizers)


def calibrated(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, ScaleEqualizer):
            module.set_statistics(torch.tensor(0.5), torch.tensor(2.0), 3)
    return model


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (ENABLED, (), "of a model with scale equalizers .*ENABLED True .*fold_equalizers"),
        ((), ENABLED, "model has scale equalizers .*ENABLED False .*fresh run"),
        ((*ENABLED, "MODEL.SCALE_EQUALIZER.SCOPE", "all"), ENABLED, "scale equalizers differ.*SCOPE and GRANULARITY"),
        ((*ENABLED, "MODEL.SCALE_EQUALIZER.GRANULARITY", "channel"), ENABLED, "scale equalizers differ.*GRANULARITY"),
    ],
)
def test_other_equalizers_are_refused_in_words(
    source: tuple, target: tuple, words: str, strict: bool, tmp_path: Path
) -> None:
    file, model = saved(segmentor(*source), tmp_path), segmentor(*target)
    before = weights(model)
    with pytest.raises(ValueError, match=rf"other\.pth does not fit, nothing was loaded: .*{words}") as caught:
        checkpointer(model).load_weights(file, strict=strict)
    assert "sem_seg_head.context, sem_seg_head.fusion" in str(caught.value)
    assert equal(before, weights(model))
    with pytest.raises(ValueError, match=words):
        checkpointer(model).load(file, checkpointables=[])


@pytest.mark.parametrize("combine", ["concat", "sum"])
def test_folded_weights_are_of_another_model(combine: str, tmp_path: Path) -> None:
    options = ("MODEL.FUSION.COMBINE", combine)
    equalized = calibrated(segmentor(*ENABLED, *options)).eval()
    folded = fold_equalizers(equalized)
    file, plain = saved(folded, tmp_path), segmentor(*options)
    for strict in (True, False):
        with pytest.raises(ValueError, match=r"the file's scale equalizers were folded .*fold after loading"):
            checkpointer(plain).load_weights(file, strict=strict)
    with pytest.raises(ValueError, match="the model's scale equalizers were folded"):
        checkpointer(folded).load_weights(saved(plain, tmp_path), strict=False)
    other = fold_equalizers(calibrated(segmentor(*ENABLED, *options)))
    checkpointer(other).load_weights(saved(folded, tmp_path))
    assert equal(weights(other), weights(folded))


def test_equal_equalizers_are_loaded_with_new_classes(tmp_path: Path) -> None:
    file = saved(calibrated(segmentor(*ENABLED)), tmp_path)
    target = segmentor(*ENABLED, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 11)
    checkpointer(target).load_weights(file, strict=False)
    equalizers = [module for module in target.modules() if isinstance(module, ScaleEqualizer)]
    assert equalizers and all(e.std == 2 and e.mean == 0.5 and e.num_images == 3 for e in equalizers)
