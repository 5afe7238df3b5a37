"""tools/train_detection.py: Detectron2's own training of a detector on a pyramid of this project, on the COCO pictures
that are at hand; and that our own training names it.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from scaleeq import engine
from scaleeq.config.detection import DETECTRON2_DETECTORS, other_training
from tests.detection.small import SMALL

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "train_detection.py"
needs_detectron2 = pytest.mark.skipif(engine.NAME != "detectron2", reason="the DefaultTrainer of the real Detectron2")


def write_coco(folder: Path, number: int = 4) -> None:
    """A data set in COCO's layout: pictures with bright rectangles of two classes, as boxes and polygons."""
    import cv2

    generator = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(number):
        picture = generator.integers(0, 60, (64, 96, 3)).astype(np.uint8)
        for k in range(2):
            x, y, w, h = 8 + 44 * k, 10 + 3 * i, 30, 24
            picture[y : y + h, x : x + w, k] = 220
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": 1 + 4 * k,
                    "bbox": [x, y, w, h],
                    "iscrowd": 0,
                }
                | {"area": w * h, "segmentation": [corners]}
            )
        cv2.imwrite(str(folder / f"{i}.jpg"), picture)
        images.append({"id": i, "file_name": f"{i}.jpg", "height": 64, "width": 96})
    categories = [{"id": 1, "name": "blue"}, {"id": 5, "name": "green"}]
    (folder / "set.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("train_detection", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words_of(folder: Path, name: str, *options: str) -> list[str]:
    small = SMALL | {"MODEL.ROI_HEADS.NUM_CLASSES": 2, "SOLVER.IMS_PER_BATCH": 2, "DATALOADER.NUM_WORKERS": 0}
    small |= {"DATASETS.TRAIN": ("tiny_coco",), "DATASETS.TEST": ("tiny_coco",), "SOLVER.MAX_ITER": 2, "SEED": 1}
    small |= {"INPUT.MIN_SIZE_TRAIN": (64,), "INPUT.MIN_SIZE_TEST": 64, "SOLVER.STEPS": (), "SOLVER.WARMUP_ITERS": 0}
    small |= {"MODEL.SCALE_EQUALIZER.NUM_IMAGES": 4, "MODEL.SCALE_EQUALIZER.STATISTICS_PERIOD": 1}
    small |= {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0}
    small |= {"SOLVER.BASE_LR": 0.001}  # at 0.02 it ended without a box on one processor, and with some on another
    pairs = [str(word) for pair in small.items() for word in pair]
    coco = ["--coco", "tiny_coco", str(folder / "set.json"), str(folder)]
    return ["--config-file", name, *coco, *pairs, "OUTPUT_DIR", str(folder / "run"), *options]


@needs_detectron2
def test_it_trains_resumes_and_evaluates(tmp_path, tool):
    from detectron2.data import DatasetCatalog, MetadataCatalog

    write_coco(tmp_path)
    parse = tool.arguments().parse_args
    try:
        name = "coco/mask_rcnn_r50+fapn+scale_equalizer"
        tool.main(parse(words_of(tmp_path, name)))
        statistics = json.loads((tmp_path / "run" / "scale_statistics.json").read_text())
        assert list(statistics["fusions"]) == [f"backbone.pyramid.merges.res{i}" for i in (4, 3, 2)]
        assert statistics["fusions"].keys() == statistics["at_end"]["fusions"].keys()
        assert list(statistics["at_end"]["outputs"]) == ["p2", "p3", "p4", "p5", "p6", "spread"]
        assert statistics["at_start"]["outputs"]["p5"]["std"] > 0
        lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
        assert all(math.isfinite(line["scale/outputs/p2/std"]) for line in lines if "total_loss" in line)
        assert {"bbox/AP", "segm/AP50"} <= lines[-1].keys()
        weights = torch.load(tmp_path / "run" / "model_final.pth", weights_only=False)["model"]
        calibrated = {n: v for n, v in weights.items() if n.endswith("equalizers.lateral.std")}
        assert len(calibrated) == 3 and all((value != 1).all() for value in calibrated.values())
        # A run that goes on keeps its statistics.
        tool.main(parse(["--resume", *words_of(tmp_path, name, "SOLVER.MAX_ITER", "3")]))
        weights = torch.load(tmp_path / "run" / "model_final.pth", weights_only=False)["model"]
        assert all(torch.equal(weights[n], value) for n, value in calibrated.items())
        file = str(tmp_path / "run" / "model_final.pth")
        again = tool.main(parse(["--eval-only", *words_of(tmp_path, name, "MODEL.WEIGHTS", file)]))
        assert again.keys() == {"bbox", "segm"} and again["bbox"]["AP"] >= 0
        for options, message in (
            (["MODEL.WEIGHTS", file, "MODEL.SCALE_EQUALIZER.ENABLED", "False"], "a model with scale equalizers"),
            (["MODEL.WEIGHTS", ""], "refusing to score a model without weights"),
        ):
            with pytest.raises(ValueError, match=message):
                tool.main(parse(["--eval-only", *words_of(tmp_path, name, *options)]))
        with pytest.raises(ValueError, match=r"2 categories, but MODEL.ROI_HEADS.NUM_CLASSES is 80; set it to 2"):
            tool.main(parse(words_of(tmp_path, name, "MODEL.ROI_HEADS.NUM_CLASSES", "80")))
        with pytest.raises(ValueError, match="NUM_IMAGES is -1, the whole loader"):
            tool.main(parse(words_of(tmp_path, name, "MODEL.SCALE_EQUALIZER.NUM_IMAGES", "-1")))
    finally:
        DatasetCatalog.remove("tiny_coco")
        MetadataCatalog.remove("tiny_coco")


@pytest.mark.slow
@needs_detectron2
@pytest.mark.parametrize(
    ("words", "told"),
    [(["--config-file", "coco/mask_rcn_r50"], "there is no config of the name"), ([], "DATASETS.TRAIN is empty; give")],
)
def test_a_mistake_is_one_line(words, told, tmp_path):
    done = subprocess.run(
        [sys.executable, str(TOOL), *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment("detectron2"),
        timeout=240,
    )
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith(f"error: {told}")
    assert not list(tmp_path.iterdir())


def environment(side: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "projects" / "ScaleEq"), "SCALEEQ_ENGINE": side}


@pytest.mark.parametrize("side", ["standalone", *(["detectron2"] if engine.NAME == "detectron2" else [])])
def test_our_own_training_names_what_can(side):
    command = [sys.executable, "-m", "scaleeq", "train", "coco/pointrend_rcnn_r50+fapn"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(side), timeout=240)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith("error: coco/pointrend_rcnn_r50+fapn is a detector of Detectron2")
    assert line.endswith("python tools/train_detection.py --config-file coco/pointrend_rcnn_r50+fapn")


def test_what_is_said_of_other_training():
    names = ["coco/mask_rcnn_r50", "coco/torchvision_mask_rcnn_r50"]
    for architecture in DETECTRON2_DETECTORS:
        told = other_training("coco/mask_rcnn_r50+fapn", architecture, names, has_detectron2=True)
        assert told.endswith("python tools/train_detection.py --config-file coco/mask_rcnn_r50+fapn")
    told = other_training("coco/mask_rcnn_r50+fapn", "GeneralizedRCNN", names, has_detectron2=False)
    assert told.endswith("which is not here; torchvision's is coco/torchvision_mask_rcnn_r50+fapn")
    told = other_training("coco/panoptic_fpn_r50", "PanopticFPN", names, has_detectron2=False)
    assert "needs Detectron2 (docs/engine.md)" in told
    assert other_training("toy/fpn", "ScaleEqSegmentor", names, has_detectron2=True) == ""
    assert other_training("", "SemanticSegmentor", names, has_detectron2=True) == ""
