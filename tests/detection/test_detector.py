"""torchvision's detectors on our pyramids: sizes, batches in and out, what is handed on, copies, calibration."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from scaleeq import get_config
from scaleeq.detection.configured import build_detector
from scaleeq.detection.detector import TorchvisionDetector
from scaleeq.equalization.calibration import calibrate, fusions_of
from scaleeq.equalization.folding import fold_equalizers

TWO_STAGE, ONE_STAGE = "build_scaleeq_pyramid_backbone", "build_retinanet_scaleeq_pyramid_backbone"
# M parameters with 90 classes and background on a ResNet-50, to the third decimal: measured on torchvision 0.29's own
# models, where the pyramid is theirs ("fpn", for RetinaNet and FCOS with p6 from p5), and with ours in their place.
SIZES = {
    ("faster_rcnn", "fpn", ""): 41.808,
    ("faster_rcnn", "fapn", ""): 46.251,
    ("faster_rcnn", "bifpn", ""): 39.791,
    ("mask_rcnn", "fpn", ""): 44.455,
    ("mask_rcnn", "fapn", ""): 48.897,
    ("mask_rcnn", "bifpn", ""): 42.437,
    ("retinanet", "fpn", "convs_from_p5"): 34.068,
    ("retinanet", "fpn", "convs_from_res5"): 38.197,
    ("retinanet", "fapn", "convs_from_res5"): 41.355,
    ("fcos", "fpn", "convs_from_p5"): 32.323,
    ("fcos", "fpn", "convs_from_res5"): 36.451,
    ("fcos", "fapn", "convs_from_res5"): 39.610,
}


def config(name: str, *overrides, pyramid: str = "fpn", extra: str = ""):
    one_stage = name in ("retinanet", "fcos")
    keys = [
        "MODEL.BACKBONE.NAME", ONE_STAGE if one_stage else TWO_STAGE, "MODEL.PYRAMID.NAME", pyramid,
        "MODEL.DETECTOR.NAME", name, "MODEL.PYRAMID.EXTRA_LEVELS", extra, "MODEL.DEVICE", "cpu",
    ]  # fmt: skip
    if name != "mask_rcnn":
        keys += ["MODEL.DETECTOR.MASK_DIM", 256]
    if one_stage:
        keys += ["MODEL.DETECTOR.REGIONS_PER_IMAGE", 512, "MODEL.DETECTOR.BOX_DIM", 1024]
    if name == "fcos":
        keys += ["MODEL.DETECTOR.ANCHOR_SIZES", []]
    return get_config("toy/mask_rcnn", [*keys, *overrides])


def small(name: str, *overrides, **more) -> TorchvisionDetector:
    torch.manual_seed(0)
    width = 64 if name == "fcos" else 16  # whose heads norm 32 groups of it
    return build_detector(config(name, "MODEL.PYRAMID.CHANNELS", width, *overrides, **more))


@pytest.mark.parametrize(("name", "pyramid", "extra"), SIZES)
def test_sizes(name, pyramid, extra):
    full = [
        "MODEL.TIMM.NAME", "resnet50", "MODEL.PYRAMID.CHANNELS", 256, "MODEL.DETECTOR.NUM_CLASSES", 90,
        "MODEL.DETECTOR.ANCHOR_SIZES", [], "MODEL.DETECTOR.BOX_DIM", 1024, "MODEL.DETECTOR.MASK_DIM", 256,
    ]  # fmt: skip
    with torch.device("meta"):
        model = build_detector(config(name, *full, pyramid=pyramid, extra=extra))
    number = sum(parameter.numel() for parameter in model.parameters())
    assert round(number / 1e6, 3) == SIZES[name, pyramid, extra]


def objects(num: int, size=(64, 96), seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(num, 2, generator=generator) * torch.tensor([60.0, 30.0])
    boxes = torch.cat([corners, corners + 8 + 20 * torch.rand(num, 2, generator=generator)], 1)
    masks = torch.zeros(num, *size, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    return {"boxes": boxes, "labels": torch.arange(num) % 2, "masks": masks}


def batch(*numbers: int, size=(64, 96)) -> list[dict]:
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8),
            "instances": objects(number, size, seed),
            "file_name": f"{seed}.png",
        }
        for seed, number in enumerate(numbers)
    ]


LOSSES = {
    "faster_rcnn": {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"},
    "mask_rcnn": {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg", "loss_mask"},
    "retinanet": {"classification", "bbox_regression"},
    "fcos": {"classification", "bbox_regression", "bbox_ctrness"},
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("numbers", [(3, 2), (2, 0), (0, 0)])
def test_training_with_and_without_objects(name, numbers):
    """Every parameter has a gradient, as DistributedDataParallel wants it."""
    model = small(name)
    losses = model(batch(*numbers))
    assert losses.keys() == LOSSES[name]
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert [path for path, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("name", LOSSES)
def test_results_are_in_pixels_of_the_size_that_is_asked_for(name):
    model = small(name, "MODEL.DETECTOR.SCORE_THRESH", 0.0).eval()
    samples = batch(0, 0)
    samples[1] |= {"height": 128, "width": 192}
    with torch.no_grad():
        first, second = (each["instances"] for each in model(samples))
        alone = model(samples[:1])[0]["instances"]
    assert 0 < len(first["boxes"]) <= 100
    assert set(first["labels"].tolist()) <= {0, 1}
    for found, (height, width) in ((first, (64, 96)), (second, (128, 192))):
        assert (found["boxes"][:, 2].max() <= width) and (found["boxes"][:, 3].max() <= height)
        if name == "mask_rcnn":
            assert found["masks"].shape == (len(found["boxes"]), height, width)
            assert found["masks"].dtype == torch.bool
    assert second["boxes"].max() > 96
    for key in alone:
        torch.testing.assert_close(alone[key], first[key])


@pytest.mark.parametrize("name", ["mask_rcnn", "retinanet"])
def test_images_smaller_than_a_cell_of_the_coarsest_level(name):
    """20 x 24 pixels: p5 and all above it are one cell."""
    model = small(name)
    samples = batch(1, 0, size=(20, 24))
    samples[0]["instances"] = {"boxes": torch.tensor([[2.0, 3.0, 12.0, 15.0]]), "labels": torch.tensor([1])}
    samples[0]["instances"]["masks"] = torch.zeros(1, 20, 24, dtype=torch.uint8)
    samples[0]["instances"]["masks"][:, 3:15, 2:12] = 1
    assert all(loss.isfinite() for loss in model(samples).values())
    with torch.no_grad():
        found = model.eval()(samples)[0]["instances"]
    assert found["boxes"].isfinite().all()


class Detectron2Instances:
    """As Detectron2's fields are."""

    class Of:
        def __init__(self, tensor):
            self.tensor = tensor

    def __init__(self, found):
        self.found, self.image_size = found, tuple(found["masks"].shape[1:])

    def get_fields(self):
        masks = self.Of(self.found["masks"].bool())
        return {"gt_boxes": self.Of(self.found["boxes"]), "gt_classes": self.found["labels"], "gt_masks": masks}


def test_detectron2_instances_are_taken():
    model, samples = small("mask_rcnn"), batch(3, 2)
    theirs = [{**sample, "instances": Detectron2Instances(sample["instances"])} for sample in samples]
    both = []
    for each in (samples, theirs):
        torch.manual_seed(3)
        both.append(copy.deepcopy(model)(each))
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])
    with pytest.raises(ValueError, match=r"0\.png has no 'instances' to train on"):
        model([{key: value for key, value in samples[0].items() if key != "instances"}])


def test_a_copy_has_its_own_features_and_nothing_is_kept():
    model = small("faster_rcnn", "MODEL.DETECTOR.SCORE_THRESH", 0.0).eval()
    twin = copy.deepcopy(model)
    assert twin.detector.transform.handed is twin.detector.backbone is not model.detector.backbone
    with torch.no_grad():
        for module in twin.backbone.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.mul_(0.5)
        own, theirs = (each(batch(0))[0]["instances"]["boxes"] for each in (model, twin))
    assert own.shape != theirs.shape or not torch.equal(own, theirs)
    model.train()(batch(2))
    assert model.detector.backbone.features == {}
    copy.deepcopy(model)


def test_labels_are_torchvisions_shifted_by_one():
    """The detector is torchvision's: its own forward over the same features gives the same boxes."""
    model = small("faster_rcnn", "MODEL.DETECTOR.SCORE_THRESH", 0.0).eval()
    samples = batch(0)
    with torch.no_grad():
        found = model(samples)[0]["instances"]
        images = model.preprocess(samples)
        features = model.backbone(images.tensor)
        model.detector.backbone.hand(images.tensor, images.image_sizes, features, images.image_sizes)
        original = model.detector([images.tensor[0]])[0]
    assert torch.equal(found["boxes"], original["boxes"])
    assert torch.equal(found["labels"] + 1, original["labels"])


@pytest.mark.parametrize("pyramid", ["fpn", "fapn", "bifpn"])
def test_calibrates_and_folds(pyramid):
    keys = ["MODEL.SCALE_EQUALIZER.ENABLED", True, "MODEL.SCALE_EQUALIZER.SCOPE", "all"]
    model = small("faster_rcnn", *keys, pyramid=pyramid)
    for sample in (samples := batch(2, 1)):
        sample["image"] = sample["image"].float()
    calibrate(model, [samples] * 2, inputs=model.calibration_inputs)
    assert all(path.startswith("backbone.pyramid.") for path in fusions_of(model))
    model.eval()
    with torch.no_grad():
        image = model.preprocess(samples).tensor
        before = model.backbone(image)
        folded = fold_equalizers(model)
        after = folded.backbone(image)
    assert not fusions_of(folded)
    for level, values in before.items():
        torch.testing.assert_close(after[level], values, rtol=1e-4, atol=1e-5)


def test_heads_compute_in_float32_under_autocast():
    model = small("mask_rcnn")
    seen = []
    model.detector.rpn.head.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs[0][0].dtype))
    model.backbone.bottom_up.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs["res5"].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch(2, 1))
    assert seen == [torch.bfloat16, torch.float32]
    sum(losses.values()).backward()


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("retinanet", ["MODEL.DETECTOR.BOX_DIM", 64], "BOX_DIM is 64, which NAME 'retinanet' has no use for"),
        ("faster_rcnn", ["MODEL.DETECTOR.MASK_DIM", 64], "MASK_DIM is 64, which NAME 'faster_rcnn' has no use for"),
        ("fcos", ["MODEL.DETECTOR.ANCHOR_SIZES", [8]], r"ANCHOR_SIZES is \(8,\), which NAME 'fcos' has no use for"),
        ("mask_rcnn", ["MODEL.DETECTOR.ANCHOR_SIZES", [8, 16]], "2 sizes for the 5 levels p2, p3, p4, p5, p6"),
        ("mask_rcnn", ["MODEL.BACKBONE.NAME", "build_timm_backbone"], "BACKBONE.NAME of a TorchvisionDetector"),
        ("mask_rcnn", ["MODEL.TASKS.NAMES", ["depth"]], "TorchvisionDetector"),
        (
            "mask_rcnn",
            ["MODEL.DETECTOR.THING_LABELS", [3]],
            "give a label for each of the MODEL.DETECTOR.NUM_CLASSES 2",
        ),
        ("mask_rcnn", ["MODEL.DETECTOR.THING_LABELS", [3, 4]], "are made of masks and a map of labels"),
        (
            "mask_rcnn",
            ["MODEL.SCALE_EQUALIZER.ENABLED", True, "MODEL.SCALE_EQUALIZER.SCOPE", "head"],
            "SCOPE is 'head'",
        ),
    ],
)
def test_refusals(name, keys, message):
    with pytest.raises(ValueError, match=message):
        build_detector(config(name, *keys))
