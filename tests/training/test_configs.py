"""Every config in configs/: it loads, says only what differs from its base, states its source, fits its labels."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from scaleeq.engine import load_config
from scaleeq.training import check_labels

ROOT = Path(__file__).parents[2] / "configs"
# Files of comparisons are no configs: tests/comparison/test_ablations.py.
CONFIGS = sorted(path for path in ROOT.rglob("*.yaml") if path.parent.name != "ablations")


def flat(tree, prefix=""):
    """{"A.B": value} of nested dicts."""
    items = {}
    for key, value in tree.items():
        items |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return items


def name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_it_says_only_what_differs(path):
    own = yaml.safe_load(path.read_text())
    base_name = own.pop("_BASE_", None)
    base = flat(load_config(path.parent / base_name if base_name else None))
    repeated = [key for key in flat(own) if flat(load_config(path))[key] == base[key]]
    assert not repeated


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_its_first_lines_state_source_and_expectation(path):
    first, second = path.read_text().splitlines()[:2]
    assert first.startswith("# ")
    assert second.startswith("# Expected: ")


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_its_labels_fit(path):
    import scaleeq.data  # noqa: F401  (registers the data sets)

    check_labels(load_config(path))


def test_base_disarms_the_traps():
    cfg = load_config(ROOT / "Base.yaml")
    assert cfg.INPUT.FORMAT == "RGB"
    assert cfg.MODEL.PIXEL_MEAN == [123.675, 116.28, 103.53]
    assert cfg.MODEL.PIXEL_STD == [58.395, 57.12, 57.375]
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 0


def test_the_camvid_pair_differs_in_one_key():
    plain = flat(load_config(ROOT / "camvid" / "uper_r18.yaml"))
    equalized = flat(load_config(ROOT / "camvid" / "uper_r18_scale_equalizer.yaml"))
    assert [key for key in plain if plain[key] != equalized[key]] == ["MODEL.SCALE_EQUALIZER.ENABLED"]
