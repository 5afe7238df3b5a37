"""Every config that has a name: it loads, fits its data set's labels, and its model can be built, equalized too."""

from __future__ import annotations

import pytest

import scaleeq.data
import scaleeq.segmentor  # noqa: F401  (registers the model)
from scaleeq import engine
from scaleeq.config import config_root, list_configs
from scaleeq.config.detection import DETECTRON2_DETECTORS
from scaleeq.engine import load_config
from scaleeq.engine.config_io import read_config
from scaleeq.equalization.calibration import fusions_of
from scaleeq.training.check_data import check_labels
from scaleeq.training.on_meta import build_on_meta
from tests.detection.small import ARCHITECTURES
from tests.detection.small import config as detector_config

ROOT = config_root()
FILES = sorted(ROOT.rglob("*.yaml"))
DETECTORS = [  # Detectron2's
    name for name in list_configs() if read_config(name).MODEL.META_ARCHITECTURE in DETECTRON2_DETECTORS
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_its_first_line_says_what_it_is(path):
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("name", [name for name in list_configs() if name not in DETECTORS])
def test_its_labels_fit_and_its_model_can_be_equalized(name):
    check_labels(load_config(name))
    assert fusions_of(build_on_meta(load_config(f"{name}+scale_equalizer")))


@pytest.mark.parametrize("overlay", ["", "+fapn", "+bifpn"])
@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_of_detectron2s_is_equalized_or_refused(name, overlay):
    cfg = detector_config(f"{name}{overlay}+scale_equalizer", small=False)
    if engine.FEATURES.detection:
        sums = fusions_of(build_on_meta(cfg))
        assert sums and all(fusion.startswith("backbone.pyramid.") for fusion in sums)
    else:
        with pytest.raises(ValueError, match=r"is Detectron2's, which is not here .* coco/torchvision_"):
            build_on_meta(cfg)


def test_there_are_detectors():
    assert {f"coco/{name}_r50" for name in ARCHITECTURES} <= set(DETECTORS)
    anchors = load_config("coco/retinanet_r50").MODEL.ANCHOR_GENERATOR.SIZES
    assert anchors == [[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in (32, 64, 128, 256, 512)]


def test_overlays_of_pyramids_are_for_segmentation_too():
    for overlay in ("fapn", "bifpn"):
        cfg = load_config(f"toy/fpn+{overlay}")
        own = load_config(f"toy/{overlay}")
        assert cfg.MODEL.PYRAMID.NAME == own.MODEL.PYRAMID.NAME == overlay
    assert load_config("toy/fpn+fapn") == load_config("toy/fapn")


def test_base_disarms_the_traps():
    cfg = load_config(ROOT / "Base.yaml")
    assert cfg.INPUT.FORMAT == "RGB"
    assert cfg.MODEL.PIXEL_MEAN == [123.675, 116.28, 103.53]
    assert cfg.MODEL.PIXEL_STD == [58.395, 57.12, 57.375]
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 0
