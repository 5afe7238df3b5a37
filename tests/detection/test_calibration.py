"""What a detector's equalizers are measured on. Oracles: Detectron2's own preprocessing; images without padding, one by
one; the moments of maps that are looked at by hand.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from scaleeq import engine
from scaleeq.detection import PyramidBackbone, detection_calibration_inputs, measured_part
from scaleeq.detection.calibration import refuse_endless
from scaleeq.equalization import EqualizerSpec, equalize_fusions
from scaleeq.equalization.calibration import calibrate
from scaleeq.equalization.frozen import refuse_frozen_without_weights
from scaleeq.probes.outputs import OutputRecorder

from .test_backbone import Pools

needs_detectron2 = pytest.mark.skipif(engine.NAME != "detectron2", reason="detectors of the real Detectron2")
SIZES = ((128, 160), (96, 96))


class Detector(nn.Module):
    """A detector without a detecting part: what it needs is where Detectron2's have it."""

    def __init__(self, pyramid: str = "fpn", bottom_up: nn.Module | None = None):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = PyramidBackbone.of(bottom_up or Pools(), pyramid, channels=16)
        self.register_buffer("pixel_mean", torch.tensor([100.0, 110.0, 120.0]).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor([50.0, 60.0, 70.0]).view(-1, 1, 1), persistent=False)


def pictures(*sizes: tuple[int, int], seed: int = 0) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    return [{"image": torch.randint(0, 256, (3, *size), generator=generator).float()} for size in sizes]


def test_padding_has_no_part_in_it():
    """A bottom-up and a pyramid in which no convolution carries a pixel over the border: equal but for rounding."""
    padded, alone, careless = (Detector() for _ in range(3))
    for detector in (padded, alone, careless):
        equalize_fusions(detector.backbone, EqualizerSpec(implementation="module"), "all")
    batch = pictures(*SIZES)
    report = calibrate(measured_part(padded), [batch], num_images=2)
    one_by_one = calibrate(measured_part(alone), [[record] for record in batch], num_images=2)
    with_padding = calibrate(
        careless.backbone, [batch], num_images=2, inputs=lambda b: (detection_calibration_inputs(careless, b)[0], None)
    )
    assert list(one_by_one.fusions)
    worst = 0.0
    for name, branches in one_by_one.fusions.items():
        for branch, numbers in branches.items():
            found = report.fusions[name][branch]
            assert found.std == pytest.approx(numbers.std, rel=1e-5)
            assert found.mean == pytest.approx(numbers.mean, rel=1e-4, abs=1e-5)
            other = with_padding.fusions[name.removeprefix("backbone.")][branch]
            worst = max(worst, abs(other.std / numbers.std - 1))
    assert worst > 0.05, "the padding of this batch would have been seen"


def test_inputs_are_padded_images_and_their_shares():
    detector = Detector()
    batch = pictures((64, 100), (50, 64))
    images, shares = detection_calibration_inputs(detector, batch)
    assert images.shape == (2, 3, 64, 128)
    torch.testing.assert_close(shares, torch.tensor([[1.0, 100 / 128], [50 / 64, 0.5]]))
    expected = (batch[1]["image"] - detector.pixel_mean) / detector.pixel_std
    assert torch.equal(images[1, :, :50, :64], expected)
    assert not images[1, :, 50:].any() and not images[1, :, :, 64:].any()
    assert detection_calibration_inputs(detector, pictures((64, 96), (64, 96)))[1] is None


@needs_detectron2
@pytest.mark.parametrize("name", ["faster_rcnn", "retinanet"])
def test_inputs_are_those_of_detectron2(name):
    from .small import batch_of, config, model_of

    model = model_of(config(f"coco/{name}_r50"))
    batch = batch_of((75, 64), (50, 90))
    images = model.preprocess_image(batch)
    ours, shares = detection_calibration_inputs(model, batch)
    assert torch.equal(ours, images.tensor)
    sizes = torch.tensor(images.image_sizes) / torch.tensor(images.tensor.shape[-2:])
    assert torch.equal(shares, sizes)


def test_the_measured_part_has_the_detectors_names_and_parts():
    detector = Detector()
    equalize_fusions(detector.backbone, EqualizerSpec(), "all")
    part = measured_part(detector)
    assert part.backbone is detector.backbone and part.sem_seg_head is None
    twin = copy.deepcopy(part)
    assert twin.backbone is not part.backbone and twin.state_dict().keys() == part.state_dict().keys()
    assert twin.calibration_inputs(pictures((64, 64)))[0].shape == (1, 3, 64, 64)
    with pytest.raises(ValueError, match="Linear has no backbone, pixel_mean, pixel_std; a detector with Detectron2's"):
        measured_part(nn.Linear(1, 1))


def test_without_padding_convolutions_make_a_small_difference():
    """The general case: the border is seen, but not the padding's own scale."""
    from scaleeq.backbones import TimmBackbone

    with torch.random.fork_rng():
        torch.manual_seed(0)
        bottom_up = TimmBackbone(name="test_resnet").eval()
    detectors = [Detector(bottom_up=copy.deepcopy(bottom_up)) for _ in range(2)]
    for detector in detectors:
        detector.backbone.bottom_up.requires_grad_(False)
        for module in detector.modules():
            if isinstance(module, nn.BatchNorm2d):  # batch statistics of one image are not those of two
                module.momentum, module.track_running_stats = 0.0, True
        from timm.utils.model import freeze_batch_norm_2d

        freeze_batch_norm_2d(detector.backbone.bottom_up.body)
        for module in detector.modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.weight.fill_(0.9)
        equalize_fusions(detector.backbone, EqualizerSpec(), "all")
    batch = pictures(*SIZES)
    report = calibrate(measured_part(detectors[0]), [batch], num_images=2)
    one_by_one = calibrate(measured_part(detectors[1]), [[record] for record in batch], num_images=2)
    for name, branches in one_by_one.fusions.items():
        for branch, numbers in branches.items():
            assert report.fusions[name][branch].std == pytest.approx(numbers.std, rel=0.03)


def frozen(number: int = 2) -> nn.Sequential:
    return nn.Sequential(*(FrozenBatchNorm2d(4) for _ in range(number)), nn.Conv2d(4, 4, 1))


def test_frozen_norms_without_weights_are_refused():
    with pytest.raises(ValueError, match=r"none of the 2 frozen batch norms has weights.*MODEL.WEIGHTS"):
        refuse_frozen_without_weights(frozen())
    refuse_frozen_without_weights(nn.Conv2d(1, 1, 1))
    refuse_frozen_without_weights(nn.BatchNorm2d(3))
    for tensor in ("weight", "bias", "running_mean", "running_var"):  # MSRA's files have them in weight and bias alone
        model = frozen()
        getattr(model[0], tensor)[1] += 0.5
        refuse_frozen_without_weights(model)
    bottom_up = nn.Sequential(FrozenBatchNorm2d(3), Pools())
    detector = Detector()
    detector.backbone.bottom_up = bottom_up
    equalize_fusions(detector.backbone, EqualizerSpec(), "all")
    with pytest.raises(ValueError, match="none of the 1 frozen batch norms"):
        calibrate(measured_part(detector), [pictures((64, 64))])


@needs_detectron2
def test_detectron2s_frozen_norms_are_known():
    from .small import batch_of, config, model_of

    model = model_of(config("coco/faster_rcnn_r50+scale_equalizer", "MODEL.RESNETS.NORM", "FrozenBN"))
    with pytest.raises(ValueError, match="none of the 53 frozen batch norms has weights"):
        calibrate(measured_part(model), [batch_of((64, 64))], num_images=1)
    model.backbone.bottom_up.stem.conv1.norm.weight.fill_(0.5)
    refuse_frozen_without_weights(model)


def test_a_loader_without_an_end_is_refused_where_all_of_it_is_asked_for():
    def endless():
        while True:
            yield []

    for loader in (endless(), SimpleNamespace(__iter__=None)):
        with pytest.raises(ValueError, match="NUM_IMAGES is -1, the whole loader, but a detector's training"):
            refuse_endless(loader, -1)
        refuse_endless(loader, 0)
    refuse_endless([[]], -1)


def test_outputs_are_recorded_over_all_batches():
    detector = Detector()
    maps = []
    with OutputRecorder(detector.backbone) as recorder:
        maps += [detector.backbone(torch.randn(2, 3, 64, 64)), detector.backbone(3 * torch.randn(1, 3, 96, 64))]
    detector.backbone(torch.randn(1, 3, 64, 64))  # after the block
    record = recorder.finish()
    spread = record.pop("spread")
    for level, numbers in record.items():
        values = torch.cat([each[level].flatten() for each in maps]).double()
        assert numbers["mean"] == pytest.approx(values.mean().item(), rel=1e-4, abs=1e-6)
        assert numbers["std"] == pytest.approx(values.std(correction=0).item(), rel=1e-5)
    assert list(record) == ["p2", "p3", "p4", "p5", "p6"]
    stds = [numbers["std"] for numbers in record.values()]
    assert spread == pytest.approx(max(stds) / min(stds))
    assert recorder.finish() == {}
