"""The short trainings: plans whose models can be built, doses that multiply a level, tables of what was run."""

from __future__ import annotations

import dataclasses
import json
import subprocess

import pytest
import torch

from evidence import dosed, fusions_cost, probe_figures, study, study_figures
from scaleeq.engine import DatasetCatalog, load_config
from scaleeq.equalization.calibration import fusions_of
from scaleeq.experiments import runs
from scaleeq.experiments.plan import flat
from scaleeq.files import read_json
from scaleeq.fusion import Fusion
from scaleeq.segmentor import without_pretrained
from scaleeq.training.evaluate import hash_weights
from scaleeq.training.on_meta import build_on_meta, count_config
from scaleeq.training.setup import check_schedule

CONFIGS = {  # name -> branches of the Fusion that is the head's last
    "camvid/uper_lite0": 4,
    "camvid/psp_lite0": 5,
    "camvid/sep_aspp_lite0": 2,
    "camvid/fcn_lite0": 4,
    "camvid/semfpn_lite0": 4,
    "camvid/semfpn_lite0+fapn": 4,
    "camvid/semfpn_lite0+bifpn": 4,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_pretrained_configs_can_be_built(name):
    cfg = load_config(name)
    assert cfg.MODEL.TIMM.PRETRAINED and cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 11
    check_schedule(cfg)
    assert name.partition("+")[0].split("/")[1] in cfg.OUTPUT_DIR
    model = build_on_meta(cfg)
    fusions = [module for name, module in model.named_modules() if isinstance(module, Fusion) and "aux" not in name]
    assert CONFIGS[name] in [len(fusion.branches) for fusion in fusions]


def test_the_hypercolumn_reads_raw_levels():
    fusion = next(m for m in build_on_meta(load_config("camvid/fcn_lite0")).modules() if isinstance(m, Fusion))
    assert fusion.widths == {"res2": 24, "res3": 40, "res4": 112, "res5": 320}
    assert fusion.consumer is not None and fusion.consumer.kernel_size == (1, 1)


@pytest.mark.parametrize("name", study.PLANS)
def test_plans_pair_every_variant_with_what_it_is_compared_with(name):
    plan = study.plan_of(name)
    comment = plan.comment.splitlines()
    assert comment[0].startswith("Question: ") and comment[-2] == f"Command: python -m evidence.study run {name}"
    assert {*plan.baselines, *plan.baselines.values()} == {variant.name for variant in plan.variants}
    for variant in plan.variants:
        equalized = variant.name.endswith(study.EQUALIZED)
        cfg = variant.load()
        assert equalized == cfg.MODEL.SCALE_EQUALIZER.ENABLED
        check_schedule(cfg)
    if name == "decoders":
        assert len(plan.runs()) == 160 and len(plan.baselines) == 10


def test_variants_of_the_doses_differ_in_the_source_alone():
    plan = study.plan_of("doses")
    variants = {variant.name: variant for variant in plan.variants}
    for name in ("uper_adamw", "fcn_sgd"):
        keys = [variants[f"{name}{dose}"].load().clone() for dose in study.DOSES.values()]
        assert len({each.MODEL.BACKBONE.NAME for each in keys}) == 3
        for each in keys:
            each.MODEL.BACKBONE.NAME = ""
        assert len({each.dump() for each in keys}) == 1


@pytest.mark.parametrize("dose", [100.0, 0.01])
def test_a_dose_multiplies_one_level_and_leaves_the_weights_names(dose):
    cfg = without_pretrained(load_config("camvid/fcn_lite0"))
    cfg.defrost() if cfg.is_frozen() else None
    image = torch.randn(1, 3, 64, 64)
    backbones = []
    for name in (cfg.MODEL.BACKBONE.NAME, dosed.name_of("res5", dose)):
        torch.manual_seed(0)
        backbones.append(dosed.BACKBONE_REGISTRY.get(name)(cfg, dosed.ShapeSpec(channels=3)).eval())
    plain, multiplied = (backbone(image) for backbone in backbones)
    assert list(backbones[0].state_dict()) == list(backbones[1].state_dict())
    for level, feature in plain.items():
        assert torch.equal(multiplied[level], feature * (dose if level == "res5" else 1.0))


def test_rates_are_chosen_on_training_images_that_the_others_do_not_train(tmp_path, monkeypatch):
    for kind in ("train", "trainannot"):
        (tmp_path / "CamVid" / kind).mkdir(parents=True)
        for index in range(367):
            (tmp_path / "CamVid" / kind / f"{index:03}.png").touch()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    names = [f"{index:03}" for index in range(367)]
    cfg = study.plan_of("rates").variants[0].load()
    for datasets, expected in ((cfg.DATASETS.TRAIN, names[:297]), (cfg.DATASETS.TEST, names[297:])):
        assert [record["image_id"] for name in datasets for record in DatasetCatalog.get(name)] == expected


def test_equalizers_of_all_fusions_can_be_attached_to_the_dosed_models():
    plan = study.plan_of("doses")
    for variant in plan.variants:
        if variant.name.endswith("_adamw_x100_equalized"):
            assert fusions_of(build_on_meta(variant.load()))


def content(values):
    """Of variant -> mIoU by seed, as summarize_comparison has it, with pairs of what ends in _equalized."""
    from scaleeq.experiments.sections import compare_pairs, summary_of

    by_seed = {name: dict(enumerate(each)) for name, each in values.items()}
    baselines = {name: name.removesuffix("_equalized") for name in values if name.endswith("_equalized")}
    return {
        "metric": "sem_seg/mIoU", "unit": "%",
        "variants": {name: {**summary_of(each), "runs": {}} for name, each in by_seed.items()},
        "comparisons": compare_pairs(by_seed, baselines, "sem_seg/mIoU"),
    }  # fmt: skip


def row(table, first):
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    return next(line[1:] for line in lines if line[0] == first)


def test_tables_say_what_was_run_and_what_was_not(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    assert set(study.tables().values()) == {study.NOT_RUN} and set(study.counts().values()) == {0}
    values = {"uper_sgd": [60.0, 61.0], "uper_sgd_equalized": [61.0, 63.0], "fcn_sgd": [], "fcn_sgd_equalized": []}
    (tmp_path / "study_decoders.json").write_text(json.dumps(content(values)))
    table = study.tables()["decoders"]
    assert row(table, "uper\\_sgd" if "uper\\_sgd" in table else "uper_sgd")[:3] == ["2", "60.5", "62.0"]
    assert "+1.50" in table and row(table, "fcn_sgd")[1] == study.NOT_RUN
    assert study.gained("decoders", "uper_*").mean == 1.5 and study.gained("decoders", "fcn_*").n == 0
    assert study.gained("decoders", "fcn_*", "uper_*").n == study.gained("decoders", "*").n == 2
    assert study.gained("doses", "*").mean is None, "there is no such file"
    assert row(table, "all pairs")[3] == "+1.50 (-4.85 to +7.85); 0 of 2 below 0" and row(table, "all pairs")[4] == ""
    assert row(table, "the rows, each as one")[::3] == ["1", "+1.50 (-); 0 of 1 below 0"]
    assert row(table, "all pairs")[0] == "2" and study.counts()["decoders"] == 4
    both = {"sgd_0.06": [42.4], "sgd_0.06_equalized": [42.6]}
    (tmp_path / "study_rates.json").write_text(json.dumps(content(both)))
    assert row(study.tables()["rates"], "SGD, 0.06") == ["42.4", "42.6", "42.5"]
    dosed_values = {"uper_sgd_x100": [50.0, 52.0], "uper_sgd_x100_equalized": [60.0, 60.0]}
    (tmp_path / "study_doses.json").write_text(json.dumps(content(values | dosed_values)))
    cells = row(study.tables()["doses"], "uper_sgd")
    assert cells[0] == study.NOT_RUN and cells[2] == "60.5" and cells[5].startswith("+9.00")


def test_a_table_of_fusions_has_each_metric_and_adjusts_over_all_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    from scaleeq.experiments.sections import compare_pairs, summary_of

    def part(metric, fpn, fapn):
        by_seed = {"fpn": dict(enumerate(fpn)), "fapn": dict(enumerate(fapn))}
        return {
            "metric": metric, "unit": "%", "variants": {name: summary_of(each) for name, each in by_seed.items()},
            "comparisons": compare_pairs(by_seed, {"fapn": "fpn"}, metric),
        }  # fmt: skip

    of_boundary = part("sem_seg/boundary_F_3px", [30.0, 30.0, 30.0], [31.0, 32.0, 31.5])
    first = part("sem_seg/mIoU", [40.0, 41.0, 42.0], [40.0, 43.0, 41.0]) | {"more": [of_boundary]}
    (tmp_path / "study_fusions.json").write_text(json.dumps(first))
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in study.tables()["fusions"].splitlines()[2:]]
    assert [line[1] for line in lines] == ["fpn", "fapn"] * 2 and lines[0][4:] == ["-"] * 3
    assert [line[3] for line in lines] == ["41.0", "41.3", "30.0", "31.5"]
    assert lines[3][4].startswith("+1.50 (+0.26 to +2.74)")
    p = [float(line[5]) for line in lines[1::2]]
    assert [float(line[6]) for line in lines[1::2]] == pytest.approx([p[0], 2 * p[1]], abs=0.002) and p[1] < p[0]


def test_what_fusions_cost_is_measured_of_the_plans_variants():
    plan, content = study.plan_of("fusions"), read_json(fusions_cost.RESULT)
    assert list(content["variants"]) == [variant.name for variant in plan.variants]
    for variant in plan.variants:
        of, cfg = content["variants"][variant.name], variant.load()
        counted = count_config(cfg, tuple(content["size"])).as_dict()
        assert content["size"] == list(cfg.INPUT.CROP.SIZE) and content["batch"] == cfg.SOLVER.IMS_PER_BATCH
        assert (of["params"], of["macs"]) == (counted["params"], counted["macs"])
        assert of["training_ratio"] == of["training_s"] / content["variants"]["fpn"]["training_s"]
    counts, times = fusions_cost.cost_tables().split("\n\n")
    fapn = content["variants"]["fapn"]
    name = next(line.split("|")[1].strip() for line in times.splitlines() if "fapn" in line)
    assert f"{fapn['params'] / 1e6:.2f}" in row(counts, name)
    assert row(times, name)[4] == f"{fapn['training_ratio']:.2f}" and row(times, name)[-1] == f"{fapn['peak_mib']:.0f}"


def test_runs_that_were_recorded_are_not_trained_again_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "RESULTS", tmp_path / "results")
    plan = study.plan_of("fusions")
    trained = tmp_path / "here" / "fpn" / "seed_3"
    trained.mkdir(parents=True)
    metrics = dict.fromkeys(plan.metrics, 61.5) | {"iteration": 149}
    (trained / "metrics.json").write_text(json.dumps(metrics) + "\n")
    torch.save({"model": {"weight": torch.ones(2)}}, trained / "model_final.pth")
    runs.finish_run(trained, {"seconds": 90.0, "peak_mib": 800, "engine": "standalone 0.6"})
    first = study.collect(plan, tmp_path / "here", code="abc1234")
    run = first["variants"]["fpn"]["runs"]["3"]
    assert run["value"] == 61.5 and run["weights_sha256"] == hash_weights({"weight": torch.ones(2)})[:16]
    assert run["code"] == "abc1234"
    study.restore(plan, tmp_path / "there")
    assert [path.parent.name for path in tmp_path.glob("there/*/*/run.json")] == ["seed_3"]
    assert not runs.changed_keys(tmp_path / "there" / "fpn" / "seed_3", flat(plan.variants[0].load(3)))
    assert study.collect(plan, tmp_path / "there", code="another") == first, "the commit is that which trained"
    (tmp_path / "there" / "fpn" / "seed_3" / "run.json").unlink()  # as a kill leaves it
    study.restore(plan, tmp_path / "there")
    assert study.collect(plan, tmp_path / "there") == first
    study.restore(dataclasses.replace(plan, sha256="of a plan that was changed"), tmp_path / "changed")
    assert not (tmp_path / "changed").exists()


def test_a_run_that_is_recorded_is_not_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "RESULTS", tmp_path / "results")
    plan = dataclasses.replace(study.plan_of("fusions"), seeds=(3,))
    for variant, _ in plan.runs():
        folder = tmp_path / "here" / variant.name / "seed_3"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(dict.fromkeys(plan.metrics, 61.5) | {"iteration": 149}) + "\n")
        runs.finish_run(folder, {"seconds": 90.0, "peak_mib": 800, "engine": "standalone 0.6"})
    study.collect(plan, tmp_path / "here")
    monkeypatch.setattr(study, "plan_of", lambda name: plan)
    monkeypatch.setattr(study, "execute", lambda plan, output, **_: missing(plan, output))
    assert study.run(["fusions"], tmp_path / "there", jobs=1) == 0


def missing(plan, output):
    """Runs that `execute` would train."""
    return [f for v, seed in plan.runs() if not (f := output / v.name / f"seed_{seed}" / "run.json").is_file()]


def test_figures_show_what_was_run_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    assert study_figures.drawn() == {}
    names = [variant.name for variant in study.plan_of("doses").variants]
    run = {"psp_sgd": [40.0, 42.0], "psp_sgd_x100": [35.0, 36.0]}
    of_doses = content({name: run.get(name, []) for name in names})
    for name, values in run.items():
        of_doses["variants"][name]["runs"] = {str(seed): {"value": value} for seed, value in enumerate(values)}
    (tmp_path / "study_doses.json").write_text(json.dumps(of_doses))
    values = {
        "sep_aspp_adamw": [40.0, 42.0],
        "sep_aspp_adamw_equalized": [41.0, 44.0],
        "psp_sgd": [],
        "psp_sgd_equalized": [],
    }
    (tmp_path / "study_decoders.json").write_text(json.dumps(content(values)))
    figures = study_figures.drawn()
    (psp,) = [axis for axis in figures["trained_doses"].axes if axis.get_title() == "PSP"]
    assert [list(map(list, line.get_data())) for line in psp.lines if len(line.get_xdata())] == [
        [[1.0, 100.0], [41.0, 35.5]], [[1.0, 1.0, 100.0, 100.0], [40.0, 42.0, 35.0, 36.0]],
    ]  # fmt: skip
    (axis,) = figures["trained_decoders"].axes
    assert [text.get_text() for text in axis.get_yticklabels()] == ["separable ASPP, AdamW", "all 2 pairs"]
    written = probe_figures.write_figures(figures, tmp_path)
    assert [path.suffix for path in written] == [".png", ".pdf"] * 2 and all(
        path.stat().st_size > 5000 for path in written
    )


def test_results_that_were_written_do_not_make_the_code_another(tmp_path, monkeypatch):
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@x", "-C", str(tmp_path)]
    for folder in (*study.CODE, "docs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file").write_text("")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "m"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(study, "ROOT", tmp_path)
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    (tmp_path / "docs" / "file").write_text("results")
    assert head and study.commit() == head
    (tmp_path / "evidence" / "file").write_text("code")
    assert study.commit() == f"{head}-dirty"
