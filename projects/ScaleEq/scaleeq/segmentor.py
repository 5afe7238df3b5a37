"""ScaleEqSegmentor: image -> backbone -> head -> per-pixel logits, with Detectron2's batch format on both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from scaleeq.decoders.base import SegmentationHead
from scaleeq.decoders.fcn import auxiliary_heads
from scaleeq.tasks.losses.options import LossOptions
from scaleeq.tasks.losses.segmentation import SegmentationLoss

from . import backbones, registered_heads  # noqa: F401  (registers them)
from .engine import (
    META_ARCH_REGISTRY,
    Backbone,
    ImageList,
    build_backbone,
    build_sem_seg_head,
    configurable,
    get_cfg,
    sem_seg_postprocess,
)
from .names import check_names
from .ops import resize, send


@META_ARCH_REGISTRY.register()
class ScaleEqSegmentor(nn.Module):
    """Semantic segmentation: normalises and pads the images, runs backbone and head, trains the auxiliary heads.

    Args:
        backbone: images (N, 3, H, W) -> level -> (N, C, H / stride, W / stride). In training it may add "aux_logits",
            name -> (N, num_classes, h, w), which become losses "loss_aux_<name>"; heads do not see them.
        sem_seg_head: a head of scaleeq.decoders.
        aux_heads: level -> head, in training only.
        aux_losses: name -> loss of these logits of the backbone.
        pixel_mean, pixel_std: per channel, in INPUT.FORMAT order, in units of the image (0..255).
    """

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: SegmentationHead,
        aux_heads: Mapping[str, nn.Module] | None = None,
        aux_losses: Mapping[str, nn.Module] | None = None,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
    ):
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.aux_heads = nn.ModuleDict(aux_heads or {})
        self.aux_losses = nn.ModuleDict(aux_losses or {})
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        check_names(cfg)
        if "fpn" not in cfg.MODEL.BACKBONE.NAME and cfg.MODEL.FPN != get_cfg().MODEL.FPN:
            raise ValueError("MODEL.FPN is set, but ScaleEqSegmentor does not read it; use MODEL.PYRAMID")
        backbone: Any = build_backbone(cfg)
        shapes = backbone.output_shape()
        head, aux_heads = build_sem_seg_head(cfg, shapes), auxiliary_heads(cfg, shapes)
        if hasattr(backbone, "keep_levels"):  # weights that nobody reads would get no gradient
            backbone.keep_levels({*getattr(head, "in_features", shapes), *aux_heads})
        return {
            "backbone": backbone,
            "sem_seg_head": head,
            "aux_heads": aux_heads,
            "aux_losses": auxiliary_losses(cfg, getattr(backbone, "aux_loss_weights", {})),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """One dict per image: "image" (3, H, W); "sem_seg" (H, W) in training; "height" and "width" of the result.

        Returns:
            In training, name -> loss; else, per image, {"sem_seg": logits (num_classes, height, width)}.
        """
        images = self.preprocess(batched_inputs)
        size = images.tensor.shape[-2:]
        if self.training:
            targets = self._targets(batched_inputs, size)
            return self.losses(self.backbone(images.tensor), targets)
        logits = resize(self._inference_logits(images.tensor).float(), (size[0], size[1]))
        results = []
        for image_logits, record, image_size in zip(logits, batched_inputs, images.image_sizes, strict=True):
            height, width = record.get("height", image_size[0]), record.get("width", image_size[1])
            results.append({"sem_seg": sem_seg_postprocess(image_logits, image_size, height, width)})
        return results

    def preprocess(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """The images of a batch, normalised, and padded with zeros at the right and the bottom to one size."""
        images = [send(record["image"], self.device) for record in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        return ImageList.from_tensors(
            images, self.backbone.size_divisibility, padding_constraints=self.backbone.padding_constraints
        )

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """images: (N, 3, H, W), normalised -> (N, num_classes, h, w) at the head's stride."""
        return self.sem_seg_head.logits(self.backbone(images))

    def _inference_logits(self, images: torch.Tensor) -> torch.Tensor:
        """`logits` by the head's compiled path, where it has one."""
        head = self.sem_seg_head
        return getattr(head, "inference_logits", head.logits)(self.backbone(images))

    def losses(self, features: Mapping[str, Any], targets: torch.Tensor) -> dict[str, torch.Tensor]:
        """features: the backbone's; targets: (N, H, W) -> name -> loss, the auxiliary ones named after their level."""
        features = dict(features)
        aux_logits = features.pop("aux_logits", {})
        _, losses = self.sem_seg_head(features, targets)
        losses |= {f"loss_aux_{name}": loss(aux_logits[name], targets) for name, loss in self.aux_losses.items()}
        for level, head in self.aux_heads.items():
            _, auxiliary = head(features, targets)
            losses |= {f"{name}_aux_{level}": loss for name, loss in auxiliary.items()}
        return losses

    def pixel_count(self, batched_inputs: list[dict[str, Any]]) -> float:
        """What the mean over pixels of this batch's loss divides by; counted where the labels are, without padding."""
        loss = self.sem_seg_head.loss
        if loss.options.average_over != "all":  # then void pixels have no part in it, and the padding is void
            return sum(float(loss.pixel_count(labels)) for labels in map(_labels, batched_inputs))
        images = ImageList.from_tensors(
            [torch.empty_like(record["image"], device="meta") for record in batched_inputs],  # their sizes alone
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )
        return float(len(batched_inputs) * images.tensor[0, 0].numel())

    def calibration_inputs(self, batched_inputs: list[dict[str, Any]]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images (N, 3, H, W), and the share (N, 2) of height and width of each that is not padding (None: all)."""
        images = self.preprocess(batched_inputs)
        shares = torch.tensor(images.image_sizes) / torch.tensor(images.tensor.shape[-2:])
        return images.tensor, None if bool((shares == 1).all()) else shares

    def _targets(self, batched_inputs: list[dict[str, Any]], size: Sequence[int]) -> torch.Tensor:
        """(N, H, W) labels padded with the ignore label to the images' padded size."""
        shape = (len(batched_inputs), *size)
        padded = torch.full(shape, self.sem_seg_head.ignore_value, dtype=torch.int64, device=self.device)
        for target, labels in zip(padded, map(_labels, batched_inputs), strict=True):
            # Bytes travel as bytes, and become int64 on the device.
            target[: labels.shape[-2], : labels.shape[-1]] = send(labels, self.device)
        return padded


def _labels(record: dict[str, Any]) -> torch.Tensor:
    """(H, W); ValueError, naming the file, where there are none."""
    if "sem_seg" not in record:
        raise ValueError(f"{record.get('file_name', 'a sample')} has no 'sem_seg' labels to train on")
    return record["sem_seg"]


def auxiliary_losses(cfg: Any, weights: Mapping[str, float]) -> dict[str, SegmentationLoss]:
    """The losses of a backbone's "aux_logits": name -> the main head's loss with that weight, and without OHEM."""
    options = LossOptions.from_config(cfg).without_ohem()
    ignore_value = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    return {
        name: SegmentationLoss(ignore_value=ignore_value, weight=weight, options=options)
        for name, weight in weights.items()
    }
