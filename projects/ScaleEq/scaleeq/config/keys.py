"""Every config key that ScaleEq adds to Detectron2's tree, once, with its unit and its source.

An empty string means "as the head, or NAME, implies". ranges.py says which values can be meant; keys of Detectron2's
own projects (DeepLab, MaskFormer) keep their names and meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yacs.config import CfgNode


def add_scaleeq_config(cfg: CfgNode) -> None:
    """Add ScaleEq's keys, with their defaults, to `cfg` (a CfgNode from get_cfg), in place."""
    node = type(cfg)
    _add_model_keys(cfg, node)
    _add_scale_equalizer_keys(cfg, node)
    _add_data_and_solver_keys(cfg, node)


def _add_model_keys(cfg: CfgNode, node: type[CfgNode]) -> None:
    # Backbone: any model of timm that offers features_only.
    cfg.MODEL.TIMM = node()
    cfg.MODEL.TIMM.NAME = "resnet50"
    cfg.MODEL.TIMM.PRETRAINED = False  # ImageNet weights through timm's hub
    cfg.MODEL.TIMM.PRETRAINED_FILE = ""  # a local timm checkpoint, the alternative where the hub is out of reach
    cfg.MODEL.TIMM.DROP_PATH_RATE = 0.0  # stochastic depth, share of dropped paths in the last block
    cfg.MODEL.TIMM.WIDTH_MULTIPLIER = 1.0  # of an EfficientNet-B0's channels
    cfg.MODEL.TIMM.DEPTH_MULTIPLIER = 1.0  # of its number of blocks
    cfg.MODEL.TIMM.BN_MOMENTUM = 0.0  # of every batch norm, torch's definition (TensorFlow's 0.99 is 0.01); 0: timm's
    cfg.MODEL.TIMM.NORM = ""  # "FrozenBN": its batch norms are constants, as in Detectron2's backbones; "": they train
    cfg.MODEL.TIMM.OUTPUT_STRIDE = 32  # pixels; 8 or 16: dilated convolutions instead of larger strides (DeepLab)
    cfg.MODEL.TIMM.LEVEL_NORM = False  # a layer norm on each level (mmsegmentation's Swin, ConvNeXt and Twins-SVT)

    cfg.MODEL.GATE = "paper"  # of every gate: "paper" (conv, sigmoid), "reference" (conv, BN, ReLU, sigmoid)
    _add_vit_keys(cfg, node)
    _add_hrnet_keys(cfg, node)

    head = cfg.MODEL.SEM_SEG_HEAD
    head.LOSS_TYPE = "cross_entropy"
    head.DROPOUT = 0.1  # share of channels dropped before the classifier (mmsegmentation's dropout_ratio)
    head.POOL_SCALES = [1, 2, 3, 6]  # cells per side of the pyramid pooling module's pooled maps (PSPNet)
    head.CONTEXT_GATE = False  # gates, of kind MODEL.GATE, in pyramid and atrous pooling (our reading of GSTO)
    # DeepLab's keys.
    head.ASPP_DILATIONS = []  # beside the 1x1 convolution; empty: [6, 12, 18] at output stride 16, scaled with others
    head.ASPP_CHANNELS = 0  # width of the atrous pooling; 0: CONVS_DIM
    head.PROJECT_CHANNELS = [48]  # of the low level

    # Auxiliary FCN heads on single backbone levels, one weight per level; empty lists: none.
    cfg.MODEL.AUX_HEAD = node()
    cfg.MODEL.AUX_HEAD.IN_FEATURES = ["res4"]
    cfg.MODEL.AUX_HEAD.LOSS_WEIGHTS = [0.4]
    cfg.MODEL.AUX_HEAD.CONVS_DIM = 256

    _add_task_keys(cfg, node)
    _add_pyramid_keys(cfg, node)

    # The head's final Fusion.
    cfg.MODEL.FUSION = node()
    # "", "bilinear", "nearest", "bicubic", "bilinear_corners", "gated", "supervised_gated", "aligned"
    cfg.MODEL.FUSION.TRANSFER = ""
    cfg.MODEL.FUSION.COMBINE = ""  # "", "concat", "sum", "softmax", "fast_normalized"
    # Of every Fusion, and of the loss on upsampled logits: "": exact rewrites that take less time and memory, equal to
    # rounding; "plain": as the formulas are written, as runs of before had it.
    cfg.MODEL.FUSION.EVALUATE = ""

    _add_detector_keys(cfg, node)
    if "POINT_HEAD_ON" not in cfg.MODEL.ROI_MASK_HEAD:
        cfg.MODEL.ROI_MASK_HEAD.POINT_HEAD_ON = False  # PointRend's key, which its project adds with others
    _add_loss_keys(cfg, node)
    _add_dense_task_keys(cfg, node)

    cfg.MODEL.WEIGHTS_STRICT = True  # False: of MODEL.WEIGHTS, load what fits and list the rest (a new NUM_CLASSES)
    cfg.MODEL.CHANNELS_LAST = False  # memory format of convolutions and maps
    cfg.MODEL.COMPILE = False  # torch.compile for backbone and heads


def _add_task_keys(cfg: CfgNode, node: type[CfgNode]) -> None:
    # What is predicted: a task's name is also its group of results, its key in a sample and its losses' suffix. One
    # task has the keys "sem_seg_head.*" in a checkpoint; several have "decoders.*" and "tasks.*", and the keys below.
    cfg.MODEL.TASKS = node()
    tasks = cfg.MODEL.TASKS
    tasks.NAMES = ["sem_seg"]
    tasks.HEADS = []  # of each task in the order of NAMES, a name as SEM_SEG_HEAD.NAME; empty: that one for all
    # What the tasks have in common: "backbone"; "pyramid": that too, where heads have one, with the context before it,
    # and the rest of a decoder for each task; "decoder": all but the predictors.
    tasks.SHARE = "pyramid"
    tasks.WEIGHTS = []  # factor on each task's losses, in the order of NAMES; empty: all 1
    # "fixed": WEIGHTS; "uncertainty": the total is the sum of loss / (2 exp(s)) + s / 2 with one s a task, learned from
    # -0.5 without weight decay (arXiv 1705.07115 in the form of LibMTL; the total may be negative); "pcgrad": WEIGHTS,
    # and of gradients of shared parameters that contradict each other, that part is taken out (arXiv 2001.06782).
    tasks.WEIGHTING = "fixed"
    # "": none; "pad_net": each task predicts twice, the second time from its map and all others' first predictions,
    # with the losses of both (arXiv 1805.04409, attention-guided); or a name that `register_interaction` was told.
    tasks.INTERACTION = ""


def _add_pyramid_keys(cfg: CfgNode, node: type[CfgNode]) -> None:
    cfg.MODEL.PYRAMID = node()
    pyramid = cfg.MODEL.PYRAMID
    pyramid.NAME = ""  # "", "none", "fpn", "fapn", "bifpn"
    pyramid.CHANNELS = 0  # width of every level
    pyramid.NORM = ""  # "": SEM_SEG_HEAD.NORM; none for the FPN and FaPN of a SemanticFPNHead
    # What brings a level to CHANNELS: "conv" (1x1), "select" (FaPN's FSM), "squeeze_excite" (its ablation).
    pyramid.LATERAL = ""
    # Top-down resizing: "", "bilinear", "nearest", "bicubic", "bilinear_corners" (align_corners True), "deconv",
    # "gated" (of kind MODEL.GATE), "aligned" (FaPN's FAM), "aligned_self" (its offsets from the upsampled map alone),
    # "aligned_realtime".
    pyramid.TRANSFER = ""
    pyramid.DOWN_TRANSFER = ""  # bottom-up resizing of a BiFPN: "", "max", "avg"
    pyramid.COMBINE = ""  # "", "sum", "softmax", "fast_normalized"
    pyramid.OUTPUT_CONVS = []  # number of 3x3 convolutions on each level's output, finest level first
    pyramid.OUT_FEATURES = []  # levels that leave an "fpn" or "fapn", the finest among them; empty: all
    pyramid.RECURSION = ""  # a level continues from the "merged" map above, or after its 3x3: "smoothed" (MaskFormer)
    pyramid.REPEATS = 0  # cells of a BiFPN
    # Of a backbone with a pyramid (MODEL.BACKBONE.NAME build_scaleeq_pyramid_backbone): the backbone below it, a
    # registered name, and the levels beyond it: "max_pool" (one), "convs_from_res5", "convs_from_p5" (two).
    pyramid.BOTTOM_UP = ""
    pyramid.EXTRA_LEVELS = ""


def _add_detector_keys(cfg: CfgNode, node: type[CfgNode]) -> None:
    # Of META_ARCHITECTURE TorchvisionDetector: torchvision's detectors on a backbone with a pyramid.
    cfg.MODEL.DETECTOR = node()
    detector = cfg.MODEL.DETECTOR
    detector.NAME = "mask_rcnn"  # "faster_rcnn", "mask_rcnn", "retinanet", "fcos"
    detector.NUM_CLASSES = 80  # of objects, without background
    detector.SCORE_THRESH = 0.05  # of a detection; below it none is kept
    detector.ANCHOR_SIZES = []  # one a level, finest first, pixels; empty: 32, 64, 128, ...; FCOS has none
    detector.REGIONS_PER_IMAGE = 512  # sampled to train the heads of Faster and Mask R-CNN
    detector.BOX_DIM = 1024  # width of their box head
    detector.MASK_DIM = 256  # width of the mask head
    # The label of each class of objects in the map of labels of the task sem_seg: then the two make panoptic segments,
    # by MODEL.PANOPTIC_FPN.COMBINE. Empty: none.
    detector.THING_LABELS = []


def _add_vit_keys(cfg: CfgNode, node: type[CfgNode]) -> None:
    # Of build_vit_backbone, on the plain ViT that MODEL.TIMM names: levels are its blocks, "layer1", "layer2", ...
    cfg.MODEL.VIT = node()
    cfg.MODEL.VIT.PYRAMID = ""  # "simple": "res2" to "res5", strides 4 to 32, made of the last block (ViTDet)
    cfg.MODEL.VIT.PYRAMID_CHANNELS = 256  # width of its levels
    cfg.MODEL.VIT.PATCH_SIZE = 0  # pixels, a level's stride; other weights are resampled to it; 0: the model's own
    cfg.MODEL.VIT.FINAL_NORM = False  # the model's last norm on each level (DINOv2)


def _add_hrnet_keys(cfg: CfgNode, node: type[CfgNode]) -> None:
    # (GSTO-)HRNet (arXiv 2005.13363, 1908.07919), on the HRNet that MODEL.TIMM names.
    cfg.MODEL.HRNET = node()
    hrnet = cfg.MODEL.HRNET
    # Gates of kind MODEL.GATE: "unsupervised" on every path of every fuse layer, "supervised" at the transitions to a
    # third and a fourth branch, "both", or "none" (HRNetV2).
    hrnet.GATES = "both"
    hrnet.TRANSFER = "bilinear"  # upsampling in the fuse layers: "bilinear" (the papers), "nearest" (timm)
    hrnet.AUX_LOSS_WEIGHTS = [0.3, 0.5]  # of the class logits after stage 2 and 3, which the supervised gates read


def _add_loss_keys(cfg: CfgNode, node: type[CfgNode]) -> None:
    cfg.MODEL.LOSS = node()
    loss = cfg.MODEL.LOSS
    loss.CLASS_WEIGHTS = []  # one factor per class; empty: all 1
    loss.AVERAGE_OVER = "valid"  # "valid": pixels that carry a label; "all": every pixel (mmsegmentation's recipes)
    loss.LABEL_SMOOTHING = 0.0  # share of the target that is spread over all classes
    loss.FOCAL_GAMMA = 0.0  # exponent of (1 - p) on each pixel's loss (arXiv 1708.02002); 0: cross entropy
    loss.OHEM = "off"  # "off", "top_k" (DeepLab: the hardest share of the pixels), "threshold" (HRNet, mmsegmentation)
    loss.OHEM_TOP_K = 0.25  # "top_k": share of the valid pixels that is kept
    loss.OHEM_ANNEAL_ITERS = 0  # "top_k": iterations in which the share goes from 1 to OHEM_TOP_K
    loss.OHEM_THRESHOLD = 0.7  # "threshold": pixels with a lower probability of their class are kept; 0: MIN_KEPT alone
    loss.OHEM_MIN_KEPT = 100000  # "threshold": at least so many pixels an image
    loss.DICE_WEIGHT = 0.0  # of a Dice loss beside the cross entropy (arXiv 1606.04797)
    loss.LOVASZ_WEIGHT = 0.0  # of a Lovasz-softmax loss beside the cross entropy (arXiv 1705.08790)


def _add_dense_task_keys(cfg: CfgNode, node: type[CfgNode]) -> None:
    # Where the predictions of a task start, and how its loss is balanced.
    cfg.MODEL.DEPTH = node()
    cfg.MODEL.DEPTH.MEAN = 3.0  # metres, of the training set
    for task, weight, frequency in (("EDGES", 0.95, 0.05), ("SALIENCY", 0.0, 0.25)):
        cfg.MODEL[task] = node()
        # Of the cross entropy of marked pixels, 1 minus it is the others'; 0: each image's share of the others (HED).
        cfg.MODEL[task].POSITIVE_WEIGHT = weight
        cfg.MODEL[task].FREQUENCY = frequency  # share of marked pixels in the training set


def _add_scale_equalizer_keys(cfg: CfgNode, node: type[CfgNode]) -> None:
    # Scale equalizers (arXiv 2402.01149).
    cfg.MODEL.SCALE_EQUALIZER = node()
    equalizer = cfg.MODEL.SCALE_EQUALIZER
    equalizer.ENABLED = False
    equalizer.SCOPE = "head"  # "head": every Fusion that the head owns, as the paper; "all": the pyramid's too
    equalizer.IMPLEMENTATION = "reparametrize"  # "reparametrize", "module", "init" (the paper), "init_scaled"
    equalizer.GRANULARITY = "branch"  # "branch": one scalar pair per branch (the paper); "channel"
    # "std": (b - mean) / std (the paper); "rms": b / root mean square; "grad": as "std", but divided by what makes the
    # first gradients of all branches' weights equally large (no method of the paper).
    equalizer.STATISTIC = "std"
    equalizer.STATISTICS_OF = "upsampled"  # "upsampled" (the paper); "source": before the transfer, for the ablation
    # What an experiment puts in the equalizer's place (equalization/controls.py): "", "common", "permuted", "balanced",
    # "batch_norm", "learnable", "learnable_from_std", "noise", "learning_rate".
    equalizer.CONTROL = ""
    equalizer.NUM_IMAGES = 0  # 0: until each std is known to 1 % (32 to 512 images); n; -1: the whole training set
    equalizer.STATISTICS_PERIOD = 100  # iterations between two records of the branch statistics; 0: never


def _add_data_and_solver_keys(cfg: CfgNode, node: type[CfgNode]) -> None:
    cfg.DATASETS.TRAIN_FRACTION = 1.0  # share of each data set's images to train on, spread evenly over its list
    cfg.DATASETS.ALLOW_OVERLAP = False  # True: an image may be in TRAIN and in TEST, to overfit on purpose
    # Shares of the sets of DATASETS.TRAIN among the samples, in proportion, each set in its own epochs; empty: every
    # image of all sets once an epoch.
    cfg.DATALOADER.WEIGHTS = []
    # DeepLab's keys: a crop in which one class covers more than this share of the labelled pixels is drawn again.
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    # MaskFormer's key: SSD's photometric distortion.
    cfg.INPUT.COLOR_AUG_SSD = False
    cfg.INPUT.AUGMENTATION = ""  # a user's function, "module:function", after all of INPUT's; empty: none
    cfg.SOLVER.OPTIMIZER = "SGD"  # "SGD", "ADAMW"
    cfg.SOLVER.FUSED = True  # the optimizer's step as one kernel, where torch has it; False: operation by operation
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0  # learning rate of the backbone / BASE_LR
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0  # of learned position tables (MaskFormer's key)
    cfg.SOLVER.POLY_LR_POWER = 0.9
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.0  # a floor of the learning rate / BASE_LR
    cfg.SOLVER.LAYER_DECAY = 1.0  # factor on the learning rate per backbone layer, counted from the head down; 1: none
    cfg.SOLVER.LAYER_DECAY_BY = "stage"  # what a layer is: "stage", "block"
    cfg.SOLVER.LAYER_DECAY_LAYERS = 0  # layers to count from; 0: as many as the backbone has
    cfg.SOLVER.ACCUMULATE = 1  # forward and backward passes per step; IMS_PER_BATCH stays the effective batch
    cfg.SOLVER.EMA_DECAY = 0.0  # of an average of the weights, which is what is evaluated; 0: none
    cfg.SOLVER.AMP.DTYPE = "bfloat16"  # "bfloat16", "float16" (with a loss scaler)
    cfg.SOLVER.KEEP_CHECKPOINTS = 3  # the newest so many, beside model_best and model_final; 0: all
    cfg.SOLVER.KEEP_WEIGHTS_ALONE = False  # of these, all but the newest have their evaluated weights alone
    cfg.SOLVER.KEEP_LINKED = False  # model_final is a hard link to the last of these, where both are of one iteration
    cfg.SOLVER.EARLY_STOP_PATIENCE = 0  # evaluations without a better mIoU after which training ends; 0: never
    _add_test_keys(cfg, node)
    cfg.DETERMINISTIC = False  # deterministic algorithms alone, where torch has them
    # Weights & Biases as one more writer.
    cfg.WANDB = node()
    cfg.WANDB.ENABLED = False
    cfg.WANDB.PROJECT = "scaleeq"
    cfg.WANDB.NAME = ""  # of the run; empty: OUTPUT_DIR


def _add_test_keys(cfg: CfgNode, node: type[CfgNode]) -> None:
    test = cfg.TEST
    test.VALIDATION_LOSS = False  # also the cross entropy over the valid pixels of DATASETS.TEST
    # What becomes of a class that is in no truth: "exclude": left out, but 0 where it is predicted (mmsegmentation,
    # torchmetrics, cityscapesscripts); "zero" (ADE20K's devkit); "one" where it is not predicted either
    # (segmentation_models_pytorch); "truth": left out, predicted or not (Detectron2).
    test.ABSENT_CLASSES = "exclude"
    # The metric that picks the best weights and stops early: task/metric, as "depth/rmse" or "multi_task/delta_m".
    # Empty: the headline of the first of MODEL.TASKS.NAMES.
    test.BEST_METRIC = ""
    # With several tasks: a JSON file {task: {metric: value}} of models with one task each, to compare with: the results
    # then have multi_task/delta_m, in percent (arXiv 2004.13379). Empty: none.
    test.SINGLE_TASK_RESULTS = ""
    test.BOUNDARY = False  # also trimap mIoU, boundary F-score and boundary IoU
    test.OUTPUT = []  # written under OUTPUT_DIR/inference: "labels", "overlays", "submission"
    # Which pixels of a depth map are scored; the work on several tasks has no crop and no limits, that on depth both.
    test.DEPTH = node()
    test.DEPTH.CROP = ""  # "", "eigen_nyu": rows 45 to 470, columns 41 to 600 of 480 x 640
    test.DEPTH.MIN = 0.0  # metres; only farther pixels count
    test.DEPTH.MAX = 0.0  # metres; only nearer pixels count; 0: no limit
    test.EDGES = node()
    test.EDGES.MATCH = True  # odsF and oisF, by matching (0.05 to 0.5 s an image); False: the F of plain pixels alone
    test.EDGES.MAX_DISTANCE = 0.0075  # of a match, share of the diagonal; 0.011 on NYUD
    # What maxF is: "pooled_19": counts of all images, 19 thresholds (ATRC); "pooled_255"; "images_15": precision and
    # recall averaged over images, 15 thresholds (MTI-Net).
    test.SALIENCY = node()
    test.SALIENCY.MAX_F = "pooled_19"
    # Sliding window, in pixels of the image that the model sees: one number, or height and width. Empty: whole image.
    test.SLIDE = node()
    test.SLIDE.WINDOW = []
    test.SLIDE.STRIDE = []  # empty: two thirds of the window
    test.SLIDE.AGGREGATE_ON = "device"  # "device", "cpu": where the logits of all windows are added up
    # With TEST.AUG.ENABLED (and .FLIP, Detectron2's keys): the scales of the image whose predictions are averaged.
    test.AUG.SCALES = [1.0]
    test.AUG.COMBINE = "softmax"  # "softmax": the mean of probabilities; "exp_sum": the sum of exp(logits) (GSTO)
