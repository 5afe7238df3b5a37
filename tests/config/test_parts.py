"""What a config's name stands for, and what a path of before does."""

from __future__ import annotations

import shutil

import pytest
import yaml

from scaleeq.config import config_files, config_root, list_configs
from scaleeq.config import parts as parts_module
from scaleeq.config.parts import absolute, section
from scaleeq.engine import load_config

ROOT = config_root()


def test_a_pair_is_a_data_set_and_a_recipe():
    expected = [ROOT / "sets" / "ade20k.yaml", ROOT / "recipes" / "uper_swin_tiny.yaml"]
    assert config_files("ade20k/uper_swin_tiny") == expected
    overlay = ROOT / "overlays" / "scale_equalizer.yaml"
    assert config_files("ade20k/uper_swin_tiny+scale_equalizer") == [*expected, overlay]
    cfg = load_config("ade20k/uper_swin_tiny+scale_equalizer", ["SOLVER.MAX_ITER", "7"])
    assert (cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.TIMM.NAME.split("_")[0]) == (150, "swin")
    assert cfg.MODEL.SCALE_EQUALIZER.ENABLED and cfg.SOLVER.MAX_ITER == 7


def test_a_pair_that_says_more_has_a_file():
    (file,) = config_files("ade20k/uper_convnext_tiny")
    assert file == ROOT / "ade20k" / "uper_convnext_tiny.yaml"
    assert load_config("ade20k/uper_convnext_tiny").TEST.SLIDE.WINDOW == [512]
    assert load_config("voc2012/uper_convnext_tiny").TEST.SLIDE.WINDOW == []


def test_a_name_that_says_a_few_keys_over_another_is_a_section_of_one_file(capsys):
    (part,) = config_files("toy/gsto")
    assert part == ROOT / "derived.yaml" / "toy/gsto" and section(part) == (ROOT / "derived.yaml", "toy/gsto")
    assert section(ROOT / "toy" / "fpn.yaml") == (ROOT / "toy" / "fpn.yaml", "")
    cfg, base = load_config("toy/gsto"), load_config("toy/fpn")
    assert (cfg.MODEL.PYRAMID.TRANSFER, base.MODEL.PYRAMID.TRANSFER) == ("gated", "")
    cfg.MODEL.PYRAMID.TRANSFER = ""
    assert cfg == base
    assert load_config("configs/toy/gsto.yaml+scale_equalizer") == load_config("toy/gsto+scale_equalizer")
    assert "notice: configs/toy/gsto.yaml is now the name toy/gsto;" in capsys.readouterr().err


def test_sections_are_names_of_their_own_and_no_files():
    names = list(yaml.safe_load((ROOT / "derived.yaml").read_text()))
    assert set(names) <= set(list_configs()) and "derived" not in list_configs()
    assert not [name for name in names if (ROOT / f"{name}.yaml").is_file()], "the file would hide the section"


def test_a_path_takes_overlays_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("SOLVER: {MAX_ITER: 3}\n")
    (tmp_path / "a+b.yaml").write_text("SOLVER: {MAX_ITER: 4}\n")
    assert load_config("mine.yaml").SOLVER.MAX_ITER == 3
    assert load_config("mine.yaml+scale_equalizer").MODEL.SCALE_EQUALIZER.ENABLED
    assert load_config("a+b.yaml").SOLVER.MAX_ITER == 4, "a + in the name of a file"
    assert config_files(tmp_path / "mine.yaml") == [tmp_path / "mine.yaml"]


def test_a_base_is_a_path_or_a_name(tmp_path):
    file = tmp_path / "mine.yaml"
    (tmp_path / "more.yaml").write_text("SOLVER: {MAX_ITER: 9}\n")
    file.write_text("_BASE_: [voc2012/psp_r50+scale_equalizer, more.yaml]\nSEED: 4\n")
    cfg = load_config(file)
    assert (cfg.MODEL.SEM_SEG_HEAD.NAME, cfg.SOLVER.MAX_ITER, cfg.SEED) == ("PSPHead", 9, 4)
    assert cfg.MODEL.SCALE_EQUALIZER.ENABLED
    file.write_text("_BASE_: voc2012/psp_r5\n")
    with pytest.raises(FileNotFoundError, match=r"did you mean voc2012/psp_r50\?\), the _BASE_ of .*mine.yaml"):
        load_config(file)


@pytest.mark.parametrize(
    ("before", "name"),
    [
        ("configs/ade20k/uper_swin_tiny_scale_equalizer.yaml", "ade20k/uper_swin_tiny+scale_equalizer"),
        ("configs/toy/fpn_scale_equalizer.yaml", "toy/fpn+scale_equalizer"),
        ("configs/voc2012/fcn_r50.yaml", "voc2012/fcn_r50"),
        (str(ROOT / "voc2012" / "fcn_r50.yaml"), "voc2012/fcn_r50"),
    ],
)
def test_a_path_of_before_is_read_with_one_notice(before, name, capsys):
    parts_module._tell_once.cache_clear()
    assert config_files(before) == config_files(name) == config_files(before)
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith(f"notice: {before} is now the name {name};")
    assert printed.err.count("notice") == 1


def test_a_file_of_somebody_elses_is_never_taken_for_ours(tmp_path):
    for path in (tmp_path / "ade20k" / "uper_swin_tiny.yaml", "ade20k/uper_swin_tiny.yaml"):
        with pytest.raises(FileNotFoundError, match=r"there is no config file .*ade20k/uper_swin_tiny.yaml"):
            config_files(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "ade20k/uper_swim_tiny",
            r"of the name ade20k/uper_swim_tiny, .* \(did you mean ade20k/uper_swin_tiny\?\)",
        ),
        ("sets/ade20k", "no config of the name sets/ade20k"),
        ("quickstart/uper_r50", "no config of the name quickstart/uper_r50"),
        ("+scale_equalizer", "no config of the name"),
        (
            "quickstart+equalizer",
            r"overlay of quickstart\+equalizer is 'equalizer'; choose one of bifpn, fapn, scale_equalizer",
        ),
        ("quickstart+", "overlay of .* is ''; choose one of bifpn, fapn, scale_equalizer"),
    ],
)
def test_what_has_no_files_is_refused(text, message):
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        config_files(text)


def test_names_are_listed_without_parts_and_overlays():
    names = list_configs()
    assert names == sorted(set(names)) and {"quickstart", "ade20k/uper_r50", "cityscapes/eseg_s"} <= set(names)
    assert not [name for name in names if name.split("/")[0] in ("sets", "recipes", "overlays", "ablations")]
    assert not [name for name in names if "Base" in name or "+" in name]
    assert all(config_files(name) for name in names)
    assert list_configs("toy/*f*") == ["toy/bifpn", "toy/fapn", "toy/fpn"]


def test_a_word_is_understood_from_any_folder(tmp_path):
    (tmp_path / "mine.yaml").write_text("")
    assert absolute("mine.yaml+scale_equalizer", tmp_path) == f"{tmp_path / 'mine.yaml'}+scale_equalizer"
    assert absolute("toy/fpn+scale_equalizer", tmp_path) == "toy/fpn+scale_equalizer"


def test_an_installed_package_and_a_checkout_have_the_same(tmp_path, monkeypatch):
    """The package's own folder of configs comes first; here it is a copy with one file changed."""
    copy = tmp_path / "scaleeq" / "configs"
    shutil.copytree(ROOT, copy)
    (copy / "sets" / "ade20k.yaml").write_text(yaml.safe_dump({"SEED": 11}))
    monkeypatch.setattr(parts_module.importlib.resources, "files", lambda package: tmp_path / package)
    assert config_root() == copy and load_config("ade20k/uper_swin_tiny").SEED == 11
    monkeypatch.setattr(parts_module.importlib.resources, "files", lambda package: tmp_path / "elsewhere")
    assert config_root() == ROOT
