"""Detectron2's detectors at the size of a test: a narrow ResNet-50 with batch norms, a pyramid of 16 channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import scaleeq
from scaleeq import engine
from scaleeq.engine import build_model, get_cfg, load_config

ARCHITECTURES = ("faster_rcnn", "retinanet", "mask_rcnn", "panoptic_fpn", "pointrend_rcnn")
SMALL: dict[str, object] = {
    "MODEL.WEIGHTS": "",
    "MODEL.DEVICE": "cpu",
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 4,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.RPN.CONV_DIMS": [16],
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 32,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
    "MODEL.ROI_HEADS.NUM_CLASSES": 3,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.RETINANET.NUM_CLASSES": 3,
    "MODEL.RETINANET.NUM_CONVS": 1,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 4,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
}


def config(name: str, *options: object, small: bool = True) -> Any:
    """The config of a name of configs/, with Detectron2's PointRend."""
    base = get_cfg()
    if engine.FEATURES.detection:
        from detectron2.projects.point_rend import add_pointrend_config

        add_pointrend_config(base)
    scaleeq.add_scaleeq_config(base)
    changes = SMALL | {"MODEL.POINT_HEAD.NUM_CLASSES": 3, "MODEL.ROI_MASK_HEAD.FC_DIM": 16} if small else {}
    words = [word for pair in changes.items() for word in pair]
    return load_config(name, [*words, "MODEL.DEVICE", "cpu", *options], base=base)


def model_of(cfg: Any, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_model(cfg)


def batch_of(*sizes: tuple[int, int], seed: int = 0, labels: int = 4) -> list[dict[str, Any]]:
    """Pictures of noise (3, H, W), each with two boxes, their masks, and labels of all pixels."""
    from detectron2.structures import BitMasks, Boxes, Instances

    generator = np.random.default_rng(seed)
    batch = []
    for height, width in sizes:
        image = torch.from_numpy(generator.integers(0, 256, (3, height, width)).astype(np.float32))
        boxes = torch.tensor([[4.0, 6.0, width / 2, height / 2], [width / 3, height / 3, width - 4.0, height - 2.0]])
        masks = torch.zeros(2, height, width, dtype=torch.bool)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = True
        instances = Instances(
            (height, width), gt_boxes=Boxes(boxes), gt_classes=torch.tensor([0, 2]), gt_masks=BitMasks(masks)
        )
        sem_seg = torch.from_numpy(generator.integers(0, labels, (height, width)))
        batch.append({"image": image, "instances": instances, "sem_seg": sem_seg, "height": height, "width": width})
    return batch


def losses_of(model: torch.nn.Module, batch: list[dict[str, Any]], seed: int = 0) -> dict[str, torch.Tensor]:
    """The losses of a training step; sampling is of the seed."""
    from detectron2.utils.events import EventStorage

    model.train()
    torch.manual_seed(seed)
    np.random.seed(seed)
    with EventStorage():
        return model(batch)
