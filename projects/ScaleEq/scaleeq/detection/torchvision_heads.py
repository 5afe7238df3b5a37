"""torchvision's detectors over features that are there already: nothing of them is written again here.

Source: torchvision.models.detection, whose anchors, region proposals, RoI heads, matching, losses and NMS these are.
What it would do before them, resize, normalise and pad images and run a backbone, has been done: `Handed` gives it the
results. Its classes are 1..K, 0 is background, for all four (RetinaNet and FCOS have an output for it, never trained to
be one, so that torchvision's own weights fit).

Not Detectron2's numbers: RoIAlign is not aligned to half pixels, box losses are smooth L1 with other betas, other
limits on proposals and scores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from scaleeq.choices import one_of
from scaleeq.layers import Level

DETECTORS = ("faster_rcnn", "mask_rcnn", "retinanet", "fcos")
ONE_STAGE = ("retinanet", "fcos")
FIRST_ANCHOR_PX = 32  # of the finest level: p2 for those with regions, p3 for RetinaNet
BOX_CELLS, MASK_CELLS, SAMPLING_RATIO = 7, 14, 2
MASK_CONVS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectorOptions:
    """The keys of MODEL.DETECTOR, in lower case; config/keys.py says what each means.

    ValueError for a value that cannot be meant, and for one that the detector of this name has no use for.
    """

    name: str
    num_classes: int
    score_thresh: float = 0.05
    detections_per_image: int = 100
    anchor_sizes: tuple[int, ...] = ()
    regions_per_image: int = 512
    box_dim: int = 1024
    mask_dim: int = 256

    def __post_init__(self) -> None:
        one_of(self.name, DETECTORS, key="MODEL.DETECTOR.NAME")
        if self.num_classes < 1:
            raise ValueError(f"MODEL.DETECTOR.NUM_CLASSES is {self.num_classes}; there is one class at least")
        unused = {"mask_dim": self.name != "mask_rcnn"}
        unused |= dict.fromkeys(("regions_per_image", "box_dim"), self.name in ONE_STAGE)
        unused["anchor_sizes"] = self.name == "fcos"
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for key, is_unused in unused.items():
            if is_unused and getattr(self, key) != defaults[key]:
                raise ValueError(
                    f"MODEL.DETECTOR.{key.upper()} is {getattr(self, key)}, which NAME {self.name!r} has no use for; "
                    f"leave it {defaults[key]}"
                )


class Handed(nn.Module):
    """What a detector of torchvision is given instead of its transform and its backbone.

    out_channels: of every level, as torchvision asks its backbones.
    """

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.features: dict[str, torch.Tensor] = {}
        self.forget()

    def hand(
        self,
        images: torch.Tensor,
        image_sizes: list[tuple[int, int]],
        features: Mapping[str, torch.Tensor],
        result_sizes: Sequence[tuple[int, int]] = (),
    ) -> None:
        """images: (N, 3, H, W), padded; image_sizes: (h, w) of each; features: level -> map; result_sizes: (h, w)."""
        self.images, self.image_sizes = images, image_sizes
        self.features, self.result_sizes = dict(features), list(result_sizes)

    def forget(self) -> None:
        """Keep nothing of the last batch: its graph would stay, and a model that holds one cannot be copied."""
        self.images, self.image_sizes = torch.zeros(0), []
        self.features, self.result_sizes = {}, []

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """The features, in the place of a backbone's."""
        return self.features


def make_detector(options: DetectorOptions, levels: Mapping[str, Level], extra_levels: Sequence[str] = ()) -> Any:
    """torchvision's detector, whose `backbone` is a Handed.

    levels: those that the detector reads, finest first. extra_levels: those of them whose features are no regions'
        (p6 of an FPN): proposals come from them, but no region is pooled from them.

    ValueError: levels of different widths, or anchors that are not one size a level.
    """
    widths = {level.channels for level in levels.values()}
    if len(widths) != 1:
        raise ValueError(f"a detector reads levels of one width; these are {widths}: {', '.join(levels)}")
    handed = Handed(widths.pop())
    if options.name in ONE_STAGE:
        detector = _one_stage(options, handed, levels)
    else:
        detector = _regions(options, handed, levels, [name for name in levels if name not in extra_levels])
    detector.transform = _handed_transform(detector.transform, handed)
    return detector


def _anchor_sizes(options: DetectorOptions, levels: Mapping[str, Level]) -> tuple[int, ...]:
    sizes = options.anchor_sizes or tuple(FIRST_ANCHOR_PX << index for index in range(len(levels)))
    if len(sizes) != len(levels):
        raise ValueError(
            f"MODEL.DETECTOR.ANCHOR_SIZES is {list(sizes)}, {len(sizes)} sizes for the {len(levels)} levels "
            f"{', '.join(levels)}; give one a level, or []"
        )
    return sizes


def _one_stage(options: DetectorOptions, handed: Handed, levels: Mapping[str, Level]) -> Any:
    from torchvision.models.detection import FCOS, RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    shared = {
        "num_classes": options.num_classes + 1,
        "score_thresh": options.score_thresh,
        "detections_per_img": options.detections_per_image,
    }
    if options.name == "fcos":
        points = AnchorGenerator(tuple((level.stride,) for level in levels.values()), ((1.0,),) * len(levels))
        return FCOS(handed, anchor_generator=points, **shared)
    # Three sizes an octave, as RetinaNet has them.
    sizes = tuple((x, int(x * 2 ** (1.0 / 3)), int(x * 2 ** (2.0 / 3))) for x in _anchor_sizes(options, levels))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    return RetinaNet(handed, anchor_generator=anchors, **shared)


def _regions(options: DetectorOptions, handed: Handed, levels: Mapping[str, Level], pooled: Sequence[str]) -> Any:
    from torchvision.models.detection import FasterRCNN, MaskRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.ops import MultiScaleRoIAlign

    width, num = handed.out_channels, options.num_classes + 1
    sizes = tuple((size,) for size in _anchor_sizes(options, levels))

    def pool(cells: int) -> Any:
        return MultiScaleRoIAlign(list(pooled), output_size=cells, sampling_ratio=SAMPLING_RATIO)

    # Proposals and boxes, which both have.
    shared: dict[str, Any] = {
        "rpn_anchor_generator": AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        "box_roi_pool": pool(BOX_CELLS),
        "box_head": TwoMLPHead(width * BOX_CELLS**2, options.box_dim),
        "box_predictor": FastRCNNPredictor(options.box_dim, num),
        "box_score_thresh": options.score_thresh,
        "box_detections_per_img": options.detections_per_image,
        "box_batch_size_per_image": options.regions_per_image,
    }
    if options.name == "faster_rcnn":
        return FasterRCNN(handed, **shared)
    # Masks, too.
    dim = options.mask_dim
    return MaskRCNN(
        handed,
        mask_roi_pool=pool(MASK_CELLS),
        mask_head=MaskRCNNHeads(width, (dim,) * MASK_CONVS, 1),
        mask_predictor=MaskRCNNPredictor(dim, dim, num),
        **shared,
    )


def _handed_transform(transform: Any, handed: Handed) -> Any:
    """A transform that leaves images as they are; its `postprocess` still is torchvision's."""
    from torchvision.models.detection.image_list import ImageList

    class HandedTransform(type(transform)):  # type: ignore[misc]
        def forward(self, images: Any, targets: Any = None) -> Any:
            return ImageList(self.handed.images, self.handed.image_sizes), targets

        def postprocess(self, result: Any, image_shapes: Any, original_image_sizes: Any) -> Any:
            return super().postprocess(result, image_shapes, self.handed.result_sizes)

    own = HandedTransform(transform.min_size, transform.max_size, transform.image_mean, transform.image_std)
    own.handed = handed  # as an attribute: a copy of the detector has a copy of it
    return own
