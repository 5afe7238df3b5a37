"""The numbers that the four papers publish, each with the config that would give it; tables.py prints them.

Sources are the papers' tables and, where it says README, their authors' repositories. A number without a config needs
what is not here: a ResNet-101 detector's config, a transformer decoder, a test server, another data set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

FAPN, ESEG, GSTO, EQUALIZATION = "2108.07058", "2203.12683", "2005.13363", "2402.01149"
COUNTS = "counts.json"
NO_CONFIG = "-"


@dataclass(frozen=True)
class Number:
    """One result of a config, by its name: `expected` with its source, and the evidence file in docs/results.

    evidence: "" or absent: not run.
    """

    config: str
    what: str
    expected: str
    source: str
    evidence: str


def of_configs(
    source: str, what: str, expected: Mapping[str, str], *, evidence: str | None = None
) -> tuple[Number, ...]:
    """Numbers of one kind: "cityscapes/eseg_s" -> what is expected. Their evidence is named after them by default."""
    return tuple(
        Number(
            name,
            what,
            value,
            source,
            f"{re.sub('[/+]', '_', name)}.json" if evidence is None else evidence,
        )
        for name, value in expected.items()
    )


def elsewhere(source: str, what: str, expected: str) -> Number:
    """A number for which there is no config."""
    return Number(NO_CONFIG, what, expected, source, "")


SEMFPN = "cityscapes/semfpn_"
PUBLISHED = (
    *of_configs(
        FAPN,
        "Cityscapes val mIoU",
        {
            f"{SEMFPN}r50_fpn": "77.4",
            f"{SEMFPN}r50_fpn_extra3x3": "77.5",
            f"{SEMFPN}r101_fpn": "78.9",
            f"{SEMFPN}r50_fpn_fam": "79.7",
            f"{SEMFPN}r50_fpn_fam_squeeze_excite": "78.8",
            f"{SEMFPN}r50_fapn": "80.0 (iIoU 61.3)",
            f"{SEMFPN}r50_fpn_deconv_fsm": "76.7 or 79.3 (not known which)",
            f"{SEMFPN}r50_fapn_no_offset_conv": "79.3 or 76.7 (not known which)",
            f"{SEMFPN}r101_fapn": "80.1 (iIoU 62.2), README",
        },
    ),
    *of_configs(
        FAPN,
        "parameters, M",
        {
            f"{SEMFPN}r50_fpn": "28.6",
            f"{SEMFPN}r50_fpn_extra3x3": "33.4",
            f"{SEMFPN}r101_fpn": "47.6",
            f"{SEMFPN}r50_fapn": "33.1",
            f"{SEMFPN}r50_fpn_deconv_fsm": "32.7",
            f"{SEMFPN}r50_fapn_no_offset_conv": "32.7",
        },
        evidence=COUNTS,
    ),
    *of_configs(
        FAPN,
        "boundary mIoU at 3, 5, 8, 12 px",
        {
            f"{SEMFPN}r50_fpn": "46.9 53.6 59.3 63.8",
            f"{SEMFPN}r50_fapn": "49.2 56.2 62.0 66.4",
            f"{SEMFPN}r101_fpn": "47.8 54.6 60.5 64.9",
            f"{SEMFPN}r101_fapn": "50.1 57.1 62.9 67.2",
        },
        evidence="",
    ),
    *of_configs(
        FAPN,
        "Cityscapes val / test mIoU, frames a second",
        {
            "cityscapes/fapn_realtime_r18": "69.2 / 68.8, 142 (512x1024); 75.6 / 75.0, 78.1 (768x1536)",
            "cityscapes/fapn_realtime_r34": "78.5 / 78.1, 30.2 (1024x2048)",
        },
    ),
    elsewhere(FAPN, "COCO-Stuff-10k mIoU, real time, R18 / R34", "28.4 (154 frames a second) / 30.3 (110)"),
    *of_configs(
        FAPN,
        "COCO val AP of boxes / masks, or PQ, 1x, README",
        {
            "coco/faster_rcnn_r50+fapn": "39.2 (small 24.5)",
            "coco/mask_rcnn_r50+fapn": "39.8 / 36.4",
            "coco/pointrend_rcnn_r50+fapn": "39.4 / 37.6",
            "coco/panoptic_fpn_r50+fapn": "41.1 (things 46.9, stuff 32.5)",
        },
    ),
    elsewhere(FAPN, "Faster R-CNN R101-3x box AP; Mask R-CNN mask / box AP; PanopticFPN PQ", "42.8; 39.4 / 43.8; 44.2"),
    elsewhere(FAPN, "PanopticFCN R50-1x, R50-600-3x PQ", "41.8, 43.5"),
    elsewhere(FAPN, "MaskFormer Swin-L, ADE20K mIoU (several scales)", "55.2 (56.7)"),
    elsewhere(FAPN, "MaskFormer R101, COCO-Stuff-10k mIoU (several scales)", "39.6 (40.6)"),
    *of_configs(
        ESEG,
        "Cityscapes val mIoU (with extra data)",
        {
            "cityscapes/eseg_s": "80.1 (81.7)",
            "cityscapes/eseg_m": "81.6 (83.7)",
            "cityscapes/eseg_l": "82.6 (84.8)",
            "cityscapes/eseg_lite_s": "76.0, 189 frames a second",
            "cityscapes/eseg_lite_l": "80.1, 79 frames a second",
        },
    ),
    *of_configs(
        ESEG,
        "parameters, M",
        {"cityscapes/eseg_s": "6.9", "cityscapes/eseg_m": "20.0", "cityscapes/eseg_l": "70.5"},
        evidence=COUNTS,
    ),
    *of_configs(
        ESEG,
        "multiply-adds, G",
        {"cityscapes/eseg_s": "34.5"},
        evidence=COUNTS,
    ),
    *of_configs(
        ESEG,
        "ADE20K val mIoU / pixel accuracy, with extra data",
        {"ade20k/eseg_m": "46.0 / 81.3", "ade20k/eseg_l": "48.2 / 81.8"},
    ),
    *of_configs(GSTO, "Cityscapes val mIoU", {"cityscapes/gsto_hrnet_w48": "82.1, README"}),
    elsewhere(GSTO, "Cityscapes test mIoU / iIoU / IoU cat. / iIoU cat.; train", "81.8 / 62.3 / 92.1 / 81.7"),
    elsewhere(GSTO, "the same; train and val, OHEM", "82.4 / 63.8 / 92.4 / 83.3"),
    elsewhere(GSTO, "LIP pixel accuracy / mean accuracy / mIoU", "88.38 / 68.36 / 57.4, README"),
    elsewhere(GSTO, "COCO pose AP, W32 / W48", "76.5 / 76.7, README"),
    elsewhere(EQUALIZATION, "mean gain in mIoU over decoders, backbones and data sets", "+0.1 to +0.4"),
)


@dataclass(frozen=True)
class JointNumber:
    """What a model of several tasks reaches on a set.

    figures: task/metric -> value, as printed. source: with its mark, where there is one.
    """

    dataset: str
    model: str
    figures: Mapping[str, str]
    source: str


JOINT_COLUMNS = {
    "nyud_mt": ("sem_seg/mIoU", "depth/rmse", "normals/mean", "edges/odsF"),
    "pascal_mt": ("sem_seg/mIoU", "human_parts/mIoU", "saliency/maxF", "normals/mean", "edges/odsF"),
}
INVPT = "2203.07997"
MEMORY = "[memory]"  # known, but not read again in the source: to be checked before it is used


def joint(dataset: str, model: str, figures: str, source: str) -> JointNumber:
    """figures: in the order of JOINT_COLUMNS, "-" where there is none."""
    return JointNumber(dataset, model, dict(zip(JOINT_COLUMNS[dataset], figures.split(), strict=True)), source)


JOINT = (
    joint("nyud_mt", "survey, HRNet18, single tasks", "38.02 0.6104 - -", f"2004.13379 {MEMORY}"),
    joint("nyud_mt", "survey, HRNet18, two tasks", "36.35 0.6284 - -", f"2004.13379 {MEMORY}"),
    joint("nyud_mt", "survey, ResNet-50, single tasks", "43.9 0.585 - -", f"2004.13379 {MEMORY}"),
    joint("nyud_mt", "survey, ResNet-50, two tasks", "44.4 0.587 - -", f"2004.13379 {MEMORY}"),
    joint("nyud_mt", "MTAN, ResNet-50, two tasks", "45.0 0.584 - -", f"2004.13379 {MEMORY}"),
    joint("nyud_mt", "Cross-Stitch", "36.34 0.629 20.88 76.38", MEMORY),
    joint("nyud_mt", "PAD-Net", "36.61 0.627 20.85 76.38", f"1805.04409 {MEMORY}"),
    joint("nyud_mt", "PAP", "36.72 0.618 20.82 76.42", MEMORY),
    joint("nyud_mt", "PSD", "36.69 0.625 20.87 76.42", MEMORY),
    joint("nyud_mt", "MTI-Net, HRNet48", f"45.97 0.5365{MEMORY} 20.27 77.86", "2001.06902"),
    joint("nyud_mt", "ATRC, HRNet48", "46.33 0.5363 20.18 77.94", f"2104.13874, by {INVPT}'s README"),
    joint("nyud_mt", "InvPT, ViT-L", "53.56 0.5183 19.04 78.10", INVPT),
    joint("nyud_mt", "InvPT, ViT-L, reproduced", "53.65 0.5083 18.68 77.80", f"{INVPT}, README"),
    joint("pascal_mt", "ATRC", "67.67 62.93 82.29 14.24 72.42", f"2104.13874, by {INVPT}'s README"),
    joint("pascal_mt", "InvPT, ViT-L", "79.03 67.61 84.81 14.15 73.00", INVPT),
    joint("pascal_mt", "InvPT, ViT-L, reproduced", "79.91 68.54 84.38 13.90 72.90", f"{INVPT}, README"),
    joint("pascal_mt", "TaskPrompter, ViT-L", "80.89 68.89 84.83 13.72 73.50", f"ICLR 2023 {MEMORY}"),
)
JOINT_RECIPES = ("fcn_hrnet18", "uper_r50", "uper_swin_tiny")
