"""Tasks that take other tasks' first predictions. Oracles: PAD-Net's formula by hand, the model without an interaction.

The interaction `adding` is tests/tasks/adding.py, the second task tests/tasks/mean_colour.py.
"""

from __future__ import annotations

import json

import pytest
import torch

import tests.tasks.adding
from scaleeq import calibrate, fold_equalizers
from scaleeq.ops import resize
from scaleeq.tasks import PadNet, register_interaction
from scaleeq.tasks.joint import joint_losses
from scaleeq.tasks.weighting import collected_task_losses
from scaleeq.training.pcgrad import split_parameters
from scaleeq.training.step import TrainingStep

from .mean_colour import MeanColour
from .test_joint import EQUALIZED, PLAIN_HEADS, TASKS, make, make_batch
from .test_joint import config as two_tasks
from .test_joint_dense import config as four_tasks
from .test_joint_runs import check_resumed, run, states_of

PAD_NET = {"MODEL__TASKS__INTERACTION": "pad_net"}


def test_pad_net_is_its_formula():
    """F + sum of sigmoid(conv(F)) * F_t, then a block; F_t is a block of the other task's prediction."""
    torch.manual_seed(0)
    module = PadNet(8, {"a": 3, "b": 1}, norm=None)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    fused, first = torch.randn(2, 8, 6, 7), {"a": torch.randn(2, 3, 6, 7), "b": torch.randn(2, 1, 3, 4)}
    conv = torch.nn.functional.conv2d
    expected = fused
    for name, prediction in first.items():
        branch = module.fusion.branches[name]
        w, g = branch.lateral.conv, branch.transfer.attention
        message = resize(conv(prediction, w.weight, w.bias, padding=1).relu(), (6, 7))
        expected = expected + conv(fused, g.weight, g.bias, padding=1).sigmoid() * message
    last = module.fusion.mix.conv
    expected = conv(expected, last.weight, last.bias, padding=1).relu()
    torch.testing.assert_close(module(fused, first), expected)


def test_each_task_predicts_twice_and_both_have_its_losses(tmp_path):
    model, batch = make(tmp_path, MODEL__TASKS__WEIGHTS=[0.5, 10.0], **PLAIN_HEADS, **PAD_NET), make_batch((64, 96))
    model.eval()  # of norms and dropout: the maps by hand are those of the forward
    images = model.preprocess(batch)
    size, features = images.tensor.shape[-2:], model.backbone(images.tensor)
    targets = {name: task.targets(batch, size, model.device) for name, task in model.tasks.items()}
    maps = model.decoders(features)
    first = {name: task.first(maps[name]) for name, task in model.tasks.items()}
    final = {
        "sem_seg": model.tasks["sem_seg"].interaction(maps["sem_seg"], {"mean_colour": first["mean_colour"]}),
        "mean_colour": model.tasks["mean_colour"].interaction(maps["mean_colour"], {"sem_seg": first["sem_seg"]}),
    }
    final = {name: task.classifier(final[name]) for name, task in model.tasks.items()}
    found = joint_losses(model.decoders, model.tasks, features, targets)
    for name, task in model.tasks.items():
        assert list(found[name]) == [f"loss_{name}", f"loss_{name}_first"]
        for key, prediction in ((f"loss_{name}", final[name]), (f"loss_{name}_first", first[name])):
            (expected,) = task.losses(prediction, targets[name]).values()
            torch.testing.assert_close(found[name][key], expected)
        torch.testing.assert_close(model.logits(images.tensor)[name], final[name])
    with collected_task_losses() as told:
        weighted = model.losses(features, targets)
    torch.testing.assert_close(told.totals["mean_colour"], 10 * sum(found["mean_colour"].values()))
    torch.testing.assert_close(weighted["loss_sem_seg_first"], 0.5 * found["sem_seg"]["loss_sem_seg_first"])


def test_what_a_checkpoint_has_of_it_and_that_all_else_begins_the_same(tmp_path):
    plain, model = make(tmp_path).state_dict(), make(tmp_path, **PAD_NET).state_dict()
    own = {name for name in model if name not in plain}
    assert {".".join(name.split(".")[:3]) for name in own} == {
        f"tasks.{task}.{part}" for task in TASKS for part in ("first", "interaction")
    }
    assert plain.keys() <= model.keys()
    different = [name for name in plain if not torch.equal(model[name], plain[name])]
    assert not [name for name in different if name.startswith(("backbone.", "decoders.", "tasks."))]


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_task_without_a_truth_adds_nothing_and_each_parameter_has_a_gradient(tmp_path, everywhere):
    model, batch = make(tmp_path, **PAD_NET), make_batch((64, 64), (64, 64))
    for sample in batch if everywhere else batch[:1]:
        del sample["mean_colour"]
    losses = model(batch)
    sum(losses.values()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())
    assert (float(losses["loss_mean_colour_first"].detach()) == 0.0) == everywhere


def test_the_losses_are_the_whole_batchs_however_it_is_cut(tmp_path):
    model = make(tmp_path, **PAD_NET)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    batch = make_batch(*[(64, 64)] * 4)
    batch[0]["sem_seg"][:40] = 255
    del batch[1]["mean_colour"]
    found = []
    for size in (4, 2, 1):
        step = TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.1), micro_batch=size)
        losses, norm = step.backward(batch, 0)
        found.append({name: float(loss) for name, loss in losses.items()} | {"norm": float(norm)})
    assert found[1] == pytest.approx(found[0], rel=1e-5) and found[2] == pytest.approx(found[0], rel=1e-5)


@pytest.mark.parametrize("scope", ["head", "all"])
def test_it_is_calibrated_and_folded(tmp_path, scope):
    model = make(tmp_path, MODEL__SCALE_EQUALIZER__SCOPE=scope, **EQUALIZED, **PAD_NET)
    report = calibrate(model, [make_batch((64, 64), (64, 96))] * 2, num_images=4)
    assert {f"tasks.{task}.interaction.fusion" for task in TASKS} < set(report.fusions)
    folded, images = fold_equalizers(model), torch.rand(1, 3, 64, 64)
    assert not any(".equalizers." in name for name in folded.state_dict())
    expected = model.eval().logits(images)
    for name, found in folded.eval().logits(images).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-4, atol=1e-5)


def test_pcgrad_projects_what_makes_first_predictions(tmp_path):
    model = make(tmp_path, MODEL__TASKS__WEIGHTING="pcgrad", **PAD_NET)
    names = {id(p): name for name, p in model.named_parameters()}
    shared, own = ({names[id(p)] for p in part} for part in split_parameters(model))
    assert {"tasks.sem_seg.first.weight", "decoders.mean_colour.fusion.mix.conv.weight"} <= shared
    assert all(".interaction." in name or ".classifier." in name or name.startswith("aux_heads.") for name in own)
    assert len(shared) + len(own) == len(names)


def test_four_tasks_train_with_pad_net_and_the_record_says_who_pulls(tmp_path):
    _, results = run(four_tasks(tmp_path, SOLVER__MAX_ITER=2, **PAD_NET))
    assert {"sem_seg", "depth", "normals", "edges"} == set(results)
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert {"loss_depth", "loss_depth_first"} <= {name for line in lines for name in line}
    fusions = json.loads((tmp_path / "scale_statistics.json").read_text())["at_start"]["fusions"]
    (branch, *_) = fusions["decoders.depth.fusion"]["branches"].values()
    assert branch["map_gradient_normals"] > 0, "through the first prediction of depth"
    own = fusions["tasks.depth.interaction.fusion"]["branches"]
    assert set(own) == {"own", "sem_seg", "normals", "edges"} and all(
        each["std_equalized"] > 0 for each in own.values()
    )


def test_an_interaction_is_one_file(tmp_path, monkeypatch):
    """It trains; a task may come after some of the others alone, or after none, and then predicts once."""
    monkeypatch.setattr(MeanColour, "after", ())
    keys = {"MODEL__TASKS__INTERACTION": "adding", "SOLVER__MAX_ITER": 2, "TEST__EVAL_PERIOD": 2}
    trainer, results = run(two_tasks(tmp_path, **keys))
    assert set(results) == set(TASKS)
    names = {name for name in trainer.storage.latest() if name.startswith("loss_")}
    assert {"loss_sem_seg", "loss_sem_seg_first", "loss_mean_colour"} <= names
    assert "loss_mean_colour_first" not in names
    state = states_of(tmp_path)
    assert "tasks.sem_seg.interaction.convs.mean_colour.weight" in state
    assert not any(name.startswith("tasks.mean_colour.first") for name in state)


def test_refusals(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"MODEL\.TASKS\.INTERACTION is 'padnet'; .*did you mean pad_net"):
        two_tasks(tmp_path, MODEL__TASKS__INTERACTION="padnet")
    with pytest.raises(ValueError, match=r"INTERACTION is 'pad_net', which is for several tasks"):
        two_tasks(tmp_path, MODEL__TASKS__NAMES=["sem_seg"], **PAD_NET)
    with pytest.raises(ValueError, match=r"an interaction 'pad_net' already, .*pad_net\.PadNet"):
        register_interaction("pad_net")(tests.tasks.adding.Adding)
    monkeypatch.setattr(MeanColour, "after", ("depth",))
    with pytest.raises(ValueError, match=r"mean_colour comes after 'depth', .* there are sem_seg, mean_colour"):
        make(tmp_path, **PAD_NET)


@pytest.mark.slow
def test_a_resumed_run_ends_as_the_unbroken_one(tmp_path):
    changes = {**EQUALIZED, **PAD_NET, "SOLVER__CHECKPOINT_PERIOD": 2, "SOLVER__MAX_ITER": 3}
    check_resumed(four_tasks(tmp_path / "whole", **changes), four_tasks(tmp_path / "broken", **changes))
