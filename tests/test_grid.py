"""Every combination of the grid's values, two by two, goes through what a user does with a model; the rest is refused.

Oracles: the model before it was saved, copied, folded or exported; the table of refusals, in both directions.
"""

from __future__ import annotations

import copy
import io
import itertools
from functools import cache

import pytest
import torch
from torch import nn

import scaleeq.segmentor  # noqa: F401  (registers the model)
from scaleeq import calibrate, fold_equalizers
from scaleeq.engine import build_backbone, build_model, build_sem_seg_head
from scaleeq.equalization import ScaleEqualizer

from . import grid
from .covering import Grid, Point, matches, pairs

SIZE = (35, 51)
ALLOWED = [*(rule for _, rule in grid.REFUSALS), *grid.IMPLIED]  # but for what the rules forbid
ARRAY = {f"{index:02}-{grid.name(point)}": point for index, point in enumerate(grid.array())}
# Largest differences, as shares. bfloat16 rounds by up to 0.4 %, some fifty layers in a row. A fold rounds new weights
# and changes the order of sums, in float64 here.
HALF, FOLDED = 0.1, 1e-10


def make_model(point: Point, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(grid.config(point))


def make_batch(point: Point, seed: int = 0) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "image": torch.randint(0, 256, (3, *SIZE), generator=generator, dtype=torch.uint8),
            "sem_seg": torch.randint(0, int(point["classes"]), SIZE, generator=generator),
        }
        for _ in range(2)
    ]


def images_of(point: Point) -> torch.Tensor:
    return torch.stack([record["image"] for record in make_batch(point)]).float() / 128 - 1


@torch.no_grad()
def logits_of(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model.eval().logits(images)


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Of two maps, as a share of the expected one (Euclidean)."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def equalizers_of(model: nn.Module) -> dict[str, ScaleEqualizer]:
    return {path: module for path, module in model.named_modules() if isinstance(module, ScaleEqualizer)}


def check_calibration(model: nn.Module, point: Point) -> None:
    calibrate(model, [make_batch(point, seed) for seed in (1, 2)], num_images=-1)
    equalizers = equalizers_of(model)
    assert {int(equalizer.num_images) for equalizer in equalizers.values()} == {4}
    assert any("pyramid" in path for path in equalizers) == (point["scope"] == "all")
    assert all(path.startswith("sem_seg_head.") for path in equalizers)


def still(path: str, point: Point) -> bool:
    """Whether a parameter's first gradient is zero for a known reason.

    With one class there is nothing to learn. FaPN's offsets are predicted by a convolution that starts at zero; timm's
    residual blocks of a ResNet end in a norm that does.
    """
    residual = point["backbone"] == "resnet" and path.startswith("backbone.body.layer")
    return point["classes"] == "1" or ".transfer.mix." in path or ".transfer.aligned.mix." in path or residual


def check_training(model: nn.Module, point: Point) -> None:
    losses = model.train()(make_batch(point))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert "loss_sem_seg" in losses
    assert any("loss_gate" in key for key in losses) == (point["final_transfer"] == "supervised_gated")
    assert any("loss_aux_stage" in key for key in losses) == (point["backbone"] == "hrnet")
    gradients = {path: p.grad for path, p in model.named_parameters()}
    assert not [path for path, gradient in gradients.items() if gradient is None]
    assert not [path for path, gradient in gradients.items() if not gradient.isfinite().all()]
    assert not [path for path, gradient in gradients.items() if not gradient.any() and not still(path, point)]
    model.zero_grad()


def check_half_precision(model: nn.Module, point: Point, images: torch.Tensor, expected: torch.Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = logits_of(model, images)
        if point["norm"] == "GN":  # of two values, on a map of one pixel, it is nearly their sign: roundings show
            assert found.isfinite().all()
        else:
            assert distance(found, expected) < HALF
        total = sum(model.train()(make_batch(point)).values())
    total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def check_results(model: nn.Module, point: Point) -> None:
    with torch.no_grad():
        for result in model.eval()(make_batch(point)):
            assert result["sem_seg"].shape == (int(point["classes"]), *SIZE)
            assert result["sem_seg"].isfinite().all()


def check_saved(model: nn.Module, point: Point, images: torch.Tensor, expected: torch.Tensor) -> None:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = make_model(point, seed=1)
    assert not torch.equal(loaded.sem_seg_head.classifier.weight, model.sem_seg_head.classifier.weight)
    loaded.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert torch.equal(logits_of(loaded, images), expected)


def check_folded(model: nn.Module, images: torch.Tensor) -> None:
    model, images = copy.deepcopy(model).double(), images.double()
    folded = fold_equalizers(model)
    assert not equalizers_of(folded)
    assert not [key for key in folded.state_dict() if "equalizer" in key]
    assert distance(logits_of(folded, images), logits_of(model, images)) < FOLDED


def check_point(point: Point) -> None:
    model, images = make_model(point), images_of(point)
    if point["equalizer"] != "off":
        check_calibration(model, point)
    check_training(model, point)
    check_results(model, point)
    expected = logits_of(model, images)
    assert torch.equal(logits_of(copy.deepcopy(model), images), expected)
    check_saved(model, point, images, expected)
    if point["equalizer"] != "off":
        check_folded(model, images)
    check_half_precision(model, point, images, expected)


@pytest.mark.parametrize("point", ARRAY.values(), ids=ARRAY)
def test_a_point_of_the_grid(point):
    check_point(point)


MORE = {grid.name(point): point for point in grid.random_points([*ALLOWED, *grid.UNREAD], 60)}


@pytest.mark.slow
@pytest.mark.parametrize("point", MORE.values(), ids=MORE)
def test_a_random_point_of_the_grid(point):
    check_point(point)


def test_every_pair_of_values_is_in_the_array_unless_the_rules_exclude_it():
    """Oracle: a search by brute force over random points, which knows nothing of the greedy one."""
    covered = set().union(*map(pairs, ARRAY.values()))
    for point in ARRAY.values():
        assert not any(matches(rule, point) for rule in [*ALLOWED, *grid.UNREAD])
    drawn = set().union(*map(pairs, grid.random_points([*ALLOWED, *grid.UNREAD], 500)))
    assert drawn <= covered
    assert len(drawn) > 0.8 * len(covered)
    assert {item for pair in covered for item in pair} == {(a, v) for a, values in grid.AXES.items() for v in values}


def test_a_covering_array_of_a_small_grid():
    """Closed form: 3 axes of 2 values have 12 pairs, which 4 points can cover; a rule takes pairs away."""
    axes = {"a": "01", "b": "01", "c": "01"}
    array = Grid(axes, []).covering_array()
    assert set().union(*map(pairs, array)) == {
        frozenset(((one, x), (other, y))) for one, other in itertools.combinations("abc", 2) for x in "01" for y in "01"
    }
    assert 4 <= len(array) <= 6
    # a = 1 needs b = 1, and b = 1 needs c = 1: then a = 1 and c = 0 do not occur together, although no rule says so.
    chained = Grid(axes, [{"a": "1", "b": "0"}, {"b": "1", "c": "0"}])
    assert frozenset((("a", "1"), ("c", "0"))) not in chained.allowed_pairs()
    assert len(chained.allowed_pairs()) == 9
    assert array == Grid(axes, []).covering_array()


@cache
def levels_of(backbone: str) -> dict:
    return build_backbone(grid.config({**grid.array()[0], "backbone": backbone})).output_shape()


def build_head(point: Point) -> nn.Module:
    return build_sem_seg_head(grid.config(point), levels_of(point["backbone"]))


@pytest.mark.parametrize(("message", "rule"), grid.REFUSALS, ids=str)
def test_what_makes_no_sense_is_refused_with_key_and_reason(message, rule):
    points = grid.random_points([other for other in ALLOWED if other is not rule], 3, within=rule)
    assert points, "another rule covers this one"
    for point in points:
        with pytest.raises(ValueError, match=message):
            build_head(point)


def test_everything_else_is_built():
    for point in grid.random_points(ALLOWED, 100):
        head = build_head(point)
        assert head.classifier.out_channels == int(point["classes"])
