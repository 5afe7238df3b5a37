"""`scaleeq VERB`: the table of verbs, what is loaded before a mistake is told, and the words of each verb."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scaleeq import engine, get_config
from scaleeq.__main__ import VERBS, find_verb
from scaleeq.commands import (
    analyze,
    benchmark,
    check_data,
    evaluate,
    predict,
    prepare_data,
    score,
    show_config,
    train,
    visualize,
)
from scaleeq.commands.words import shortened, split_at_key
from scaleeq.config import add_scaleeq_config
from scaleeq.data.preparation import CONVERSIONS
from scaleeq.engine import default_argument_parser, get_cfg, load_config
from scaleeq.engine.config_io import default_config, read_config
from scaleeq.evaluation import ABSENT_POLICIES
from scaleeq.reports.data import DEFAULT_SAMPLE
from scaleeq.reports.pictures.other_models import LIBRARIES
from scaleeq.reports.pictures.sheets import SHEETS

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "projects" / "ScaleEq"
HEAVY = ("torch", "numpy", "cv2", "detectron2", "matplotlib", "timm")
# Starts the console with the words of this process, and says afterwards which of the heavy modules are loaded.
WATCHED = f"""
import atexit, sys
heavy = [*{HEAVY}, "yaml", "yacs"]
atexit.register(lambda: print("loaded:", *[name for name in heavy if name in sys.modules]))
from scaleeq.__main__ import main
main()
"""


def scaleeq(*words: str, code: str = "", folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    start = ["-c", code] if code else ["-m", "scaleeq"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, *start, *words]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=240)


def loaded(done: subprocess.CompletedProcess[str]) -> list[str]:
    return done.stdout.splitlines()[-1].removeprefix("loaded:").split()


# ---------------------------------------------------------------------------------------------------- the table


def test_import_and_help_load_nothing():
    done = scaleeq(code=f"import sys, scaleeq; print(dir(scaleeq)); print([m for m in {HEAVY} if m in sys.modules])")
    assert done.stdout.splitlines()[-1] == "[]" and "get_config" in done.stdout
    done = scaleeq("--help", code=WATCHED)
    assert done.returncode == 0 and loaded(done) == []
    assert all(f"scaleeq {verb} " in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(verb):
    done = scaleeq(*verb.split(), "--help", code=WATCHED)
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.startswith(f"usage: scaleeq {verb}") and "--debug" in done.stdout
    assert loaded(done) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "give a verb"),
        (["trian"], "the verb of scaleeq is 'trian'; choose one of train, eval, .*did you mean train"),
        (["data"], "the verb after scaleeq data is ''; choose one of check, prepare"),
        (["data", "chek", "x"], "did you mean check"),
        (["--no-such"], "--no-such"),
        (["train", "--no-such"], "unrecognized arguments|ambiguous|--no-such"),
        (["engine", "--require", "none"], "--require"),
        (["eval", "--predictions", "p"], "belong together"),
        (["eval", "quickstart", "--predictions", "p", "--dataset", "d"], "instead of a model"),
        (["analyze", "a", "b"], "give one config or one run's folder"),
        (["analyze", "quickstart", "--batches", "0"], "--batches is 0"),
        (["config"], "give one config's name"),
        (["benchmark"], "required"),
        (["benchmark", "toy/fpn", "SEED"], "neither configs nor KEY VALUE pairs: SEED"),
        (["benchmark", "toy/fpn", "--no-such"], "neither configs nor KEY VALUE pairs: --no-such"),
        (["benchmark", "SEED", "3"], "neither configs nor KEY VALUE pairs: SEED 3"),
        (["benchmark", "toy/fpn", "--size", "0", "64"], "at least one pixel"),
    ],
)
def test_wrong_use_is_one_line(words, told):
    done = scaleeq(*words, code=WATCHED)
    assert done.returncode == 2 and loaded(done) == []
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert re.search(told, line)


NAME, VALUE = "uper_r50x", ["SOLVER.BASE_LR", "-0.1"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", f"ade20k/{NAME}"], "did you mean ade20k/uper_r50"),
        (["train", "quickstart+scale_equaliser"], "did you mean scale_equalizer"),
        (["train", "quickstart", "--num-gpus", "2", *VALUE], "SOLVER.BASE_LR is -0.1"),
        (["train", "quickstart", "SOLVER.MAX_ITER"], "overrides come in pairs"),
        (["eval", "toy/fpm"], "did you mean toy/fpn"),
        (["predict", "toy/fpm", "--weights", "w", "a.jpg"], "did you mean toy/fpn"),
        (["analyze", "toy/fpm"], "did you mean toy/fpn"),
        (["benchmark", "toy/fpn", "toy/fapm", "--count"], "did you mean toy/fapn"),
        (["config", "quickstart", *VALUE], "SOLVER.BASE_LR is -0.1"),
    ],
)
def test_names_and_values_are_refused_before_torch_is_loaded(words, told):
    done = scaleeq(*words, code=WATCHED)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and told in line
    assert set(loaded(done)) <= {"yaml", "yacs"}


def test_an_unknown_key_is_told_with_every_engine(tmp_path):
    done = scaleeq("train", "quickstart", "SOLVER.BASE_LT", "1", "OUTPUT_DIR", str(tmp_path / "run"))
    assert done.returncode == 2 and "did you mean SOLVER.BASE_LR" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "run").exists()


def test_choices_of_the_parsers_are_those_of_the_rooms():
    """The parsers need the standard library alone, so they repeat them."""
    assert set(score.POLICIES) == set(ABSENT_POLICIES) and set(prepare_data.DATASETS) == set(CONVERSIONS)
    assert (
        predict.LIBRARIES == LIBRARIES
        and tuple(SHEETS) == visualize.MAPS
        and check_data.DEFAULT_SAMPLE == DEFAULT_SAMPLE
    )


# ---------------------------------------------------------------------------------------------------- words


def words_of_train(line: str) -> tuple:
    arguments = train.parse(train.parser(), line.split())
    return arguments.config_file, arguments.resume, arguments.eval_only, arguments.num_gpus, arguments.opts


@pytest.mark.parametrize(
    "line",
    [
        "quickstart --resume --num-gpus 2 SEED 3",
        "--resume quickstart --num-gpus 2 SEED 3",
        "--resume --num-gpus 2 quickstart SEED 3",
        "--config-file quickstart --resume --num-gpus 2 SEED 3",
        "--num-gpus 2 --config-file quickstart --resume SEED 3",
    ],
)
def test_the_config_stands_before_or_after_the_options(line):
    assert words_of_train(line) == ("quickstart", True, False, 2, ["SEED", "3"])


def test_words_without_a_config_are_keys():
    assert words_of_train("--eval-only SEED 3") == ("", False, True, 1, ["SEED", "3"])
    assert words_of_train("SOLVER.BASE_LR -1e-3") == ("", False, False, 1, ["SOLVER.BASE_LR", "-1e-3"])


@pytest.mark.parametrize(
    "opts, added",
    [
        (["SOLVER.MAX_ITER", "20"], ["SOLVER.WARMUP_ITERS", "2", "TEST.EXPECTED_RESULTS", "[]"]),
        (["SOLVER.MAX_ITER", "500"], ["TEST.EXPECTED_RESULTS", "[]"]),
        (["SOLVER.MAX_ITER", "20", "SOLVER.WARMUP_ITERS", "19"], ["TEST.EXPECTED_RESULTS", "[]"]),
        (["SOLVER.MAX_ITER", "20", "SOLVER.WARMUP_ITERS", "0", "TEST.EXPECTED_RESULTS", "[]"], []),
        (["SOLVER.MAX_ITER", "601"], []),
        ([], []),
    ],
)
def test_a_shortened_run_fits_its_length(opts, added):
    """The quickstart has 600 iterations, 30 of warm-up."""
    words, told = shortened("quickstart", opts)
    assert words == [*opts, *added] and len(told) == len(added) // 2
    assert all(line.startswith("SOLVER.MAX_ITER is ") and " instead of 600: " in line for line in told)


def test_a_config_file_that_contradicts_itself_is_not_mended(tmp_path):
    file = tmp_path / "short.yaml"
    file.write_text(f"_BASE_: {ROOT / 'configs' / 'quickstart.yaml'}\nSOLVER:\n  MAX_ITER: 20\n")
    assert shortened(str(file), []) == ([], [])
    done = scaleeq("train", str(file), "OUTPUT_DIR", str(tmp_path / "run"))
    assert done.returncode == 2 and "SOLVER.WARMUP_ITERS is 30" in done.stderr


def test_options_of_train_are_those_of_the_engine():
    """Oracle: the engine's own parser, under Detectron2 its default_argument_parser."""

    def options(parser) -> dict:
        known = {action.dest: (action.option_strings, action.type, action.default) for action in parser._actions}
        return {name: value for name, value in known.items() if name not in ("help", "debug")}

    ours, theirs = options(train.parser()), options(default_argument_parser())
    assert ours.keys() == theirs.keys()
    assert {name for name in ours if ours[name] != theirs[name]} <= {"opts"}


def test_eval_is_train_with_eval_only():
    arguments = evaluate.parse(evaluate.parser(), ["quickstart", "--resume", "SEED", "3"])
    plain = train.parse(train.parser(), ["quickstart", "--resume", "--eval-only", "SEED", "3"])
    shared = vars(plain)
    assert {name: vars(arguments)[name] for name in shared} == shared


def test_a_folder_is_a_run(tmp_path):
    (tmp_path / "run").mkdir()
    arguments = analyze.parse(analyze.parser(), [str(tmp_path / "run"), "--images", "2"])
    assert arguments.config_file == str(tmp_path / "run") and arguments.images == 2
    with pytest.raises(FileNotFoundError, match=r"not that of a run"):
        analyze.run(arguments)
    (tmp_path / "run" / "config.yaml").write_text("")
    with pytest.raises(ValueError, match="leave out SEED 3"):
        analyze.run(analyze.parse(analyze.parser(), [str(tmp_path / "run"), "SEED", "3"]))


def test_the_smallest_size_of_a_benchmark_is_one_pixel():
    arguments = benchmark.parse(benchmark.parser(), ["toy/fpn", "--size", "1", "1", "SEED", "3"])
    assert (arguments.config_file, arguments.size, arguments.opts) == (["toy/fpn"], [1, 1], ["SEED", "3"])


def test_names_end_at_the_first_key():
    assert split_at_key(["a.yaml", "toy/fpn+x", "SEED", "3"]) == (["a.yaml", "toy/fpn+x"], ["SEED", "3"])
    assert split_at_key(["MODEL.DEVICE", "cpu"]) == ([], ["MODEL.DEVICE", "cpu"])
    assert find_verb(["data", "check", "a"]) == ("data check", ["a"])


# ---------------------------------------------------------------------------------------------------- the config


NAMES = ["quickstart", "ade20k/uper_swin_tiny+scale_equalizer", "cityscapes/eseg_s", "toy/fapn"]


@pytest.mark.parametrize("name", NAMES)
def test_the_plain_config_is_read_by_the_engines_own_loader(name, tmp_path, capsys):
    overrides = ["SOLVER.STEPS", "(3, 4)", "SEED", "-1"]
    show_config.run(show_config.parse(show_config.parser(), [name, "--plain", *overrides]))
    file = tmp_path / "plain.yaml"
    file.write_text(capsys.readouterr().out)
    assert "_BASE_" not in yaml.safe_load(file.read_text())
    cfg = get_cfg()
    add_scaleeq_config(cfg)
    cfg.merge_from_file(str(file))
    assert cfg == load_config(name, overrides) == get_config(name, overrides)


def test_the_whole_config_says_where_it_comes_from(tmp_path, capsys):
    show_config.run(show_config.parse(show_config.parser(), ["toy/fpn+scale_equalizer", "SEED", "3"]))
    printed = capsys.readouterr().out
    assert "toy/fpn.yaml" in printed and "overlays/scale_equalizer.yaml" in printed
    (tmp_path / "whole.yaml").write_text(printed)
    whole, expected = load_config(tmp_path / "whole.yaml"), get_config("toy/fpn+scale_equalizer", ["SEED", 3])
    assert yaml.safe_load(whole.dump()) == yaml.safe_load(expected.dump())  # a list of lists may be one of tuples
    assert "&id" not in printed


def test_the_defaults_without_torch_are_those_of_the_engine():
    cfg = get_cfg()
    add_scaleeq_config(cfg)
    assert dict(default_config()) == dict(cfg)
    assert read_config("quickstart", ["SEED", "3"]).dump() == load_config("quickstart", ["SEED", "3"]).dump()


# ---------------------------------------------------------------------------------------------------- the engine


@pytest.mark.slow
def test_the_verb_engine_is_the_module():
    by_verb = scaleeq("engine")
    by_module = scaleeq(code="import runpy; runpy.run_module('scaleeq.engine', run_name='__main__')")
    assert by_verb.returncode == by_module.returncode == 0 and by_verb.stdout == by_module.stdout
    other = {"detectron2": "standalone", "standalone": "detectron2"}[engine.NAME]
    assert scaleeq("engine", "--require", other).returncode == 1
