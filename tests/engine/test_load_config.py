"""load_config. Oracles: Detectron2's own merging (through the engine's CfgNode), and messages written out here."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaleeq.config import add_scaleeq_config
from scaleeq.engine import CfgNode, get_cfg, load_config


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return str(folder / name)


def test_without_a_file_it_is_the_defaults_with_our_keys() -> None:
    expected = get_cfg()
    add_scaleeq_config(expected)
    cfg = load_config(None)
    assert type(cfg) is CfgNode
    assert cfg == expected
    assert "SCALE_EQUALIZER" in cfg.MODEL
    assert not cfg.is_frozen()


def test_equals_the_engines_own_merging(tmp_path: Path) -> None:
    write(tmp_path, "base/first.yaml", "SOLVER: {BASE_LR: 1e-3, STEPS: [1, 2]}\nMODEL: {WEIGHTS: a, MASK_ON: true}\n")
    write(tmp_path, "base/second.yaml", "SOLVER: {MAX_ITER: 7, WEIGHT_DECAY_BIAS: 0.5, STEPS: [3]}\nSEED: 4\n")
    middle = "_BASE_: [base/first.yaml, base/second.yaml]\nDATASETS: {TRAIN: [x]}\n"
    write(tmp_path, "middle.yaml", middle)
    top = write(tmp_path, "top/top.yaml", "_BASE_: ../middle.yaml\nVERSION: 2\nMODEL: {WEIGHTS: c}\n")
    opts = [
        "SOLVER.BASE_LR",
        "0.5",
        "DATASETS.TEST",
        "('y', 'z')",
        "MODEL.DEVICE",
        "cpu",
        "SEED",
        9,
        "OUTPUT_DIR",
        "a/b",
    ]
    expected = get_cfg()
    add_scaleeq_config(expected)
    expected.merge_from_file(top)
    expected.merge_from_list(opts)
    cfg = load_config(top, opts)
    assert cfg == expected
    assert (cfg.SOLVER.STEPS, cfg.MODEL.WEIGHTS, cfg.MODEL.MASK_ON, cfg.SOLVER.MAX_ITER) == ((3,), "c", True, 7)


def test_base_is_left_as_it_is(tmp_path: Path) -> None:
    base = CfgNode({"A": {"B": 1}})
    base.freeze()
    cfg = load_config(write(tmp_path, "a.yaml", "A: {B: 2}"), base=base)
    assert (cfg.A.B, base.A.B, cfg.is_frozen(), base.is_frozen()) == (2, 1, False, True)


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "a.yaml", "# nothing\n")) == load_config("")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("SOLVER: {BASE_LRR: 0.1}", KeyError, "no config key 'SOLVER.BASE_LRR'; did you mean SOLVER.BASE_LR, "),
        ("MODEL: {NUM_CLASSES: 3}", KeyError, "MODEL.SEM_SEG_HEAD.NUM_CLASSES"),
        ("SOLVR: {BASE_LR: 0.1}", KeyError, "no config key 'SOLVR'; did you mean SOLVER"),
        (
            "SOLVER: {BASE_LR: 1}",
            ValueError,
            "SOLVER.BASE_LR is of type float (now 0.001) and cannot be 1, of type int; w",
        ),
        ("SOLVER: {BASE_LR: 1}", ValueError, "write 1.0"),
        (
            "SOLVER: {MAX_ITER: many}",
            ValueError,
            "SOLVER.MAX_ITER is of type int (now 40000) and cannot be 'many'",
        ),
        ("SOLVER: {MAX_ITER: {A: 1}}", ValueError, "SOLVER.MAX_ITER is of type int"),
        ("SOLVER: 3", ValueError, "SOLVER is a section with keys LR_SCHEDULER_NAME, "),
        ("VERSION: 1", ValueError, "config VERSION 1 cannot be read, only 2"),
        ("OUTPUT_DIR: !!python/object/apply:os.getcwd []", ValueError, "python tags are not read"),
        ("OUTPUT_DIR: !!python/name:os.getcwd", ValueError, "python tags are not read"),
        ("SEED: 1\nSEED: 2", ValueError, "has the key 'SEED' twice"),
        ("SOLVER: {BASE_LR: 0.1, BASE_LR: 0.2}", ValueError, "has the key 'BASE_LR' twice"),
        ("SEED: [1", ValueError, "is not a config in plain YAML"),
        ("- SEED", ValueError, "holds a list, not keys with values"),
        ("_BASE_: wrong.yaml", ValueError, "goes round in a circle"),
        ("_BASE_: 3", ValueError, "_BASE_ is a path or a list of paths, not 3"),
        ("_BASE_: [3]", ValueError, "_BASE_ is a path or a list of paths, not [3]"),
        ("_BASE_: absent.yaml", FileNotFoundError, "absent.yaml, the _BASE_ of"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(
    text: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path, "wrong.yaml", text)
    with pytest.raises(error) as caught:
        load_config(path)
    assert path in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "photo.yaml"
    file.write_bytes("OUTPUT_DIR: é".encode("latin-1"))
    with pytest.raises(ValueError, match=r"photo\.yaml is not a config in plain YAML: it is no text in UTF-8"):
        load_config(file)


def test_the_file_named_is_the_one_that_is_wrong(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "SEED: x")
    with pytest.raises(ValueError, match=r"base\.yaml: SEED is of type int"):
        load_config(write(tmp_path, "top.yaml", "_BASE_: base.yaml\nSEED: 3"))


@pytest.mark.parametrize(
    ("opts", "error", "message"),
    [
        (["SEED"], ValueError, "pairs KEY VALUE, but there are 1 words: SEED"),
        (["SEED", "x"], ValueError, "command line: SEED is of type int"),
        (["SED", "1"], KeyError, "command line: there is no config key 'SED'; did you mean SEED"),
        (["--num-gpus", "2"], KeyError, "no config key '--num-gpus': options go before the pairs KEY VALUE"),
        (["SOLVER", "1"], ValueError, "command line: SOLVER is a section"),
        (["_BASE_", "x"], KeyError, "no config key '_BASE_'"),
    ],
)
def test_wrong_overrides(opts: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        load_config(None, opts)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "written"),
    [
        ("MODEL.SCALE_EQUALIZER.ENABLED", "true", "True"),
        ("MODEL.SCALE_EQUALIZER.ENABLED", "yes", "True"),
        ("MODEL.SCALE_EQUALIZER.ENABLED", "0", "False"),
        ("SOLVER.WEIGHT_DECAY_BIAS", "none", "None"),
        ("SOLVER.WEIGHT_DECAY_BIAS", "null", "None"),
        ("SOLVER.BASE_LR", "0,01", "0.01"),
        ("SOLVER.BASE_LR", "1", "1.0"),
        ("SOLVER.MAX_ITER", "1e4", "10000"),
        ("SOLVER.STEPS", "100", "[100]"),
        ("DATASETS.TRAIN", "my_train", "['my_train']"),
        ("DATASETS.TRAIN", "a,b", "['a', 'b']"),
        ("DATASETS.TRAIN", "[a, b]", "['a', 'b']"),
        ("INPUT.CROP.SIZE", "512", "[512]"),
        ("WANDB.NAME", "123", "'123'"),
    ],
)
def test_what_to_write_instead(key: str, value: str, written: str) -> None:
    with pytest.raises(ValueError, match=rf"{key} is .*; write (.*)$") as caught:
        load_config(None, [key, value])
    assert str(caught.value).partition("; write ")[2].strip('"') == written
    if written != "[512]":  # of two sides
        load_config(None, [key, written])


def test_a_truth_value_of_yaml_for_a_word(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"MODEL.LOSS.OHEM is of type str .*write it in quotes"):
        load_config(write(tmp_path, "a.yaml", "MODEL: {LOSS: {OHEM: off}}"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no config file .*nowhere\.yaml$"):
        load_config(tmp_path / "nowhere.yaml")


def test_an_option_among_the_overrides_is_told_where_it_goes():
    with pytest.raises(ValueError, match=r"KEY VALUE; options such as --resume go before them, but there are 3 words"):
        load_config("", ["SEED", "1", "--resume"])
