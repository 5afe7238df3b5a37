"""Losses in strips. Oracle: the functions of `pixels` on the upsampled map, by torch's own gradients."""

from __future__ import annotations

import pytest
import torch

from scaleeq.config import add_scaleeq_config
from scaleeq.engine import get_cfg
from scaleeq.ops import strips
from scaleeq.tasks import build_tasks
from scaleeq.tasks.auxiliary import auxiliary_loss
from scaleeq.tasks.losses.averaging import prepare_step
from scaleeq.tasks.losses.options import LossOptions
from scaleeq.tasks.losses.segmentation import SegmentationLoss

WEIGHTS = [0.3, 2.1, 0.0, 1.0, 3.0]
EACH = {
    "plain": {},
    "class_weights": {"class_weights": WEIGHTS},
    "label_smoothing": {"label_smoothing": 0.1},
    "both": {"label_smoothing": 0.2, "class_weights": WEIGHTS},
    "focal": {"focal_gamma": 2.0, "class_weights": WEIGHTS},
    "focal_below_1": {"focal_gamma": 0.5},
    "top_k": {"ohem": "top_k", "ohem_top_k": 0.3, "class_weights": WEIGHTS},
    "threshold": {"ohem": "threshold", "ohem_min_kept": 5, "ohem_threshold": 0.3},
    "dice": {"dice_weight": 0.7},
}


def make_case(dtype=torch.float64, *, size=(37, 50), void=0.3):
    """Logits (2, 5, 9, 13) with a gradient, and labels (2, *size)."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 5, 9, 13, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 5, (2, *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < void] = 255
    return logits.to(dtype).requires_grad_(), labels


def pair(**options):
    """The loss in strips, and plainly."""
    return [SegmentationLoss(options=LossOptions(**options), weight=0.4, in_strips=strips) for strips in (True, False)]


def value_and_slopes(loss, logits, labels):
    value = loss(logits, labels)
    return value.detach(), torch.autograd.grad(3 * value, logits)[0]


@pytest.mark.parametrize("strip_rows", [1, 7, 1000])
@pytest.mark.parametrize("average", ["valid", "all"])
@pytest.mark.parametrize("name", EACH)
def test_strips_are_the_plain_loss(name, average, strip_rows, monkeypatch):
    logits, labels = make_case()
    monkeypatch.setitem(strips.STRIP_BYTES, "cpu", strip_rows * 5 * 50 * 8)
    (value, slopes), (plain, plain_slopes) = (
        value_and_slopes(loss, logits, labels) for loss in pair(**EACH[name], average_over=average)
    )
    torch.testing.assert_close(value, plain, rtol=1e-12, atol=0)
    torch.testing.assert_close(slopes, plain_slopes, rtol=0, atol=1e-14)


def distance(found, expected):
    """The largest difference, relative to the largest number."""
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", ["plain", "both", "focal"])
def test_float32_is_as_near_to_the_plain_loss_as_rounding_lets_it(name):
    logits, labels = make_case(torch.float32, size=(36, 52))
    found, plain = (value_and_slopes(loss, logits, labels) for loss in pair(**EACH[name]))
    assert max(map(distance, found, plain)) <= 5e-7


@pytest.mark.parametrize("size", [(512, 512), (401, 683)])
@pytest.mark.parametrize("name", ["plain", "both", "focal"])
def test_float32_rounds_less_than_the_plain_loss_where_many_pixels_read_one_logit(name, size):
    exact = value_and_slopes(pair(**EACH[name])[1], *make_case(size=size))
    found, plain = (value_and_slopes(loss, *make_case(torch.float32, size=size)) for loss in pair(**EACH[name]))
    assert distance(found[0], exact[0]) <= 5e-7
    assert distance(found[1], exact[1]) <= 1e-6 < distance(plain[1], exact[1])


@pytest.mark.parametrize("name", ["plain", "label_smoothing", "focal", "top_k", "threshold"])
def test_a_batch_that_is_void_everywhere(name):
    logits, labels = make_case(torch.float32)
    value, slopes = value_and_slopes(pair(**EACH[name])[0], logits, torch.full_like(labels, 255))
    assert value == 0 and not slopes.any()


@pytest.mark.parametrize("name", ["plain", "focal", "focal_below_1"])
def test_pixels_that_are_surely_right_have_finite_slopes(name):
    logits, labels = make_case(torch.float32)
    for loss in pair(**EACH[name]):
        value, slopes = value_and_slopes(loss, logits * 1e4, labels.clamp(max=0))
        assert value.isfinite() and slopes.isfinite().all()


def test_the_step_tells_what_to_divide_by():
    logits, labels = make_case()
    found = []
    for loss in pair(class_weights=WEIGHTS):
        with prepare_step(loss, iteration=3, mean_count=1000.0):
            found.append(loss(logits, labels).item())
        found.append(loss(logits, labels, mean_count=torch.tensor([500.0, 0.0])).item())
    assert found[:2] == pytest.approx(found[2:], rel=1e-12) and found[1] == pytest.approx(2 * found[0], rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_have_float32_sums(dtype):
    logits, labels = make_case(dtype)
    strips, plain = pair()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, slopes = value_and_slopes(strips, logits, labels.to(torch.uint8))
        expected, expected_slopes = value_and_slopes(plain, logits, labels)
    assert value.dtype == torch.float32 and slopes.dtype == dtype
    torch.testing.assert_close(value, expected, rtol=5e-7, atol=0)
    torch.testing.assert_close(slopes, expected_slopes, rtol=2e-2, atol=1e-6)


def test_layout_grad_mode_and_several_backward_passes():
    logits, labels = make_case()
    loss = pair()[0]
    value, slopes = value_and_slopes(loss, logits, labels)
    last = logits.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    torch.testing.assert_close(value_and_slopes(loss, last, labels)[1], slopes, rtol=0, atol=1e-15)
    with torch.no_grad():
        assert loss(logits, labels).item() == pytest.approx(value.item(), rel=1e-13)
    again = loss(logits, labels)
    once, twice = (torch.autograd.grad(again, logits, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(once, twice)


def test_a_label_beyond_the_classes_is_refused():
    logits, labels = make_case()
    labels[0, 3, 4] = 7
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        pair()[0](logits, labels)


@pytest.mark.parametrize("evaluate", ["", "plain"])
def test_one_key_chooses_for_every_loss_of_a_model(evaluate):
    cfg = get_cfg()
    add_scaleeq_config(cfg)
    cfg.MODEL.FUSION.EVALUATE = evaluate
    task = build_tasks(cfg)["sem_seg"]
    losses = [task.loss, task.gate_loss, auxiliary_loss(cfg, 0.4)]
    assert [loss.in_strips for loss in losses] == [not evaluate] * 3
