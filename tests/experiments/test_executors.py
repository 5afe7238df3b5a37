"""Which executor the options of `scaleeq compare` ask for, and what is refused before anything starts."""

from __future__ import annotations

import sys

import pytest

from scaleeq.commands import compare
from scaleeq.experiments.executors import Where, build_executor
from scaleeq.experiments.jobs import Job, Pool
from scaleeq.experiments.remote import RemoteRun


def where(*words):
    return compare.parse(compare.parser(), ["FILE.yaml", *words]).where


def test_the_options_say_where_the_runs_run():
    assert where() == Where() and where("--jobs", "3") == Where("local", jobs=3)
    words = ("--executor", "ray", "--ray-address", "10.0.0.1:6379", "--gpus-per-run", "0.5", "--cpus-per-run", "2")
    assert where(*words) == Where("ray", ray_address="10.0.0.1:6379", gpus=0.5, cpus=2)
    slurm = where("--executor", "slurm", "--slurm", "partition=gpu", "mem_gb=16")
    assert slurm.slurm == {"partition": "gpu", "mem_gb": 16}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--executor", "rey"), "--executor is 'rey'; choose one of local, ray, slurm (did you mean ray?)"),
        (("--ray-address", "auto"), "--ray-address needs --executor ray; it is local"),
        (("--executor", "ray", "--slurm", "mem_gb=1"), "--slurm needs --executor slurm; it is ray"),
        (("--gpus-per-run", "1"), "--gpus-per-run needs --executor ray or slurm"),
        (("--executor", "ray", "--cpus-per-run", "0"), "--cpus-per-run is 0; give a number of at least 1"),
        (("--executor", "slurm", "--slurm", "gpu"), "--slurm has gpu; give KEY=VALUE"),
        (("--jobs", "0"), "--jobs is 0; give a number of at least 1, or auto"),
    ],
)
def test_a_wrong_use_is_one_line(capsys, words, message):
    with pytest.raises(SystemExit, match="2"):
        where(*words)
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and message in told


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_package_that_is_not_installed_is_named_with_its_extra(capsys, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit, match="2"):
        where("--executor", name)
    assert f"{package} is not installed: pip install 'scaleeq[cluster]'" in capsys.readouterr().err


def test_the_machine_itself_is_the_default(tmp_path):
    options = {"settled": lambda job: False, "finished": "run.json", "environment": {}, "say": print}
    assert isinstance(build_executor(Where(), logs=tmp_path, **options), Pool)


def test_slurm_gives_whole_gpus(tmp_path):
    pytest.importorskip("submitit")
    options = {"settled": lambda job: False, "finished": "run.json", "environment": {}, "say": print}
    with pytest.raises(ValueError, match=r"--gpus-per-run is 0\.5; SLURM gives whole GPUs"):
        build_executor(Where("slurm", gpus=0.5), logs=tmp_path, **options)


def test_a_run_elsewhere_has_what_decides_its_numbers_and_leaves_the_rest_to_the_node(tmp_path):
    given = {"OMP_NUM_THREADS": "1", "DETECTRON2_DATASETS": "data", "CUDA_VISIBLE_DEVICES": "3", "HOME": "/home/a"}
    run = RemoteRun(Job("a", tmp_path, ["true"]), environment=given, finished="run.json", folder=tmp_path)
    assert run.environment == {"OMP_NUM_THREADS": "1", "DETECTRON2_DATASETS": "data"}


def test_a_folder_that_a_node_does_not_see_is_told(tmp_path):
    run = RemoteRun(Job("a", tmp_path, ["true"]), environment={}, finished="run.json", folder=tmp_path / "elsewhere")
    answer = run()
    assert answer.end is None and "elsewhere" in answer.error and "the same files" in answer.error
