"""Windows, scales and flips. Oracles: mmsegmentation's slide inference written down slowly (every window padded to the
whole image), models whose answer is known at every pixel, the segmentor's own forward, softmax and exp of torch.
"""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scaleeq.config import add_scaleeq_config
from scaleeq.engine import get_cfg
from scaleeq.evaluation import ValidationLossEvaluator
from scaleeq.inference import Inference, InferenceOptions, augmented, mirrored, scaled, slide, window_starts
from scaleeq.tasks import SemanticTask
from scaleeq.training import Trainer
from scaleeq.training.evaluate import evaluate_only
from tests.test_segmentor import make_batch, make_model
from tests.training.tiny import TEST_SET, tiny_config

SIZES = [(37, 53), (64, 64), (16, 40), (40, 16), (9, 11), (1, 70)]
WINDOWS = [
    *(((16, 16), (10, 10)), ((16, 24), (16, 24)), ((24, 16), (7, 11))),
    *(((40, 40), (26, 26)), ((100, 100), (66, 66))),
]


def options(*pairs: str) -> InferenceOptions:
    return InferenceOptions.from_config(make_cfg(*pairs))


def make_cfg(*pairs: str):
    cfg = get_cfg()
    add_scaleeq_config(cfg)
    cfg.merge_from_list(list(pairs))
    return cfg


def slow_slide(image, predict, window, stride):
    """mmsegmentation 1.2.2: grids rounded up, the last window moved back, each one's logits padded to the image."""
    height, width = image.shape[-2:]
    rows = max(height - window[0] + stride[0] - 1, 0) // stride[0] + 1
    columns = max(width - window[1] + stride[1] - 1, 0) // stride[1] + 1
    total, number = 0, torch.zeros(height, width)
    for row in range(rows):
        for column in range(columns):
            bottom, right = min(row * stride[0] + window[0], height), min(column * stride[1] + window[1], width)
            top, left = max(bottom - window[0], 0), max(right - window[1], 0)
            logits = predict(image[:, top:bottom, left:right])
            total = total + F.pad(logits, (left, width - right, top, height - bottom))
            number[top:bottom, left:right] += 1
    assert number.min() > 0
    return total / number


def context_dependent(view):
    """(3, h, w) -> (4, h, w): of the whole view, so that overlapping windows disagree."""
    position = torch.linspace(-1, 1, view.shape[-2])[:, None] * torch.linspace(0, 2, view.shape[-1])
    return torch.cat([view - view.mean(), (view.amax() * position)[None]])


class Small(nn.Module):
    """Five classes from one convolution at half the size, whose zero padding makes a window's border differ."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 5, 7, stride=2, padding=3)

    def forward(self, batch):
        (record,) = batch
        own = tuple(record["image"].shape[1:])
        logits = self.conv(record["image"][None].to(self.conv.weight.device) / 64)
        for size in (own, (record.get("height", own[0]), record.get("width", own[1]))):
            logits = F.interpolate(logits, size=size, mode="bilinear")
        return [{"sem_seg": logits[0]}]


# --- sliding windows ---


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("window", "stride"), WINDOWS)
def test_windows_are_mmsegmentations(size, window, stride):
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    expected = slow_slide(image, context_dependent, window, stride)
    torch.testing.assert_close(slide(image, context_dependent, window=window, stride=stride), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("window", "stride"), WINDOWS)
def test_a_model_that_returns_its_input_gives_the_image_back(size, window, stride):
    """To the last bit: sums of few equal whole numbers are exact."""
    image = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(slide(image, lambda view: view, window=window, stride=stride), image)


def test_the_last_window_ends_at_the_border():
    assert window_starts(11, window=4, stride=3) == [0, 3, 6, 7]
    assert window_starts(10, window=4, stride=3) == [0, 3, 6]
    assert window_starts(4, window=4, stride=1) == window_starts(3, window=4, stride=4) == [0]


def test_a_window_as_large_as_the_image_is_the_whole_image():
    """Also where it is larger, and where the result has another size than the image."""
    model = make_model().eval()
    batch = make_batch((61, 97), (64, 50), labels=False)
    batch[1] |= {"height": 100, "width": 70}
    for window in ("[97]", "[61, 97]", "[64, 97]", "[200]"):
        inference = Inference.from_config(make_cfg("TEST.SLIDE.WINDOW", window), model)
        for sample in batch:
            if window == "[61, 97]" and sample is batch[1]:
                continue  # that one is higher
            torch.testing.assert_close(inference([sample])[0]["sem_seg"], model([sample])[0]["sem_seg"])


def test_windows_of_a_segmentor():
    """Windows that the segmentor must pad; every image of a batch; the size that the record asks for."""
    model = make_model().eval()
    batch = make_batch((61, 97), (64, 50), labels=False)
    batch[1] |= {"height": 100, "width": 70}
    cfg = make_cfg("TEST.SLIDE.WINDOW", "[45, 50]", "TEST.SLIDE.STRIDE", "[30]")
    results = Inference.from_config(cfg, model)(batch)
    for sample, result in zip(batch, results, strict=True):

        def predict(view):
            with torch.no_grad():
                return model([{"image": view}])[0]["sem_seg"]

        logits = slow_slide(sample["image"], predict, (45, 50), (30, 30))
        size = (sample["height"], sample["width"])
        expected = F.interpolate(logits[None], size=size, mode="bilinear")[0]
        torch.testing.assert_close(result["sem_seg"], expected)


# --- scales and flips ---


def test_one_scale_is_the_softmax_of_the_whole():
    model, batch = make_model().eval(), make_batch((61, 97), labels=False)
    plain = model(batch)[0]["sem_seg"]
    for combine, expected in (("softmax", plain.log_softmax(0)), ("exp_sum", plain)):
        cfg = make_cfg("TEST.AUG.ENABLED", "True", "TEST.AUG.FLIP", "False", "TEST.AUG.COMBINE", combine)
        found = Inference.from_config(cfg, model)(batch)[0]["sem_seg"]
        torch.testing.assert_close(found, expected)
        assert torch.equal(found.argmax(0), plain.argmax(0))


@pytest.mark.parametrize("combine", ["softmax", "exp_sum"])
@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("window", ["[]", "[48, 40]"])
def test_scales_flips_and_windows_together(combine, flip, window):
    """Against each view by hand, its probabilities or exponentials added up in float64."""
    model, (sample,) = Small().eval(), make_batch((61, 97), labels=False)
    scales = (0.5, 1.0, 1.3)
    cfg = make_cfg("TEST.AUG.ENABLED", "True", "TEST.AUG.FLIP", str(flip), "TEST.AUG.COMBINE", combine)
    cfg.merge_from_list(["TEST.AUG.SCALES", str(scales), "TEST.SLIDE.WINDOW", window])
    pairs = [(0, 3), (1, 2)]
    found = Inference.from_config(cfg, model, flip_pairs=pairs)([sample])[0]["sem_seg"]

    def logits_of(view):
        def whole(image):
            return model([{"image": image}])[0]["sem_seg"]

        with torch.no_grad():
            logits = whole(view) if window == "[]" else slow_slide(view, whole, (48, 40), (32, 26))
        return F.interpolate(logits[None], size=(61, 97), mode="bilinear")[0].double()

    parts = []
    for scale in scales:
        size = (int(61 * scale + 0.5), int(97 * scale + 0.5))
        view = F.interpolate(sample["image"][None].float(), size=size, mode="bilinear")[0]
        views = [logits_of(view)]
        if flip:
            views.append(logits_of(view.flip(2))[[3, 2, 1, 0, 4]].flip(2))
        parts += [v.softmax(0) for v in views] if combine == "softmax" else [(sum(views) / len(views)).exp()]
    expected = sum(parts)
    torch.testing.assert_close(found.softmax(0).double(), expected / expected.sum(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.double(), (expected / len(parts)).log(), rtol=1e-5, atol=1e-5)


class LeftAndRight(nn.Module):
    """Class 1 where the image is bright in its left half, class 2 in its right half: their names change in a mirror."""

    def forward(self, batch):
        (record,) = batch
        bright = record["image"][0].float() / 255
        left = (torch.arange(bright.shape[-1]) < bright.shape[-1] / 2).float()
        logits = 10 * torch.stack([1 - bright, bright * left, bright * (1 - left)])
        return [{"sem_seg": F.interpolate(logits[None], size=(record["height"], record["width"]), mode="nearest")[0]}]


def test_a_flip_exchanges_the_names_of_left_and_right():
    image = torch.zeros(3, 20, 30)
    image[:, 4:9, 3:8] = image[:, 12:18, 19:25] = 255
    cfg, model = make_cfg("TEST.AUG.ENABLED", "True"), LeftAndRight().eval()
    sample = {"image": image, "height": 20, "width": 30}
    (plain,) = model([sample])
    (exchanged,) = Inference.from_config(cfg, model, flip_pairs=[(1, 2)])([sample])
    tasks = [SemanticTask(num_classes=len(plain["sem_seg"]))]
    (of_a_task,) = Inference.from_config(cfg, model, flip_pairs=[(1, 2)], tasks=tasks)([sample])
    assert torch.equal(of_a_task["sem_seg"], exchanged["sem_seg"])
    (unaware,) = Inference.from_config(cfg, model)([sample])
    torch.testing.assert_close(exchanged["sem_seg"], plain["sem_seg"].log_softmax(0))
    left, right = unaware["sem_seg"][1:, 6, 5]
    assert float(left) == pytest.approx(float(right)), "without its pairs, a flip makes left and right equal"


def test_large_logits_do_not_overflow():
    logits = torch.tensor([900.0, 950.0, 100.0]).view(3, 1, 1).expand(3, 4, 6)
    for combine in ("softmax", "exp_sum"):
        scores = augmented(torch.rand(3, 4, 6), lambda _: logits.clone(), scales=(1.0, 2.0), flip=True, combine=combine)
        assert scores.isfinite().all() and bool((scores.argmax(0) == 1).all())


def test_scaled_images():
    image = torch.randint(0, 256, (3, 7, 10), dtype=torch.uint8)
    assert scaled(image, 1.0) is image
    assert scaled(image, 0.75).shape == (3, 5, 8), "5.25 and 7.5, halves rounded up"
    assert scaled(image, 0.01).shape == (3, 1, 1)
    torch.testing.assert_close(scaled(torch.full((3, 7, 10), 9, dtype=torch.uint8), 1.7), torch.full((3, 12, 17), 9.0))


# --- in an evaluation ---


def test_the_validation_loss_of_an_augmented_prediction_is_that_of_its_probabilities():
    model, (sample,) = Small().eval(), make_batch((32, 48))
    cfg = make_cfg("TEST.AUG.ENABLED", "True", "TEST.AUG.SCALES", "[1.0, 1.5]")
    (result,) = Inference.from_config(cfg, model)([sample])
    evaluator = ValidationLossEvaluator("toy_sem_seg_val")
    evaluator.process([{**sample, "sem_seg_truth": sample["sem_seg"]}], [result])
    probabilities = result["sem_seg"].double().exp()
    torch.testing.assert_close(probabilities.sum(0), torch.ones(32, 48, dtype=torch.float64), rtol=1e-5, atol=0)
    expected = -probabilities.gather(0, sample["sem_seg"][None]).log().mean()
    assert evaluator.evaluate()["validation"]["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_the_mode_of_the_model_is_kept_and_asked_for():
    model = make_model()
    inference = Inference(model, options=InferenceOptions(window=(32, 32)))
    assert inference.training
    with pytest.raises(ValueError, match=r"ScaleEqSegmentor is in training mode; call \.eval"):
        inference(make_batch((32, 32)))
    assert not Inference(model.eval(), options=InferenceOptions(window=(32, 32))).training


def test_a_plain_evaluation_is_the_model_itself():
    model = make_model()
    assert Inference.from_config(make_cfg(), model) is model
    assert Inference.from_config(make_cfg("TEST.AUG.SCALES", "[0.5, 1.0]"), model) is model, "without ENABLED"


def test_other_models_than_of_semantic_segmentation_are_refused():
    class Boxes(nn.Module):
        def forward(self, batch):
            return [{"instances": None, "proposals": None}]

    inference = Inference(Boxes().eval(), options=InferenceOptions(window=(8, 8)))
    with pytest.raises(ValueError, match="Boxes gives instances, proposals, but no 'sem_seg'"):
        inference([{"image": torch.zeros(3, 8, 8)}])


def test_eval_only_with_windows_scales_and_flips(tmp_path):
    """Every image once, at its size; the multiply-adds are those of all its views."""
    weights = tmp_path / "model.pth"
    torch.save({"model": Trainer.build_model(tiny_config(tmp_path)).state_dict()}, weights)
    records = {}
    for name, changes in {
        "whole": {},
        "flip": {"TEST__AUG__ENABLED": True},
        "all": {"TEST__SLIDE__WINDOW": [96], "TEST__AUG__ENABLED": True, "TEST__AUG__SCALES": [0.5, 1.0]},
    }.items():
        cfg = tiny_config(tmp_path / name, MODEL__WEIGHTS=str(weights), TEST__VALIDATION_LOSS=True, **changes)
        evaluate_only(cfg, Trainer)
        records[name] = json.loads((tmp_path / name / "inference" / "results.json").read_text())
        assert records[name]["datasets"] == [TEST_SET] and records[name]["seconds_per_image"] > 0
        assert records[name]["validation"]["loss"] > 0
    assert records["flip"]["multiply_adds"] == 2 * records["whole"]["multiply_adds"]
    assert records["all"]["seconds_per_image"] > records["whole"]["seconds_per_image"]


# --- keys ---


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["TEST.SLIDE.WINDOW", "[0]"], r"TEST.SLIDE.WINDOW is \[0\]; give one number"),
        (["TEST.SLIDE.WINDOW", "[8, 8, 8]"], "height and width, as"),
        (["TEST.SLIDE.WINDOW", "[8.5]"], r"WINDOW is \[8.5\]"),
        (["TEST.SLIDE.WINDOW", "[8]", "TEST.SLIDE.STRIDE", "[-1]"], r"TEST.SLIDE.STRIDE is \[-1\]"),
        (["TEST.SLIDE.WINDOW", "[8, 16]", "TEST.SLIDE.STRIDE", "[9, 9]"], r"STRIDE is \[9, 9\], larger than"),
        (["TEST.SLIDE.STRIDE", "[9]"], "TEST.SLIDE.STRIDE is set, but there are no windows"),
        (["TEST.SLIDE.AGGREGATE_ON", "cpu"], "AGGREGATE_ON is set, but there are no windows"),
        (["TEST.SLIDE.AGGREGATE_ON", "gpu"], "AGGREGATE_ON is 'gpu'; choose one of device, cpu"),
        (["TEST.AUG.COMBINE", "max"], "TEST.AUG.COMBINE is 'max'; choose one of softmax, exp_sum"),
        (["TEST.AUG.ENABLED", "True", "TEST.AUG.SCALES", "[1.0, 0.0]"], r"SCALES is \[1.0, 0.0\]; scales are factors"),
        (["TEST.AUG.ENABLED", "True", "TEST.AUG.SCALES", "[]"], "SCALES is empty"),
        (["TEST.AUG.MIN_SIZES", "(512, 768)"], r"MIN_SIZES is \(512, 768\), but images are scaled by TEST.AUG.SCALES"),
        (["TEST.AUG.MAX_SIZE", "2048"], "MAX_SIZE is 2048, but images are scaled by TEST.AUG.SCALES"),
    ],
)
def test_wrong_values_are_refused_with_the_way_out(pairs, message):
    with pytest.raises(ValueError, match=message):
        options(*pairs)


def test_they_are_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match=r"TEST\.AUG\.COMBINE"):
        Trainer(tiny_config(tmp_path, TEST__AUG__COMBINE="max"))


def test_one_number_is_both_sides_and_the_stride_two_thirds():
    found = options("TEST.SLIDE.WINDOW", "[512]")
    assert (found.window, found.stride) == ((512, 512), (341, 341))
    assert options("TEST.SLIDE.WINDOW", "[1024, 2048]").stride == (682, 1365)


def test_pairs_beyond_the_classes_are_refused():
    with pytest.raises(ValueError, match="names a class beyond the 3"):
        mirrored(torch.zeros(3, 2, 2), [(1, 3)])


# --- where the logits are ---


@pytest.mark.cuda
@pytest.mark.parametrize("aggregate_on", ["device", "cpu"])
def test_aggregation_on_the_cpu_and_on_the_device(aggregate_on):
    model, batch = Small(), make_batch((61, 97), labels=False)
    keys = ["TEST.SLIDE.WINDOW", "[48]", "TEST.AUG.ENABLED", "True", "TEST.AUG.SCALES", "[0.5, 1.0]"]
    expected = Inference.from_config(make_cfg(*keys), model.eval())(batch)[0]["sem_seg"]
    found = Inference.from_config(make_cfg(*keys, "TEST.SLIDE.AGGREGATE_ON", aggregate_on), model.cuda())(batch)
    assert found[0]["sem_seg"].device.type == ("cuda" if aggregate_on == "device" else "cpu")
    torch.testing.assert_close(found[0]["sem_seg"].cpu(), expected, rtol=1e-4, atol=1e-4)


def test_aggregation_on_the_cpu_gives_the_same():
    model, batch = Small().eval(), make_batch((61, 97), labels=False)
    keys = ["TEST.SLIDE.WINDOW", "[48]", "TEST.AUG.ENABLED", "True", "TEST.AUG.SCALES", "[0.5, 1.0]"]
    one, other = (
        Inference.from_config(make_cfg(*keys, "TEST.SLIDE.AGGREGATE_ON", place), model)(batch)[0]["sem_seg"]
        for place in ("device", "cpu")
    )
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
