"""Every config key that ScaleEq adds to Detectron2's tree, once, with its unit and its source.

An empty string means "as the head, or NAME, implies". Values are checked where they are read (`from_config`), where the
error can name the valid choices; keys of Detectron2's own projects (DeepLab, MaskFormer) keep their names and meaning.
"""

from __future__ import annotations

from typing import Any


def add_scaleeq_config(cfg: Any) -> None:
    """Add ScaleEq's keys, with their defaults, to `cfg` (a CfgNode from get_cfg), in place."""
    node = type(cfg)
    _add_model_keys(cfg, node)
    _add_scale_equalizer_keys(cfg, node)
    _add_data_and_solver_keys(cfg)


def _add_model_keys(cfg: Any, node: Any) -> None:
    # Backbone: any model of timm that offers features_only.
    cfg.MODEL.TIMM = node()
    cfg.MODEL.TIMM.NAME = "resnet50"
    cfg.MODEL.TIMM.PRETRAINED = False  # ImageNet weights through timm's hub
    cfg.MODEL.TIMM.PRETRAINED_FILE = ""  # a local timm checkpoint, the alternative where the hub is out of reach
    cfg.MODEL.TIMM.DROP_PATH_RATE = 0.0  # stochastic depth, share of dropped paths in the last block

    head = cfg.MODEL.SEM_SEG_HEAD
    head.LOSS_TYPE = "cross_entropy"
    head.DROPOUT = 0.1  # share of channels dropped before the classifier (mmsegmentation's dropout_ratio)
    head.POOL_SCALES = [1, 2, 3, 6]  # cells per side of the pyramid pooling module's pooled maps (PSPNet)

    # Auxiliary FCN heads on single backbone levels, one weight per level; empty lists: none.
    cfg.MODEL.AUX_HEAD = node()
    cfg.MODEL.AUX_HEAD.IN_FEATURES = ["res4"]
    cfg.MODEL.AUX_HEAD.LOSS_WEIGHTS = [0.4]
    cfg.MODEL.AUX_HEAD.CONVS_DIM = 256

    cfg.MODEL.PYRAMID = node()
    cfg.MODEL.PYRAMID.NAME = ""  # "", "fpn"
    cfg.MODEL.PYRAMID.TRANSFER = ""  # top-down resizing: "", "bilinear", "nearest"

    # The head's final Fusion.
    cfg.MODEL.FUSION = node()
    cfg.MODEL.FUSION.TRANSFER = ""  # "", "bilinear", "nearest"
    cfg.MODEL.FUSION.COMBINE = ""  # "", "concat", "sum"

    cfg.MODEL.LOSS = node()
    cfg.MODEL.LOSS.CLASS_WEIGHTS = []  # one factor per class; empty: all 1
    cfg.MODEL.LOSS.AVERAGE_OVER = (
        "valid"  # "valid": pixels that carry a label; "all": every pixel (mmsegmentation's recipes)
    )


def _add_scale_equalizer_keys(cfg: Any, node: Any) -> None:
    # Scale equalizers (arXiv 2402.01149).
    cfg.MODEL.SCALE_EQUALIZER = node()
    equalizer = cfg.MODEL.SCALE_EQUALIZER
    equalizer.ENABLED = False
    equalizer.SCOPE = "head"  # "head": every Fusion that the head owns, as the paper; "all": the pyramid's too
    equalizer.IMPLEMENTATION = "reparametrize"  # "reparametrize", "module"
    equalizer.GRANULARITY = "branch"  # "branch": one scalar pair per branch (the paper); "channel"
    equalizer.STATISTIC = "std"  # "std": (b - mean) / std (the paper); "rms": b / root mean square
    equalizer.STATISTICS_OF = "upsampled"  # "upsampled" (the paper); "source": before the transfer, for the ablation
    equalizer.NUM_IMAGES = 0  # 0: until each std is known to 1 % (32 to 512 images); n; -1: the whole training set
    equalizer.STATISTICS_PERIOD = 100  # iterations between two records of the branch statistics; 0: never


def _add_data_and_solver_keys(cfg: Any) -> None:
    # DeepLab's keys: a crop in which one class covers more than this share of the labelled pixels is drawn again.
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    # MaskFormer's key: SSD's photometric distortion.
    cfg.INPUT.COLOR_AUG_SSD = False
    cfg.SOLVER.OPTIMIZER = "SGD"  # "SGD", "ADAMW"
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0  # learning rate of the backbone / BASE_LR
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0  # of learned position tables (MaskFormer's key)
    cfg.SOLVER.POLY_LR_POWER = 0.9
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.0  # a floor of the learning rate / BASE_LR
