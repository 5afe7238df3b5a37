"""SegmentationLoss and its options. Oracles: the functions that it is made of; the whole batch for its parts."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import scaleeq.segmentor  # noqa: F401  (registers the model)
from scaleeq.engine import build_model, load_config
from scaleeq.tasks.losses.averaging import prepare_step
from scaleeq.tasks.losses.ohem import threshold_labels, top_k_labels
from scaleeq.tasks.losses.options import LossOptions
from scaleeq.tasks.losses.pixels import cross_entropy
from scaleeq.tasks.losses.regions import dice_loss, lovasz_softmax
from scaleeq.tasks.losses.segmentation import SegmentationLoss
from tests.tasks.losses.reference import make_case

BASE = Path(__file__).parents[3] / "configs" / "Base.yaml"
WEIGHTS = [0.3, 2.1, 0.0, 1.0, 3.0]
EACH = {
    "plain": {},
    "class_weights": {"class_weights": WEIGHTS},
    "label_smoothing": {"label_smoothing": 0.1},
    "focal": {"focal_gamma": 2.0},
    "top_k": {"ohem": "top_k", "ohem_top_k": 0.3},
    "threshold": {"ohem": "threshold", "ohem_min_kept": 5},
    "dice": {"dice_weight": 0.7},
    "lovasz": {"lovasz_weight": 1.3},
}


def make_loss(**options) -> SegmentationLoss:
    return SegmentationLoss(options=LossOptions(**options))


def test_module_upsamples_to_the_labels_and_weights():
    logits, labels = make_case()
    small = logits[..., ::2, ::2]
    upsampled = F.interpolate(small, size=(8, 6), mode="bilinear", align_corners=False)
    loss = SegmentationLoss(weight=0.4)(small, labels)
    torch.testing.assert_close(loss, 0.4 * F.cross_entropy(upsampled, labels, ignore_index=255))


def test_the_parts_add_up():
    logits, labels = make_case()
    options = LossOptions(dice_weight=0.7, lovasz_weight=1.3, class_weights=WEIGHTS, average_over="all")
    expected = cross_entropy(logits, labels, class_weights=torch.tensor(WEIGHTS), average_over="all")
    expected = expected + 0.7 * dice_loss(logits, labels) + 1.3 * lovasz_softmax(logits, labels)
    torch.testing.assert_close(SegmentationLoss(options=options, weight=0.5)(logits, labels), 0.5 * expected)


@pytest.mark.parametrize("average", ["valid", "all"])
def test_ohem_averages_over_the_kept_pixels_or_over_all(average):
    logits, labels = make_case()
    weights = torch.tensor(WEIGHTS)
    loss = make_loss(ohem="top_k", ohem_top_k=0.3, class_weights=WEIGHTS, average_over=average)
    hard = top_k_labels(logits, labels, share=torch.tensor(0.3), class_weights=weights)
    expected = cross_entropy(logits, hard, class_weights=weights, average_over=average)
    torch.testing.assert_close(loss(logits, labels), expected)
    loss = make_loss(ohem="threshold", ohem_threshold=0.4, ohem_min_kept=9, average_over=average)
    hard = threshold_labels(logits, labels, threshold=0.4, min_kept=9)
    torch.testing.assert_close(loss(logits, labels), cross_entropy(logits, hard, average_over=average))
    prepare_step(loss, iteration=0, mean_count=1.0)
    torch.testing.assert_close(loss(logits, labels), cross_entropy(logits, hard, average_over=average))


def test_top_k_is_annealed_from_the_plain_loss_by_the_iteration():
    logits, labels = make_case()
    loss = make_loss(ohem="top_k", ohem_top_k=0.2, ohem_anneal_iters=10)
    found = []
    for iteration in (0, 5, 10, 15):
        prepare_step(loss, iteration=iteration, mean_count=0)
        found.append(loss(logits, labels).item())
    shares = [1.0, 0.6, 0.2, 0.2]
    expected = [cross_entropy(logits, top_k_labels(logits, labels, share=torch.tensor(s))).item() for s in shares]
    assert found == pytest.approx(expected, rel=1e-12)
    assert found[0] == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-12)
    assert found[0] < found[1] < found[2]


@pytest.mark.parametrize("average", ["valid", "all"])
@pytest.mark.parametrize("name", ["plain", "class_weights", "label_smoothing", "focal"])
def test_micro_batches_with_the_mean_count_are_the_whole_batch(name, average):
    logits, labels = make_case(size=(4, 8, 6))
    labels[1] = 255
    labels[2, 2:] = 255
    loss = make_loss(**EACH[name], average_over=average)
    whole = loss(logits, labels)
    (expected,) = torch.autograd.grad(whole, logits)
    counts = [loss.pixel_count(part).item() for part in labels.split(1)]
    assert (len(set(counts)) == 1) == (average == "all")
    prepare_step(loss, iteration=0, mean_count=sum(counts) / 4)
    mean = torch.stack([loss(*parts) for parts in zip(logits.split(1), labels.split(1), strict=True)]).mean()
    assert mean.item() == pytest.approx(whole.item(), rel=1e-12)
    torch.testing.assert_close(torch.autograd.grad(mean, logits)[0], expected, rtol=1e-12, atol=1e-15)
    prepare_step(loss, iteration=0, mean_count=0)
    torch.testing.assert_close(loss(logits, labels), whole, rtol=0, atol=0)


def test_a_mean_count_keeps_more_digits_than_float32_has():
    logits, labels = make_case()
    loss, count = make_loss(), 30_000_001 / 3
    prepare_step(torch.nn.Sequential(torch.nn.ReLU(), loss), iteration=7, mean_count=count)
    expected = F.cross_entropy(logits, labels, ignore_index=255, reduction="sum").item() / count
    assert loss(logits, labels).item() == pytest.approx(expected, rel=1e-13)
    assert loss.iteration.item() == 7


@pytest.mark.parametrize("error", [None, ValueError])
def test_a_step_ends_with_its_block(error):
    logits, labels = make_case()
    loss = make_loss()
    alone = loss(logits, labels)
    with contextlib.suppress(ValueError), prepare_step(loss, iteration=5, mean_count=1000.0):
        assert loss(logits, labels).item() < 0.1 * alone.item()
        if error:
            raise error
    torch.testing.assert_close(loss(logits, labels), alone, rtol=0, atol=0)
    assert loss.iteration.item() == 0


def test_a_mean_count_on_the_device_is_the_same_number():
    loss, count = make_loss(), 30_000_001 / 3
    prepare_step(loss, iteration=0, mean_count=count)
    expected = loss.mean_count.clone()
    prepare_step(loss, iteration=0, mean_count=torch.tensor(count, dtype=torch.float64))
    assert torch.equal(loss.mean_count, expected)


@pytest.mark.parametrize("name", EACH)
def test_labels_may_be_bytes(name):
    logits, labels = make_case()
    loss = make_loss(**EACH[name])
    assert torch.equal(loss(logits, labels.to(torch.uint8)), loss(logits, labels))
    assert torch.equal(loss.pixel_count(labels.to(torch.uint8)), loss.pixel_count(labels))


def test_pixel_count_is_float64_and_counts_class_weights():
    _, labels = make_case()
    loss = make_loss(class_weights=WEIGHTS)
    expected = sum(float(loss.class_weights[c]) * int((labels == c).sum()) for c in range(5))
    assert loss.pixel_count(labels).dtype == make_loss().pixel_count(labels).dtype == torch.float64
    assert loss.pixel_count(labels).item() == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("name", EACH)
def test_void_everywhere_is_zero_with_zero_gradients(name):
    logits, labels = make_case(void=1.1)
    loss = make_loss(**EACH[name])
    for mean_count in (0, 12.0):
        prepare_step(loss, iteration=0, mean_count=mean_count)
        value = loss(logits, labels)
        assert value.item() == 0
        assert torch.autograd.grad(value, logits)[0].abs().max() == 0


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_compute_in_float32(name, dtype):
    logits, labels = make_case()
    half, loss = logits.detach()[..., ::2, ::2].to(dtype).requires_grad_(), make_loss(**EACH[name])
    value = loss(half, labels)
    assert value.dtype == torch.float32
    assert torch.autograd.grad(value, half)[0].dtype == dtype
    torch.testing.assert_close(value, loss(half.float(), labels), rtol=0, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss(half, labels), value, rtol=0, atol=0)


@pytest.mark.parametrize("name", EACH)
def test_one_class_trains_to_nothing(name):
    logits, labels = make_case(classes=1)
    loss = make_loss(**EACH[name] if name != "class_weights" else {"class_weights": [2.0]})
    value = loss(logits, labels)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(value, logits)[0].abs().max() < 1e-12


@pytest.mark.parametrize("name", ["class_weights", "focal", "top_k", "threshold", "dice", "lovasz"])
def test_compiled_losses_are_the_same(name):
    logits, labels = make_case()
    loss = make_loss(**EACH[name])
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=name not in ("dice", "lovasz"))
    for iteration in range(2):
        prepare_step(loss, iteration=iteration, mean_count=10.0 + iteration)
        value = compiled(logits, labels)
        torch.testing.assert_close(value, loss(logits, labels))
        expected = torch.autograd.grad(loss(logits, labels), logits)
        torch.testing.assert_close(torch.autograd.grad(value, logits), expected)


def test_nothing_is_stored_in_checkpoints():
    assert not make_loss(class_weights=WEIGHTS).state_dict()


@pytest.mark.parametrize("name", EACH)
def test_a_config_builds_heads_with_each_loss_that_train(name):
    keys = [item for key, value in EACH[name].items() for item in (f"MODEL.LOSS.{key.upper()}", str(value))]
    small = ["MODEL.TIMM.NAME", "resnet18", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "8", "MODEL.AUX_HEAD.CONVS_DIM", "8"]
    torch.manual_seed(0)
    model = build_model(
        load_config(BASE, ["MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "5", *small, *keys])
    )
    auxiliary = model.aux_heads["res4"].loss
    assert model.sem_seg_head.loss.options == LossOptions(**EACH[name])
    assert auxiliary.options == LossOptions(**(EACH[name] if "ohem" not in EACH[name] else {}), **ohem_values(name))
    assert (model.sem_seg_head.loss.weight, auxiliary.weight) == (1.0, 0.4)
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    losses = model([{"image": image, "sem_seg": torch.randint(0, 5, (64, 64))}] * 2)
    sum(losses.values()).backward()
    assert all(loss > 0 for loss in losses.values())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def ohem_values(name: str) -> dict:
    """What an auxiliary head keeps of the OHEM keys: the numbers, not the kind."""
    return {key: value for key, value in EACH[name].items() if key.startswith("ohem_")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"average_over": "batch"}, "AVERAGE_OVER is 'batch'; choose one of valid, all"),
        ({"ohem": "hard"}, "OHEM is 'hard'; choose one of off, top_k, threshold"),
        ({"class_weights": [1.0, -2.0]}, r"CLASS_WEIGHTS is \(1.0, -2.0\); weights are not negative"),
        ({"label_smoothing": 1.0}, r"LABEL_SMOOTHING is 1.0; a share in \[0, 1\)"),
        ({"label_smoothing": -0.1}, "LABEL_SMOOTHING is -0.1"),
        ({"focal_gamma": -1.0}, "FOCAL_GAMMA is -1.0; not negative"),
        ({"ohem_top_k": 0.0}, r"OHEM_TOP_K is 0.0; a share of the pixels in \(0, 1\]"),
        ({"ohem_top_k": 25}, "OHEM_TOP_K is 25"),
        ({"ohem_anneal_iters": -1}, "OHEM_ANNEAL_ITERS is -1"),
        ({"ohem_threshold": 1.5}, r"OHEM_THRESHOLD is 1.5; a probability in \[0, 1\]"),
        ({"ohem_min_kept": 0}, "OHEM_MIN_KEPT is 0; at least one pixel"),
        ({"dice_weight": -1.0}, "DICE_WEIGHT is -1.0"),
        ({"lovasz_weight": -1.0}, "LOVASZ_WEIGHT is -1.0"),
        ({"dice_weight": float("nan")}, "DICE_WEIGHT is nan"),
        (
            {"ohem": "top_k", "focal_gamma": 2.0},
            "MODEL.LOSS.OHEM 'top_k' and MODEL.LOSS.FOCAL_GAMMA 2.0 are set together",
        ),
        (
            {"ohem": "threshold", "label_smoothing": 0.1},
            "MODEL.LOSS.OHEM 'threshold' and MODEL.LOSS.LABEL_SMOOTHING 0.1",
        ),
        ({"focal_gamma": 2.0, "label_smoothing": 0.1}, "MODEL.LOSS.FOCAL_GAMMA 2.0 and MODEL.LOSS.LABEL_SMOOTHING 0.1"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LossOptions(**options)


def test_class_weights_of_another_number_of_classes_are_refused():
    with pytest.raises(ValueError, match="has 2 numbers for 5 classes"):
        make_loss(class_weights=[1.0, 2.0])(*make_case())
    with pytest.raises(ValueError, match="has 2 numbers for 5 classes"):
        LossOptions.from_config(
            load_config(BASE, ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "5", "MODEL.LOSS.CLASS_WEIGHTS", "[1.0, 2.0]"])
        )
