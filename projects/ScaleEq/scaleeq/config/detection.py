"""Names of detection that are known before torch is loaded: backbones with a pyramid, and Detectron2's detectors."""

from __future__ import annotations

from collections.abc import Collection

PYRAMID_BACKBONES = (
    "build_scaleeq_pyramid_backbone",
    "build_retinanet_scaleeq_pyramid_backbone",
    "build_resnet_fan_backbone",
    "build_retinanet_resnet_fan_backbone",
)
# Meta-architectures without a semantic head.
WITHOUT_HEAD = ("GeneralizedRCNN", "ProposalNetwork", "RetinaNet", "FCOS", "TorchvisionDetector")

# Those that Detectron2's own training alone can run: tools/train_detection.py.
DETECTRON2_DETECTORS = ("GeneralizedRCNN", "ProposalNetwork", "RetinaNet", "FCOS", "PanopticFPN")


def other_training(config: str, architecture: str, names: Collection[str], *, has_detectron2: bool) -> str:
    """Why `scaleeq train` cannot run a config, and what can; empty where it can.

    config: its name, with overlays, or path. names: those of all configs.
    """
    if architecture not in DETECTRON2_DETECTORS:
        return ""
    what = f"{config or 'the config'} is a detector of Detectron2 (MODEL.META_ARCHITECTURE {architecture})"
    command = f"python tools/train_detection.py --config-file {config}"
    if has_detectron2:
        return f"{what}, which its own training runs: {command}"
    name, *overlays = config.split("+")
    folder, _, stem = name.rpartition("/")
    stems = [f"torchvision_{each}" for each in (stem, stem.removesuffix("_r50"))]
    if stem.startswith("detectron2_"):
        stems.append(stem.removeprefix("detectron2_"))
    twins = [f"{folder}/{each}" for each in stems]
    twin = next((each for each in twins if each in names), "")
    if not twin:
        return f"{what}, which needs Detectron2 (docs/engine.md): with it, {command}"
    return f"{what}, which is not here; torchvision's is {'+'.join([twin, *overlays])}"
