"""tools/visualize.py: what becomes of its words, what it refuses, what it writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scaleeq import console
from scaleeq.commands import predict, visualize
from tests.reports.visualization_data import photos, saved_model
from tests.training.tiny import TEST_SET


def call(words: list[str]) -> int:
    return visualize.run(visualize.parse(visualize.parser(), words))


@pytest.mark.parametrize(
    ("line", "images", "maps", "names", "opts"),
    [
        ("a.jpg b --maps gates features", ["a.jpg", "b"], ["gates", "features"], [], []),
        ("a.jpg --maps gates gates --output o MODEL.DEVICE cpu", ["a.jpg"], ["gates"], [], ["MODEL.DEVICE", "cpu"]),
        ("--dataset d --maps gates SEED 3", [], ["gates"], [], ["SEED", "3"]),
        ("--dataset d --names x y TEST.AUG.FLIP False", [], [], ["x", "y"], ["TEST.AUG.FLIP", "False"]),
        ("a.jpg MODEL.DEVICE cpu --maps heat", ["a.jpg"], ["heat"], [], ["MODEL.DEVICE", "cpu"]),
        ("--maps alignment tests SEED 3", ["tests"], ["alignment"], [], ["SEED", "3"]),
    ],
)
def test_words_of_the_command_line(monkeypatch, line, images, maps, names, opts):
    monkeypatch.chdir(Path(__file__).parents[2])
    arguments = visualize.parser().parse_intermixed_args(line.split())
    visualize.images_and_options(arguments)
    assert (arguments.images, arguments.maps, arguments.names, arguments.opts) == (images, maps, names, opts)


@pytest.mark.parametrize(
    ("line", "config", "images", "opts"),
    [
        ("quickstart a.jpg b --weights w", "quickstart", ["a.jpg", "b"], []),
        ("--weights w --sheet quickstart a.jpg SEED 3", "quickstart", ["a.jpg"], ["SEED", "3"]),
        ("quickstart --weights w --dataset d --num 2 SEED 3", "quickstart", [], ["SEED", "3"]),
        ("--config-file quickstart --weights w a.jpg", "quickstart", ["a.jpg"], []),
        ("--predictions p --dataset d", None, [], []),
    ],
)
def test_the_verb_takes_the_config_first(line, config, images, opts):
    arguments = predict.parse(predict.parser(), line.split())
    assert (arguments.config_file, arguments.images, arguments.opts) == (config, images, opts)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "either images and folders, or --dataset"),
        ("a.jpg --dataset d", "either images and folders, or --dataset"),
        ("a.jpg --num 3", "--num and --names choose images of a --dataset"),
        ("a.jpg --predictions p", "--predictions needs --dataset"),
        ("--dataset d --predictions p --weights w", "instead of a model"),
        ("--dataset d --weights w", "give --config-file and --weights, or --predictions"),
        ("--dataset camvid_sem_seg_vla --config-file quickstart", "the nearest are .*camvid_sem_seg_val"),
        ("--dataset d --config-file c --maps heat", "--maps has heat; choose of gates, alignment, features"),
        ("--dataset toy_sem_seg_val --num 1 --config-file configs/quickstart.yaml", "--weights FILE is missing"),
    ],
)
def test_wrong_usage(monkeypatch, capsys, line, message):
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(SystemExit) as error:
        console.run(lambda: call(line.split()))
    assert error.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_command_draws_and_says_where(capsys, tmp_path):
    cfg, weights = saved_model(tmp_path)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    photos(tmp_path / "photos")
    common = f"--config-file {tmp_path}/config.yaml --weights {weights} --output {tmp_path}/out"
    for words, code, told in (
        (f"{tmp_path}/photos", 1, "3 of 4 images drawn"),
        (f"--dataset {TEST_SET} --num 1 --maps features", 0, "1 of 1 images drawn"),
    ):
        assert call([*words.split(), *common.split()]) == code
        assert told in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "features").glob("*.png"))) == 1
