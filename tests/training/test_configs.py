"""Every config that has a name: it loads, fits its data set's labels, and its model can be built, equalized too."""

from __future__ import annotations

import pytest

import scaleeq.data
import scaleeq.segmentor  # noqa: F401  (registers the model)
from scaleeq.config import config_root, list_configs
from scaleeq.engine import load_config
from scaleeq.equalization.calibration import fusions_of
from scaleeq.training.check_data import check_labels
from scaleeq.training.on_meta import build_on_meta

ROOT = config_root()
FILES = sorted(ROOT.rglob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_its_first_line_says_what_it_is(path):
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("name", list_configs())
def test_its_labels_fit_and_its_model_can_be_equalized(name):
    check_labels(load_config(name))
    assert fusions_of(build_on_meta(load_config(f"{name}+scale_equalizer")))


def test_base_disarms_the_traps():
    cfg = load_config(ROOT / "Base.yaml")
    assert cfg.INPUT.FORMAT == "RGB"
    assert cfg.MODEL.PIXEL_MEAN == [123.675, 116.28, 103.53]
    assert cfg.MODEL.PIXEL_STD == [58.395, 57.12, 57.375]
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 0
