"""Names of detection that are known before torch is loaded: backbones with a pyramid, and Detectron2's detectors."""

from __future__ import annotations

PYRAMID_BACKBONES = (
    "build_scaleeq_pyramid_backbone",
    "build_retinanet_scaleeq_pyramid_backbone",
    "build_resnet_fan_backbone",
    "build_retinanet_resnet_fan_backbone",
)
# Meta-architectures without a semantic head.
WITHOUT_HEAD = ("GeneralizedRCNN", "ProposalNetwork", "RetinaNet", "FCOS", "TorchvisionDetector")
