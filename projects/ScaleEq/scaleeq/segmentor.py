"""ScaleEqSegmentor: image -> backbone -> head -> a map for each pixel, with Detectron2's batch format on both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from scaleeq.tasks import Task, build_tasks
from scaleeq.tasks import detectron2 as heads  # noqa: F401  (registers them)
from scaleeq.tasks.auxiliary import auxiliary_heads, auxiliary_losses
from scaleeq.tasks.head import SegmentationHead

from . import backbones  # noqa: F401  (registers them)
from .engine import (
    META_ARCH_REGISTRY,
    Backbone,
    ImageList,
    build_backbone,
    build_sem_seg_head,
    configurable,
    get_cfg,
)
from .names import check_names
from .ops import send


@META_ARCH_REGISTRY.register()
class ScaleEqSegmentor(nn.Module):
    """Semantic segmentation, or another dense task: normalises and pads the images, runs backbone and head, trains the
    auxiliary heads.

    Args:
        backbone: images (N, 3, H, W) -> level -> (N, C, H / stride, W / stride). In training it may add "aux_logits",
            name -> (N, num_classes, h, w), which become losses "loss_aux_<name>"; heads do not see them.
        sem_seg_head: a decoder with the task.
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
        (task,) = build_tasks(cfg).values()
        head, aux_heads = build_sem_seg_head(cfg, shapes), auxiliary_heads(cfg, task, shapes)
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
    def tasks(self) -> dict[str, Task]:
        """Name -> task: what training, inference and evaluation ask. There is one."""
        task = self.sem_seg_head.task
        return {task.name: task}

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """One dict per image: "image" (3, H, W); in training the task's target, as "sem_seg" (H, W); "height" and
        "width" of the result.

        Returns:
            In training, name -> loss; else, per image, {"sem_seg": logits (num_classes, height, width)}, or of another
            task its prediction.
        """
        images = self.preprocess(batched_inputs)
        size = images.tensor.shape[-2:]
        task = self.sem_seg_head.task
        if self.training:
            targets = task.targets(batched_inputs, size, self.device)
            return self.losses(self.backbone(images.tensor), targets)
        sizes = [
            (record.get("height", image_size[0]), record.get("width", image_size[1]))
            for record, image_size in zip(batched_inputs, images.image_sizes, strict=True)
        ]
        predictions = task.finish(self._inference_logits(images.tensor), size, images.image_sizes, sizes)
        return [{task.name: prediction} for prediction in predictions]

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
        """features: the backbone's; targets: (N, H, W), or as the task makes them -> name -> loss, the auxiliary ones
        named after their level.
        """
        features = dict(features)
        aux_logits = features.pop("aux_logits", {})
        _, losses = self.sem_seg_head(features, targets)
        losses |= {f"loss_aux_{name}": loss(aux_logits[name], targets) for name, loss in self.aux_losses.items()}
        for level, head in self.aux_heads.items():
            _, auxiliary = head(features, targets)
            losses |= {f"{name}_aux_{level}": loss for name, loss in auxiliary.items()}
        return losses

    def counts(self, batched_inputs: list[dict[str, Any]]) -> dict[str, float]:
        """Task -> what the mean over elements of this batch's loss divides by; counted where the targets are, without
        padding.
        """
        return {name: self._count(task, batched_inputs) for name, task in self.tasks.items()}

    def _count(self, task: Task, batched_inputs: list[dict[str, Any]]) -> float:
        if not task.counts_padding:  # then void pixels have no part in it, and the padding is void
            maps = (record.get(task.target_key) for record in batched_inputs)
            return sum(float(task.count(target)) for target in maps if target is not None)
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
